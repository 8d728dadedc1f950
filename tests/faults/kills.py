"""kill -9 at random moments of every stage, until the work is done; the files must be the same.

A command runs in forks of a process that has imported everything, so that a kill costs tenths of a
second.
"""

import importlib
import os
import random
import shutil
import signal
import socket
import sys
import time
import traceback

from support.workdirs import (
    digests,
    quick_settings,
    rows_without_times,
    write_arrays,
    write_files,
    write_preset,
)


class Work:
    """A command in forks of this process, told who they are as torch's launcher tells it."""

    def __init__(self, arguments, log, processes):
        sys.stdout.flush()
        sys.stderr.flush()
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        self._running, self._codes = [], []
        for rank in range(processes):
            if (pid := os.fork()) == 0:
                if processes > 1:
                    os.environ |= {
                        "RANK": str(rank),
                        "LOCAL_RANK": str(rank),
                        "WORLD_SIZE": str(processes),
                        "LOCAL_WORLD_SIZE": str(processes),
                        "MASTER_ADDR": "127.0.0.1",
                        "MASTER_PORT": str(port),
                    }
                self._work(arguments, log)
            self._running.append(pid)

    @staticmethod
    def _work(arguments, log):
        code = 70
        try:
            with log.open("a") as file:
                os.dup2(file.fileno(), 1)
                os.dup2(file.fileno(), 2)
                try:
                    from gvbsm.cli import main

                    code = main(arguments)
                except BaseException:
                    traceback.print_exc()
                sys.stdout.flush()
                sys.stderr.flush()
        finally:
            os._exit(code)

    def wait(self, seconds):
        """Largest exit code if all end within so many seconds (None: however long), else None."""
        end = None if seconds is None else time.monotonic() + seconds
        while self._running and (end is None or time.monotonic() < end):
            for pid in list(self._running):
                ended, status = os.waitpid(pid, os.WNOHANG)
                if ended:
                    self._running.remove(pid)
                    self._codes.append(os.waitstatus_to_exitcode(status))
            time.sleep(0.002)
        return None if self._running else max(self._codes, key=abs)

    def kill(self, chance):
        """Kill all processes at once; or one, and the others a moment later."""
        if chance.random() < 0.5:
            os.kill(chance.choice(self._running), signal.SIGKILL)
            time.sleep(chance.uniform(0, 0.3))
        for pid in self._running:
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)


def finish(command, log, processes):
    """Let a command end by itself."""
    code = Work(command, log, processes).wait(None)
    assert code == 0, f"exit code {code} of {' '.join(command)}:\n{log.read_text()[-3000:]}"


def commands(folder):
    """What is killed: name -> the command without its work directory."""
    arrays = {"name": "npz", "root": str(write_arrays(folder / "toy.npz"))}
    files = {
        "name": "folder",
        "root": str(write_files(folder / "files")),
        "in_memory": False,
        "workers": 0,
    }
    presets = {
        "arrays": quick_settings(arrays),
        "files": quick_settings(files, baselines={"methods": ["k-center-soft"]}),
    }
    written = {
        name: str(write_preset(folder / f"{name}.yaml", settings))
        for name, settings in presets.items()
    }
    return {
        "run arrays": ["run", written["arrays"]],
        "run files": ["run", written["files"]],
        "continual arrays": ["continual", written["arrays"], "--continual.steps", "2"],
    }


def compare(name, workdir, reference, log):
    """That two work directories hold the same."""
    found, expected = digests(workdir), digests(reference)
    differ = sorted(key for key in {*found, *expected} if found.get(key) != expected.get(key))
    assert not differ, f"{name}: other files after kills: {differ}\n{log.read_text()[-3000:]}"
    assert rows_without_times(workdir) == rows_without_times(reference)


def disturb(command, workdir, log, kills, chance, processes):
    """Start a command again and again and kill it; then let it end. Returns kills that struck."""
    struck = 0
    for _ in range(kills):
        work = Work(command, log, processes)
        # mostly soon, so that every stage is struck; now and then late, in the report
        wait = chance.uniform(0.02, 1.2) if chance.random() < 0.85 else chance.uniform(1, 10)
        if (code := work.wait(wait)) is not None:
            assert code == 0, f"exit code {code}:\n{log.read_text()[-3000:]}"
            break
        work.kill(chance)
        struck += 1
    finish(command, log, processes)
    return struck


def run_kills(folder, count, seed=0, processes=1, tell=print):
    """Kill `count` times over all commands; raises AssertionError at the first difference."""
    for module in ("api", "pipeline.continual", "reporting"):  # before a fork
        importlib.import_module(f"gvbsm.{module}")
    chance, log = random.Random(seed), folder / "log.txt"
    plans, references = commands(folder), {}
    options = ["--quiet"]
    for name, command in plans.items():
        references[name] = folder / f"reference-{name.replace(' ', '-')}"
        if name.startswith("continual"):
            shutil.copytree(references["run arrays"], references[name])
        finish([*command, "--workdir", str(references[name]), *options], log, processes)
    total, rounds = 0, 0
    while total < count:
        name, command = list(plans.items())[rounds % len(plans)]
        workdir = folder / f"round-{rounds}"
        if name.startswith("continual"):  # what a run has made is there already
            shutil.copytree(references["run arrays"], workdir)
        full = [*command, "--workdir", str(workdir), *options]
        kills = min(chance.randint(10, 25), count - total)
        total += disturb(full, workdir, log, kills, chance, processes)
        compare(name, workdir, references[name], log)
        shutil.rmtree(workdir)
        rounds += 1
        tell(f"{name}: {total} of {count} kills, same files")
    return total
