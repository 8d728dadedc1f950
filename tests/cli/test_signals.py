"""Signals end a command in order, with its workers, and with the exit code that shells give."""

import os
import re
import shlex
import signal
import subprocess
import sys
import time

import psutil
import pytest

from support.launch import environment
from support.workdirs import write_files

STREAMED = shlex.split(
    "--data.in_memory false --data.workers 2 --squeeze.backbones [convnet8_d1] "
    "--squeeze.epochs 100000 --checkpoint_seconds 0.1 --device cpu --quiet"
)


def wait_for(true, seconds=60):
    """Wait until something is true."""
    end = time.monotonic() + seconds
    while not (value := true()):
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.05)
    return value


def is_gone(process):
    """Whether a process has ended; whether somebody has asked how is not ours to say."""
    try:
        return process.status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


_started = []


def start(*arguments, **options):
    process = subprocess.Popen(
        [sys.executable, *arguments],
        env=environment(),
        stderr=subprocess.PIPE,
        text=True,
        **options,
    )
    _started.append(process)
    return process


@pytest.fixture(autouse=True)
def _killed():
    """A test that fails leaves no process behind."""
    yield
    while _started:
        with _started.pop() as process:
            process.kill()


# A job in the background ignores Ctrl-C; this one shall not.
COMMAND = """
import signal, sys
signal.signal(signal.SIGINT, signal.default_int_handler)
signal.signal(signal.SIGHUP, signal.SIG_DFL)  # ignored, if the tests run under nohup
from gvbsm.cli import entry
entry()
"""


@pytest.mark.parametrize(
    ("name", "everybody", "code", "words"),
    [
        ("SIGINT", True, 130, "\nstopped"),  # Ctrl-C reaches all processes of a terminal
        ("SIGTERM", False, 143, "gvbsm: stopped by SIGTERM"),
        ("SIGHUP", True, 129, "gvbsm: stopped by SIGHUP"),
        ("SIGUSR1", True, 138, "gvbsm: stopped by SIGUSR1"),
        ("SIGKILL", False, -9, None),
    ],
)
def test_no_worker_outlives_its_run_and_the_checkpoint_stays(
    name, everybody, code, words, tmp_path
):
    number = getattr(signal, name)
    root = write_files(tmp_path / "img", train=30)
    arguments = ("squeeze", "folder", "--data-root", root, *STREAMED, "--workdir", tmp_path / "w")
    run = start("-c", COMMAND, *map(str, arguments), start_new_session=True)
    try:
        checkpoints = (tmp_path / "w" / "squeeze").glob
        wait_for(lambda: any(checkpoints("*.partial.safetensors")) or run.poll() is not None)
        # The tracker of resources, the server that workers are forked from, and a worker.
        children = wait_for(
            lambda: len(found := psutil.Process(run.pid).children(recursive=True)) > 2 and found
        )
        if everybody:
            os.killpg(run.pid, number)
        else:
            run.send_signal(number)
        error = run.communicate(timeout=60)[1]
        wait_for(lambda: all(map(is_gone, children)), seconds=15)
    finally:
        run.kill()
    assert any(checkpoints("*.partial.safetensors"))
    assert run.returncode == code
    if words is not None:
        kept = r"kept: squeeze convnet8_d1 at step [\d,]+ of [\d,]+"
        end = "the same command goes on from the last checkpoint\n"
        assert re.fullmatch(f"{words}; {kept}; {end}", error)


DEADLOCK = """
import ctypes, os, signal, threading
from gvbsm.cli import signals
signals.GRACE_SECONDS = 0.2
signal.signal(signal.SIGINT, signal.default_int_handler)
signal.signal(signal.SIGHUP, signal.SIG_DFL)
signals.Handler().install()
libc, lock = ctypes.CDLL(None), ctypes.create_string_buffer(64)
libc.pthread_mutex_lock(lock)
threading.Timer(0.2, os.kill, (os.getpid(), signal.{name})).start()
libc.pthread_mutex_lock(lock)
"""
WAITING = """
import sys, time
from gvbsm.cli import signals
signals.Handler().install()
try:
    print("ready", flush=True)
    time.sleep(600)
except signals.Stopped as stopped:
    sys.exit(stopped.code)
"""


def stopped(process, *numbers):
    """Exit code and errors of a process that gets these signals when it is ready."""
    assert process.stdout.readline() == "ready\n"
    for number in numbers:
        process.send_signal(number)
    return process.communicate(timeout=60)[1], process.returncode


@pytest.mark.skipif(sys.platform != "linux", reason="a mutex of glibc is 40 bytes of zeros")
@pytest.mark.parametrize(("name", "code"), [("SIGTERM", 143), ("SIGHUP", 129), ("SIGINT", 130)])
def test_what_python_cannot_interrupt_is_cut_off(name, code):
    process = start("-c", DEADLOCK.format(name=name))
    error = process.communicate(timeout=60)[1]
    assert process.returncode == code
    assert error.startswith(f"gvbsm: {name}: ")
    assert error.count("\n") == 1


def test_what_is_cut_off_ends_though_nobody_reads_why():
    process = start("-c", DEADLOCK.format(name="SIGTERM"))
    process.stderr.close()
    assert process.wait(timeout=60) == 143


def test_a_second_signal_ends_the_process_at_once():
    patient = WAITING.replace(
        "sys.exit(stopped.code)", "print('ready', flush=True); time.sleep(600)"
    )
    process = start("-c", patient, stdout=subprocess.PIPE)
    assert process.stdout.readline() == "ready\n"
    process.send_signal(signal.SIGTERM)
    assert stopped(process, signal.SIGTERM) == ("", -signal.SIGTERM)


def test_an_ignored_signal_stays_ignored():
    ignoring = "import signal\nsignal.signal(signal.SIGHUP, signal.SIG_IGN)\n"
    process = start("-c", ignoring + WAITING, stdout=subprocess.PIPE)
    assert stopped(process, signal.SIGHUP, signal.SIGTERM) == ("", 143)
