"""Hostile inputs by the hundred, each in a fork of a server that has imported everything.

A traceback, a death by a signal, a hang, memory beyond `MEMORY`, a line that does not name what is
wrong, a file left behind, or one of the user's that was touched, is a harm.
"""

import hashlib
import importlib
import os
import pkgutil
import random
import shutil
import signal
import stat
import sys
import tempfile
import time
import traceback
from collections import Counter
from dataclasses import dataclass

from faults.hostile import archives, environments, manifests, names, pictures, tensors
from faults.hostile.case import Place
from faults.hostile.samples import write_samples

FAMILIES = (manifests, tensors, archives, pictures, names, environments)
PATIENCE = 3  # seconds in which processes that a case started must have ended
SECONDS, SCRIPT_SECONDS = 20, 60  # a script may start Python several times, beside other work
MEMORY = 1024**3  # bytes above those of the bare process
MOST_LINES, MOST_LETTERS = 3, 700
PYTHON = sys.executable


def all_cases():
    """Every case, by name."""
    cases = [case for family in FAMILIES for case in family.cases()]
    twice = [name for name, count in Counter(case.name for case in cases).items() if count > 1]
    assert not twice, f"several cases are named {twice}"
    return {case.name: case for case in cases}


def draw(count, seed):
    """So many cases, of each family alike."""
    chance, drawn = random.Random(seed), []
    groups = [list(family.cases()) for family in FAMILIES]
    for group in groups:
        chance.shuffle(group)
    while groups and len(drawn) < count:
        groups = [group for group in groups if group]
        drawn += [group.pop() for group in groups]
    return [case.name for case in drawn[:count]]


@dataclass(frozen=True)
class Ending:
    """How a process ended: code (negative: a signal), what it wrote, bytes, seconds, why killed."""

    code: int
    output: str
    errors: str
    memory: int
    seconds: float
    killed: str = ""


