"""Damaged, foreign and exchanged files in a finished work directory.

Each is either refused in one line that names it, and made again once it is removed, or it does no
harm: the results and all other files are those of an undisturbed run.
"""

import contextlib
import importlib
import io
import json
import pickle
import random
import shutil
from pathlib import Path

from safetensors import safe_open
from safetensors.torch import save_file

from support.workdirs import digests, quick_settings, rows_without_times, write_arrays, write_preset

REPORTED = 0.04  # share of the runs that end in a report, which takes most of their time


# What may happen to a file. Each takes a path, its content, a source of chance and the path of
# another file; and returns the new content, or None if it has written itself.


def truncated(_path, content, chance, _other):
    return content[: chance.randrange(len(content))]


def emptied(_path, _content, _chance, _other):
    return b""


def flipped(_path, content, chance, _other):
    mutated = bytearray(content)
    mutated[chance.randrange(len(content))] ^= 1 << chance.randrange(8)
    return bytes(mutated)


def zeroed(_path, content, chance, _other):
    start, length = chance.randrange(len(content)), chance.choice((16, 512, 4096))
    return content[:start] + bytes(len(content[start : start + length])) + content[start + length :]


def scrambled(_path, content, chance, _other):
    start = chance.randrange(len(content))
    length = len(content[start : start + 64])
    return content[:start] + chance.randbytes(length) + content[start + length :]


def lengthened(_path, content, chance, _other):
    return content + chance.randbytes(chance.choice((1, 100)))


def random_bytes(_path, content, chance, _other):
    return chance.randbytes(len(content))


def pickled(_path, _content, _chance, _other):
    return pickle.dumps({"images": [1, 2, 3]})


def long_header(path, content, chance, _other):
    if path.suffix == ".json":
        return b'{"a":' * 50_000
    length = chance.choice((2**63, 2**40, len(content), 0))
    return length.to_bytes(8, "little") + content[8:]


def exchanged(path, content, _chance, other):
    path.write_bytes(other.read_bytes())
    other.write_bytes(content)


def replaced(_path, _content, _chance, other):
    return other.read_bytes()


def folder_instead(path, _content, _chance, _other):
    path.unlink()
    path.mkdir()


def edited(path, content, chance, _other):
    """Another number somewhere in the text, as a careless hand would have it."""
    text = (
        content if path.suffix == ".json" else content[: 8 + int.from_bytes(content[:8], "little")]
    )
    places = [place for place, byte in enumerate(text[8:], 8) if chr(byte).isdigit()]
    place = chance.choice(places)
    digit = str((int(chr(content[place])) + chance.randrange(1, 10)) % 10).encode()
    return content[:place] + digit + content[place + 1 :]


def forged(path, content, chance, _other):
    """A valid file whose header says something else, written with checksums of its own."""
    from gvbsm.files.artifacts import KEY, write_json
    from gvbsm.files.tensors import save

    if path.suffix == ".json":
        header = json.loads(content)
        header.pop("checksum")
    else:
        with safe_open(path, framework="pt") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            header = json.loads(file.metadata()[KEY])
        header.pop("checksum")
    kinds = ["recipe", "entry"] if path.suffix == ".json" else ["recipe", "entry", "kind", "format"]
    match chance.choice(kinds):
        case "recipe":
            header["recipe"] = {**header.get("recipe", {}), "seed": 99}
        case "entry":
            del header[chance.choice(sorted(header))]
        case "kind":
            header["kind"] = "something else"
        case "format":
            header["format"] = 7
    if path.suffix == ".json":
        write_json(path, header)
    elif not {"format", "kind", "recipe"} <= header.keys():
        save_file(tensors, path, metadata={KEY: json.dumps(header)})
    else:
        save(path, tensors, header)


def removed(path, _content, _chance, _other):
    path.unlink()


MUTATIONS = (
    truncated,
    emptied,
    flipped,
    flipped,
    flipped,
    zeroed,
    scrambled,
    lengthened,
    random_bytes,
    pickled,
    long_header,
    exchanged,
    replaced,
    folder_instead,
    edited,
    edited,
    forged,
    forged,
    removed,
)


