"""A command that starts the other processes of its run itself, and ends them."""

import contextlib
import os
import re
import signal
import subprocess
import sys
import time

import psutil
import pytest

import gvbsm
from gvbsm.cli import main, starting
from gvbsm.cli.signals import Handler
from gvbsm.config import Config, ConfigError
from gvbsm.config.build import build_config
from gvbsm.data.sources.catalog import SOURCES
from support.launch import environment
from support.workdirs import digests, quick_settings, rows_without_times, write_arrays, write_preset

# A job in the background ignores Ctrl-C, and one under nohup SIGHUP; this one shall not.
COMMAND = """
import signal
signal.signal(signal.SIGINT, signal.default_int_handler)
signal.signal(signal.SIGHUP, signal.SIG_DFL)
from gvbsm.cli import entry
entry()
"""
TWO = ("--processes", "2")


# How many


@pytest.fixture
def machine(monkeypatch):
    """Call it with cores and bytes of memory that the machine shall have."""

    def with_limits(cores=4, memory=64 * 10**9):
        monkeypatch.setattr(starting, "usable_cores", lambda: cores)
        monkeypatch.setattr(starting, "available_memory", lambda: memory)

    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    with_limits()
    return with_limits


def count(**settings):
    return starting.count_processes(build_config({"device": "cpu", **settings}))


@pytest.mark.parametrize(
    ("cores", "processes"), [(1, 1), (2, 2), (3, 3), (8, 8), (12, 6), (15, 7), (64, 8)]
)
def test_auto_uses_the_cores_by_at_most_eight_processes(cores, processes, machine):
    machine(cores)
    assert count() == processes


@pytest.mark.parametrize(("memory", "processes"), [(10**9, 1), (5 * 10**9, 2), (None, 4)])
def test_auto_starts_what_fits_into_the_memory(memory, processes, machine):
    machine(memory=memory)
    assert count(data={"name": "cifar10", "root": "x", "image_size": 32}) == processes


def test_large_pictures_take_more_memory():
    sides = (32, 64, 224)
    needs = [
        starting.process_bytes(build_config({"data": {"name": "folder", "image_size": side}}))
        for side in sides
    ]
    assert needs == sorted(needs)

    def unknown(name):
        return starting.process_bytes(build_config({"data": {"name": name}}))

    cifar = {"cifar10", "cifar100"}
    large = {"folder", "imagenette", "imagenet-1k", "webdataset", "hub", "hub/USER/NAME"}
    assert {name: unknown(name) for name in SOURCES if name != "digits"} == {
        name: needs[0] if name in cifar else needs[2] if name in large else needs[1]
        for name in SOURCES
        if name != "digits"
    }
    assert unknown("digits") < needs[0]


@pytest.mark.parametrize(("batch", "measured"), [(64, 1.379e9), (256, 2.355e9)])
def test_a_process_has_the_memory_of_a_resnet18_on_cifar(batch, measured):
    """Peak of a process that trains one at 32 px in fp32, without the pictures."""
    settings = {"data": {"name": "cifar10"}, "squeeze": {"batch_size": batch}}
    estimate = starting.process_bytes(build_config(settings))
    assert measured < estimate < 1.2 * measured


def test_auto_is_one_process_where_threads_are_given(machine, monkeypatch):
    assert count(threads=1) == 1
    assert count(threads=1, processes=3) == 3
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    assert count() == 1


def test_auto_is_one_process_on_a_gpu_or_where_all_would_train_together(machine, monkeypatch):
    assert count(device="cuda") == 1
    assert count(squeeze={"parallel": "pictures"}) == 1
    monkeypatch.setattr(starting, "may_have_gpu", lambda: True)
    for available, processes in ((True, 1), (False, 4)):
        monkeypatch.setattr("torch.cuda.is_available", lambda available=available: available)
        assert count(device="auto") == processes


def test_a_number_of_processes_must_be_positive():
    with pytest.raises(ConfigError, match="processes must be positive"):
        build_config({"processes": 0})
    assert Config().processes == "auto"


def test_a_script_that_calls_main_and_a_launcher_start_none(machine, monkeypatch):
    monkeypatch.setattr(subprocess, "Popen", None)
    config = build_config({"processes": 2})
    starting.Others().start(config)
    monkeypatch.setenv("WORLD_SIZE", "1")
    starting.Others(Handler()).start(config)


# What they make


@pytest.fixture(scope="module")
def preset(tmp_path_factory):
    """A preset of all stages whose synthesis is a single group of images."""
    folder = tmp_path_factory.mktemp("data")
    arrays = {"name": "npz", "root": str(write_arrays(folder / "toy.npz"))}
    settings = quick_settings(arrays, baselines={"methods": ["random-soft", "teacher"]})
    settings["synthesis"]["batch_size"] = 8
    time.sleep(2.5)  # pictures that are younger than two seconds are not noted as finished
    return write_preset(folder / "toy.yaml", settings)


def started(*arguments, variables=(), **options):
    return subprocess.Popen(
        [sys.executable, "-c", COMMAND, *map(str, arguments)],
        env=environment(**dict(variables)),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        **options,
    )


def test_two_processes_make_the_bytes_of_one_and_a_finished_run_starts_none(preset, tmp_path):
    workdir, alone = tmp_path / "two", tmp_path / "one"
    command = ("run", preset, "--workdir", workdir, *TWO)
    out, err = started(*command).communicate(timeout=240)
    assert err.partition("\n")[0].endswith(" 2 processes of 1 thread each")
    assert "distilled set:" in out
    assert (workdir / ".gvbsm-files-1.jsonl").is_file()  # the second has made files, too
    gvbsm.run(str(preset), alone, quiet=True)
    assert main(["report", str(alone), "--quiet"]) == 0
    assert digests(workdir) == digests(alone)
    assert rows_without_times(workdir) == rows_without_times(alone)
    out_again, err = started(*command).communicate(timeout=240)
    assert out_again == out
    assert "2 processes" not in err