class Forks:
    """Forks that work, each in a session and a current folder of its own."""

    def __init__(self, folder):
        self.folder = folder

    def start(self, work, folder, environment):
        """Fork, and let `work` give the exit code; the process."""
        for stream in (sys.stdout, sys.stderr):
            stream.flush()
        if pid := os.fork():
            return pid
        code = 70
        try:
            os.setsid()
            os.chdir(folder)
            os.environ |= environment
            tempfile.tempdir = None
            null = os.open(os.devnull, os.O_RDONLY)
            os.dup2(null, 0)
            for descriptor, name in ((1, "output"), (2, "errors")):
                file = os.open(self.folder / name, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
                os.dup2(file, descriptor)
                os.close(file)
            code = work()
            sys.stdout.flush()
            sys.stderr.flush()
        except BaseException:
            traceback.print_exc()
            sys.stderr.flush()
        finally:
            os._exit(code)

    def end(self, pid, seconds, most=None):
        """Wait, and kill what takes more than so many seconds or resident bytes: an `Ending`."""
        started, killed = time.monotonic(), ""
        while True:
            ended, status, usage = os.wait4(pid, os.WNOHANG)
            if ended:
                break
            if not killed and time.monotonic() - started > seconds:
                killed = f"hangs for {seconds} s"
            elif not killed and most is not None and resident(pid) > most:
                killed = f"takes more than {most / 2**20:.0f} MiB"
            if killed:
                kill_session(pid)
            time.sleep(0.005)
        took, memory = time.monotonic() - started, usage.ru_maxrss * 1024
        if kill_session(pid, patience=0 if killed else PATIENCE) and not killed:
            killed = "leaves a process behind"
        if most is not None and memory > most and not killed:  # between two looks
            killed = f"takes more than {most / 2**20:.0f} MiB"
        texts = [(self.folder / name).read_text(errors="replace") for name in ("output", "errors")]
        return Ending(os.waitstatus_to_exitcode(status), *texts, memory, took, killed)


class Server(Forks):
    """Has imported everything and written the samples; each case gets a fork and a home."""

    def __init__(self, folder):
        super().__init__(folder)
        import gvbsm

        os.environ |= {"HF_HUB_OFFLINE": "1", "HF_HOME": str(folder / "hf")}
        for module in pkgutil.walk_packages(gvbsm.__path__, "gvbsm."):
            if not module.name.endswith("__main__"):
                importlib.import_module(module.name)
        for name in ("datasets", "pyarrow.parquet", "jsonargparse", "matplotlib.pyplot"):
            importlib.import_module(name)
        self.samples = folder / "samples"
        write_samples(self.samples)
        self._warm = self.end(self.start(lambda: 0, folder, {}), SECONDS).memory
        bare = f'"{PYTHON}" -c "import torch, torchvision, gvbsm.pipeline.run"'
        self._bare = self.end(self.start(lambda: shell(bare), folder, {}), SCRIPT_SECONDS).memory

    def attempt(self, case, seed):
        """Run a case; what harm it did (None: none), bytes above the bare process, seconds."""
        place = self.folder / "case"
        clear(place)
        for name in ("here", "home", "tmp"):
            (place / name).mkdir(parents=True)
            if name != "tmp":
                (place / name / "mine.txt").write_text("mine")
        here = Place(place / "here", self.samples, random.Random(f"{seed}/{case.name}"))
        command = case.make(here)
        environment = {
            "HOME": str(place / "home"),
            "TMPDIR": str(place / "tmp"),
            "PYTHON": PYTHON,
            "SAMPLES": str(self.samples),
            "OMP_NUM_THREADS": "1",
            **command.environment,
        }
        before, samples = tree(place), tree(self.samples)
        if command.script is None:
            bare, seconds, work = self._warm, SECONDS, lambda: gvbsm(command.arguments)
        else:
            bare, seconds, work = self._bare, SCRIPT_SECONDS, lambda: shell(command.script)
        pid = self.start(work, place / "here", environment)
        ending = self.end(pid, seconds, bare + MEMORY)
        harms = [harm for harm in judge(command, ending) if harm]
        harms += moved(command, before, tree(place), ending.code in command.done)
        if tree(self.samples) != samples:
            harms.append("a sample was changed")
        if not harms and ending.code in command.done:
            checked = self.end(
                self.start(lambda: (command.check() and 0) or 0, place / "here", {}), SECONDS
            )
            if checked.code or checked.killed:
                last = (checked.errors.strip().splitlines() or ["nothing said"])[-1]
                harms.append(f"the result is wrong: {checked.killed} {last[:300]}")
        clear(place)
        return "; ".join(harms) or None, max(0, ending.memory - bare), ending.seconds


def gvbsm(arguments):
    """The command line as its entry point runs it."""
    from gvbsm import cli

    sys.argv = ["gvbsm", *arguments]
    try:
        cli.entry()
    except SystemExit as leaving:
        return int(leaving.code or 0)
    return 0


def shell(script):
    """Become a shell."""
    os.execv("/bin/bash", ["bash", "-c", script])


def resident(pid):
    """Bytes of a process in memory now; 0 if it has gone."""
    try:
        with open(f"/proc/{pid}/statm") as file:  # noqa: PTH123
            return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except (OSError, IndexError):
        return 0


def kill_session(pid, patience=0.0):
    """Whether processes of a session are left after so many seconds; they are killed."""
    end = time.monotonic() + patience
    while True:
        try:
            os.killpg(pid, 0)
        except ProcessLookupError:
            return False
        if time.monotonic() >= end:
            break
        time.sleep(0.02)
    os.killpg(pid, signal.SIGKILL)
    return True


def judge(command, ending):
    """Harms of how a command ended, by its code and its lines."""
    lines = ending.errors.splitlines()
    shown = ending.errors[-400:]
    if ending.killed:
        yield f"{ending.killed}: {shown}"
        return
    if "Traceback" in ending.errors or ending.code < 0:
        yield f"exit code {ending.code}, a traceback: {shown}"
        return
    if ending.code in command.done and command.check is not None:
        return
    if ending.code not in command.codes or command.refused is None:
        wanted = "refused" if command.check is None else "done"
        yield f"exit code {ending.code}, but it was to be {wanted}: {shown or ending.output[-200:]}"
        return
    if not lines or not all(line.startswith("gvbsm: ") for line in lines):
        yield f"its lines do not begin with 'gvbsm: ': {shown!r}"
    if len(lines) > MOST_LINES or max(map(len, lines), default=0) > MOST_LETTERS:
        yield f"{len(lines)} lines, the longest of {max(map(len, lines), default=0)} letters"
    if not all(line.isprintable() for line in lines):
        yield f"a line that is not printable: {shown!r}"
    if lacking := [word for word in command.refused if word not in ending.errors]:
        yield f"its lines do not name {lacking}: {shown}"


def tree(place):
    """Every file, folder, link and pipe below, with what it holds."""
    held = {}
    for folder, folders, files in os.walk(os.fsencode(place)):
        for name in (*folders, *files):
            path = os.path.join(folder, name)  # noqa: PTH118 - names that are no text
            status = os.lstat(path)
            kind, content = stat.S_IFMT(status.st_mode), ""
            if stat.S_ISLNK(kind):
                content = os.readlink(path)  # noqa: PTH115
            elif stat.S_ISREG(kind):
                content = (status.st_size, digest(path) if status.st_size < 2**24 else None)
            held[os.path.relpath(path, os.fsencode(place))] = (kind, content)
    return held


def digest(path):
    with open(path, "rb") as file:  # noqa: PTH123
        return hashlib.file_digest(file, "md5").hexdigest()


def moved(command, before, after, done):
    """Harms to files: what was changed or removed, and what was left behind."""
    allowed = [b"home/.cache"]
    if done:
        allowed += [os.fsencode(f"here/{name}") for name in command.outputs]
        allowed += [os.fsencode(f"home/{name}") for name in command.home]

    def is_allowed(path):
        return any(path == name or path.startswith(name + b"/") for name in allowed)

    touched = [path for path in before if after.get(path) != before[path] and not is_allowed(path)]
    # the list of gvbsm's own files may grow
    if changed := [path for path in touched if not path.endswith(b"/.gvbsm-files.jsonl")]:
        yield f"changed or removed: {changed[:3]}"
    if left := [path for path in after if path not in before and not is_allowed(path)]:
        yield f"left behind: {left[:3]}"


def clear(place):
    """Remove a case's folder, whatever lies in it."""
    for folder, folders, _ in os.walk(os.fsencode(place)):
        for name in folders:
            path = os.path.join(folder, name)  # noqa: PTH118
            if not os.path.islink(path):  # noqa: PTH114
                os.chmod(path, 0o700)  # noqa: PTH101
    shutil.rmtree(os.fsencode(place), ignore_errors=True)


def run_corpus(folder, names, seed=0, tell=print):
    """Try the cases; raises AssertionError with all that did harm. Returns how many there were."""
    cases, server = all_cases(), Server(folder)
    unknown = [name for name in names if name not in cases]
    assert not unknown, f"there is no case {unknown}"
    harms, figures = [], {}
    for name in names:
        harm, memory, seconds = server.attempt(cases[name], seed)
        count, total, peak = figures.get(cases[name].family, (0, 0.0, 0))
        figures[cases[name].family] = (count + 1, total + seconds, max(peak, memory))
        if harm is not None:
            harms.append(f"{name}: {harm}")
            tell(f"HARM {name}: {harm}")
    for family, (count, total, peak) in figures.items():
        tell(f"{family}: {count} cases, {total:.0f} s, at most {peak / 2**20:.0f} MiB")
    again = f"python tests/faults/stress.py corpus --seed {seed} --only CASE_ID"
    assert not harms, f"{len(harms)} of {len(names)} did harm ({again}):\n" + "\n".join(harms)
    return len(names)
