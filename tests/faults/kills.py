"""kill -9 at random moments of every stage, until the work is done; the files must be the same.

A command runs in a fork of a process that has imported everything, so that a kill costs tenths of
a second; several processes are started by torch's own launcher, which costs the imports each time.
"""

import contextlib
import importlib
import os
import random
import shutil
import signal
import subprocess
import sys
import time
import traceback

from workdirs import (
    digests,
    quick_settings,
    rows_without_times,
    write_arrays,
    write_files,
    write_preset,
)

# Says who it is once the imports are over, so that kills fall into the work and not before it.
WORKER = (
    "import os, sys, gvbsm.pipeline, gvbsm.reporting, gvbsm.continual; "
    "print('READY', os.getpid(), flush=True); "
    "from gvbsm.cli import main; sys.exit(main(sys.argv[1:]))"
)


class Forked:
    """A command in a fork of this process."""

    def __init__(self, arguments, log):
        sys.stdout.flush()
        sys.stderr.flush()
        self._pid, self._code = os.fork(), None
        if self._pid == 0:
            self._work(arguments, log)

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
        """Exit code if it ends within so many seconds (None: however long), else None."""
        end = None if seconds is None else time.monotonic() + seconds
        while self._code is None and (end is None or time.monotonic() < end):
            pid, status = os.waitpid(self._pid, os.WNOHANG)
            if pid:
                self._code = os.waitstatus_to_exitcode(status)
            else:
                time.sleep(0.002)
        return self._code

    def kill(self, _chance):
        os.kill(self._pid, signal.SIGKILL)
        _, status = os.waitpid(self._pid, 0)
        self._code = os.waitstatus_to_exitcode(status)


class Launched:
    """A command in several processes; all of them are killed, or one alone."""

    def __init__(self, arguments, log, processes):
        launcher = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}"]
        command = [*launcher, "--no-python", sys.executable, "-c", WORKER, *arguments]
        self._log = log.open("a")
        self._process = subprocess.Popen(
            [sys.executable, *command], stdout=subprocess.PIPE, stderr=self._log, text=True,
            start_new_session=True,
        )  # fmt: skip
        assert self._process.stdout is not None
        self._workers = []
        while len(self._workers) < processes and (line := self._process.stdout.readline()):
            if "READY" in line:
                self._workers.append(int(line.split()[-1]))

    def wait(self, seconds):
        try:
            self._process.communicate(timeout=seconds)
        except subprocess.TimeoutExpired:
            return None
        self._log.close()
        return self._process.returncode

    def kill(self, chance):
        with contextlib.suppress(ProcessLookupError):
            if chance.random() < 0.5:
                os.kill(chance.choice(self._workers), signal.SIGKILL)
                with contextlib.suppress(subprocess.TimeoutExpired):
                    self._process.communicate(timeout=60)
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.communicate()
        self._log.close()


def start(arguments, log, processes):
    return Forked(arguments, log) if processes == 1 else Launched(arguments, log, processes)


def finish(command, log, processes):
    """Let a command end by itself."""
    code = start(command, log, processes).wait(None)
    assert code == 0, f"exit code {code} of {' '.join(command)}:\n{log.read_text()[-3000:]}"


def commands(folder):
    """What is killed: name -> the command without its work directory."""
    arrays = {"name": "npz", "root": str(write_arrays(folder / "toy.npz"))}
    files = {"name": "folder", "root": str(write_files(folder / "files")), "in_memory": False,
             "workers": 0}  # fmt: skip
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
        work = start(command, log, processes)
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
    for module in ("pipeline", "continual", "reporting"):  # before a fork
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