class Bench:
    """A finished run, and what becomes of copies of it."""

    def __init__(self, folder):
        for module in ("api", "reporting"):
            importlib.import_module(f"gvbsm.{module}")
        self.folder, self.reported = folder, False
        arrays = {"name": "npz", "root": str(write_arrays(folder / "toy.npz"))}
        self.preset = write_preset(folder / "toy.yaml", quick_settings(arrays))
        self.reference = folder / "reference"
        self.reported = True
        code, errors = self.run(self.reference)
        assert code == 0, errors
        self.expected = digests(self.reference)
        self.rows = rows_without_times(self.reference)
        self.files = [
            path.relative_to(self.reference)
            for path in sorted(self.reference.rglob("*"))
            if path.suffix in (".safetensors", ".json")
        ]

    def call(self, *arguments):
        """Exit code and standard error of a command; an exception that escapes it is a fault."""
        from gvbsm import reporting
        from gvbsm.cli import main

        errors, report = io.StringIO(), reporting.report
        if not self.reported:
            reporting.report = lambda workdir, quiet: Path(workdir)
        try:
            with contextlib.redirect_stderr(errors), contextlib.redirect_stdout(io.StringIO()):
                code = main([*arguments])
        finally:
            reporting.report = report
        return code, errors.getvalue()

    def run(self, workdir):
        return self.call("run", str(self.preset), "--workdir", str(workdir), "--quiet")

    def other(self, path, chance):
        """Another file of the same suffix, more often than not one of the same stage."""
        same = [
            other
            for other in self.files
            if other != path
            and other.suffix == path.suffix
            and other.parent.name == path.parent.name
        ]
        others = [other for other in self.files if other != path and other.suffix == path.suffix]
        return chance.choice(same if same and chance.random() < 0.8 else others)

    def differing(self, workdir, ignored):
        found = digests(workdir)
        names = {*found, *self.expected} - ignored
        if not self.reported:
            names = {name for name in names if not name.startswith("report/")}
        return sorted(name for name in names if found.get(name) != self.expected.get(name))


def make_need(workdir, chance):
    """Remove some of what follows from the files, so that a run has to read them."""
    share = chance.random()
    patterns = []
    if share < 0.75:
        patterns += ["**/evaluation/*.json"]
    if share < 0.5:
        patterns += ["**/labels/index.json"]
    if share < 0.2:
        patterns += ["**/synthesis/images.safetensors"]
    for pattern in patterns:
        for path in workdir.glob(pattern):
            if path.is_file() and chance.random() < 0.7:
                path.unlink()


def one_mutation(bench, workdir, chance):
    """Do harm to one file; returns what was done and how it ended, or raises AssertionError."""
    shutil.copytree(bench.reference, workdir)
    name = chance.choice(bench.files)
    mutate, path, other = chance.choice(MUTATIONS), workdir / name, bench.other(name, chance)
    what = f"{mutate.__name__} {name}"
    if mutate in (exchanged, replaced):
        what += f" with {other}"
    bench.reported = chance.random() < REPORTED
    content = mutate(path, path.read_bytes(), chance, workdir / other)
    if content is not None:
        path.write_bytes(content)
    make_need(workdir, chance)
    before = path.read_bytes() if path.is_file() else None
    for _ in range(3):
        try:
            code, errors = bench.run(workdir)
        except Exception as error:
            raise AssertionError(f"{what}: a traceback, {error!r}") from error
        if code == 0:
            break
        lines = errors.splitlines()
        assert code == 2, f"{what}: exit code {code}, {errors}"
        assert len(lines) == 1, f"{what}: not one line: {errors}"
        named = [file for file in (name, other) if str(workdir / file) in lines[0]]
        named = named or [
            file for file in (name, other) if str((workdir / file).parent) in lines[0]
        ]
        assert named, f"{what}: the line does not name it: {errors}"
        for file in named:  # as the line says
            damaged = workdir / file
            shutil.rmtree(damaged) if damaged.is_dir() else damaged.unlink(missing_ok=True)
    assert code == 0, f"{what}: refused again and again: {errors}"
    assert rows_without_times(workdir) == bench.rows, f"{what}: other results, and no word of it"
    # Nothing has read it, or asked for it again once it was gone.
    kept = not path.is_file() or path.read_bytes() == before
    unread = {str(name)} if kept else set()
    unread |= {str(other)} if mutate is exchanged else set()
    differ = bench.differing(workdir, unread)
    assert not differ, f"{what}: other files: {differ}"
    return what


def run_mutations(folder, count, seed=0, tell=print):
    """Mutate so many files; raises AssertionError with all that did harm."""
    chance, bench, harms = random.Random(seed), Bench(folder), []
    for number in range(count):
        workdir = folder / f"mutated-{number}"
        try:
            one_mutation(bench, workdir, chance)
        except AssertionError as error:
            harms.append(str(error))
            tell(f"HARM {error}")
        shutil.rmtree(workdir, ignore_errors=True)
        if (number + 1) % 50 == 0:
            tell(f"{number + 1} of {count} mutations")
    assert not harms, f"{len(harms)} of {count} did harm:\n" + "\n".join(harms)
    return count