# How they end


@pytest.fixture
def squeezing(preset, tmp_path):
    """Call it to start a command that trains for hours in two processes: both of them.

    Nothing is compiled: a signal waits for the end of a step, and not for that of a compilation.

    Args:
        at_work: Whether to wait until both train, instead of for their start alone.
    """
    running = []
    variables = {"TORCHDYNAMO_DISABLE": "1", "HOME": str(tmp_path / "home")}

    def start(at_work):
        workdir = tmp_path / "w"
        command = ("squeeze", preset, "--workdir", workdir, *TWO)
        epochs = ("--squeeze.epochs", "1000000")
        first = started(*command, *epochs, "--quiet", variables=variables)
        running.append(first)
        end = time.monotonic() + 120
        while time.monotonic() < end and first.poll() is None:
            others = psutil.Process(first.pid).children(recursive=True)
            trained = {*workdir.glob("squeeze/*.partial.safetensors")}
            if others and (len(trained) == 2 or not at_work):
                running.extend(others)
                return first, *others
            time.sleep(0.05)
        raise AssertionError(first.communicate()[1])

    yield start
    for process in running:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.kill()
    running[0].communicate()


def ended(first, other):
    """Exit code and errors of the first process; the other must have ended, too."""
    error = first.communicate(timeout=60)[1]
    psutil.wait_procs([other], timeout=15)
    assert not other.is_running()
    return first.returncode, error


RESUMES = "; the same command goes on from the last checkpoint\n"
KEPT = r"(; kept: squeeze \S+ at step [\d,]+ of [\d,]+)?"


@pytest.mark.parametrize(
    ("name", "at_work", "code", "error"),
    [
        ("SIGINT", False, 130, "\nstopped"),
        ("SIGINT", True, 130, "\nstopped"),
        ("SIGTERM", True, 143, "gvbsm: stopped by SIGTERM"),
        ("SIGHUP", False, 129, "gvbsm: stopped by SIGHUP"),
    ],
)
def test_a_signal_to_all_ends_all_with_one_message(name, at_work, code, error, squeezing):
    first, other = squeezing(at_work)
    os.killpg(first.pid, getattr(signal, name))
    found, told = ended(first, other)
    assert found == code
    assert re.fullmatch(f"{error}{KEPT}{RESUMES}", told)


def test_sigterm_to_the_first_ends_all(squeezing):
    first, other = squeezing(at_work=False)
    first.terminate()
    code, told = ended(first, other)
    assert code == 143
    assert re.fullmatch(f"gvbsm: stopped by SIGTERM{KEPT}{RESUMES}", told)


def test_a_signal_to_the_first_lets_each_save_its_first_checkpoint(preset, tmp_path):
    workdir = tmp_path / "w"
    command = ("squeeze", preset, "--workdir", workdir, *TWO, "--checkpoint_seconds", "1e6")
    first = started(*command, "--squeeze.epochs", "1000000")
    end = time.monotonic() + 120
    while not all((workdir / name).is_file() for name in ("seconds.json", ".seconds-1.json")):
        assert time.monotonic() < end
        time.sleep(0.05)
    time.sleep(1)
    assert not [*workdir.glob("squeeze/*.partial.safetensors")]
    first.send_signal(signal.SIGUSR1)
    told = first.communicate(timeout=60)[1].splitlines()
    assert first.returncode == 138
    assert re.fullmatch(f"gvbsm: stopped by SIGUSR1{KEPT[:-1]}{RESUMES.strip()}", told[-1])
    assert len([*workdir.glob("squeeze/*.partial.safetensors")]) == 2


def test_the_others_end_when_the_first_is_killed(squeezing):
    first, other = squeezing(at_work=True)
    first.kill()
    assert ended(first, other)[0] == -signal.SIGKILL


@pytest.mark.parametrize("at_work", [False, True])
def test_the_first_ends_when_another_is_killed(at_work, squeezing):
    first, other = squeezing(at_work)
    other.kill()
    code, error = ended(first, other)
    assert code == 1
    assert re.fullmatch(
        "gvbsm: process 1 of 2 was killed, as Linux does when memory runs out; .*\n", error
    )


def test_a_fault_of_another_process_is_printed_once_and_has_its_exit_code(preset, tmp_path):
    fault = """
import os
from gvbsm.pipeline import run
from gvbsm.data.pictures import DataError
squeeze = run.squeeze_teacher
def fail(*arguments):
    if os.environ.get("RANK") == "1":
        raise DataError("broken on purpose")
    squeeze(*arguments)
run.squeeze_teacher = fail
"""
    command = ("run", preset, "--workdir", tmp_path / "w", *TWO, "--squeeze.epochs", "1000000")
    process = subprocess.Popen(
        [sys.executable, "-c", fault + COMMAND, *map(str, command), "--quiet"],
        env=environment(),
        stderr=subprocess.PIPE,
        text=True,
    )
    error = process.communicate(timeout=120)[1]
    assert (process.returncode, error) == (2, "gvbsm: process 1 of 2: broken on purpose\n")


def test_a_fault_of_the_settings_starts_nobody(capsys, monkeypatch):
    monkeypatch.setattr(subprocess, "Popen", None)
    assert main(["run", "digits", "--processes", "0"], starting.Others(Handler())) == 2
    assert capsys.readouterr().err == "gvbsm: processes must be positive, got 0\n"
