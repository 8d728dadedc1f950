"""Environments that a command is started in: variables, streams, limits, disks."""

from faults.hostile.case import Case, Command
from faults.hostile.samples import copy

GVBSM = '"$PYTHON" -m gvbsm'
EXPORT = f'{GVBSM} export "$SAMPLES/folder" --to folder --out out --quiet'
TEACH = (
    f'{GVBSM} squeeze "$SAMPLES/teacher.yaml" --data.name npz --data.root "$SAMPLES/toy.npz" '
    "--workdir work --quiet"
)
SHOW = f'{GVBSM} show "$SAMPLES/work"'


def done(name, script, made, **rules):
    """A script that must do its work all the same: the files `made` are there."""

    def make(place):
        def check():
            for path in made:
                assert (place.folder / path).is_file(), path

        return Command(
            script=script, check=check, outputs=("out", "work", "said"), home=(".config",), **rules
        )

    return Case(f"environments/{name}", make)


def refused(name, script, words, codes=(1, 2), **rules):
    """A script that must be refused in a line."""
    return Case(
        f"environments/{name}",
        lambda _: Command(script=script, refused=words, codes=codes, **rules),
    )


EXPORTED = ("out/gvbsm.json", "out/a/00000.png", "out/d/00001.png")
TEACHER = ("work/squeeze/convnet8_d1.safetensors",)


def variables():
    """Variables that differ from the usual ones; a set is exported all the same."""
    for name, values in {
        "ascii": "LC_ALL=C LANG=C",
        "posix": "LC_ALL=POSIX PYTHONUTF8=0 PYTHONCOERCECLOCALE=0",
        "no-such-locale": "LC_ALL=xx_XX.UTF-8",
        "turkish": "LC_ALL=tr_TR.UTF-8",
        "stdio-ascii": "PYTHONIOENCODING=ascii:strict",
        "stdio-latin": "PYTHONIOENCODING=latin-1",
        "backend": "MPLBACKEND=module://matplotlib_inline.backend_inline",
        "optimized": "PYTHONOPTIMIZE=2",
        "no-bytecode": "PYTHONDONTWRITEBYTECODE=1",
        "hash-seed": "PYTHONHASHSEED=7",
        "tmp-missing": "TMPDIR=/no/such/folder",
        "threads": "OMP_NUM_THREADS=0",
        "threads-word": "OMP_NUM_THREADS=many",
        "columns": "COLUMNS=1",
        "no-term": "TERM=",
        "width": "COLUMNS=-5 LINES=0",
        "xdg": "XDG_CACHE_HOME=/dev/null/x",
        "time-zone": "TZ=Nowhere/None",
        "umask": "LC_ALL=C; umask 0777; umask 0022",
    }.items():
        yield done(f"variable.{name}", f"export {values}; {EXPORT}", EXPORTED)
    yield done("variable.no-path", f"export PATH=; {EXPORT}", EXPORTED)
    yield done("variable.home-missing", f"export HOME=/no/such; {EXPORT}", EXPORTED)
    yield done("variable.home-unset", f"unset HOME; {TEACH}", TEACHER)
    yield done("variable.home-file", f'export HOME="$PWD/mine.txt"; {TEACH}', TEACHER)
    slurm = "SLURM_PROCID=0 SLURM_NTASKS=4 SLURM_LOCALID=0 SLURM_JOB_ID=7 SLURM_NODEID=0"
    yield done("variable.slurm", f"export {slurm}; {TEACH}", TEACHER)
    for name, values in {
        "rank": "RANK=5 WORLD_SIZE=2",
        "word": "RANK=zero WORLD_SIZE=2",
        "half": "RANK=0 WORLD_SIZE=many",
        "negative": "RANK=-1 WORLD_SIZE=2",
    }.items():
        yield refused(
            f"launch.{name}", f"export {values} LOCAL_RANK=0; {TEACH}", ("WORLD_SIZE",), (2,)
        )


def streams():
    """Standard streams that are closed, full or left by their reader."""
    yield done("stream.no-input", f"{EXPORT} <&-", EXPORTED)
    yield done("stream.no-output", f"{EXPORT} >&-", EXPORTED)
    yield done("stream.no-errors", f"{EXPORT} 2>&-", EXPORTED)
    yield done("stream.none", f"{EXPORT} <&- >&- 2>&-", EXPORTED)
    yield done("stream.show-none", f"{SHOW} <&- >&- 2>&-", ())
    yield done("stream.head", f"{SHOW} | head -1 >said; test -s said", ("said",))
    yield done("stream.no-reader", f"{GVBSM} --help | true; test ${{PIPESTATUS[0]}} -le 141", ())
    yield refused("stream.full", f"{SHOW} >/dev/full", ("",), (1, 2))
    text = "import gvbsm; print(len(gvbsm.load(\"'$SAMPLES'/folder\").images))"
    yield done("stream.script", f"echo '{text}' | \"$PYTHON\" - >said; grep -qx 8 said", ("said",))


def limits():
    """Limits of the system, and disks that are full or may not be written to."""
    yield done("limit.files", f"ulimit -n 64; {EXPORT}", EXPORTED)
    yield refused("limit.file-size", f"ulimit -f 4; trap '' XFSZ; {EXPORT}", ("gvbsm.json",), (1,))
    yield done("limit.stack", f"ulimit -s 1024; {EXPORT}", EXPORTED)
    yield done("limit.cores", f"taskset -c 0 {TEACH}", TEACHER)
    yield done("limit.idle", f"nice -n 19 {TEACH}", TEACHER)
    yield refused("place.device", EXPORT.replace("--out out", "--out /dev/null"), ("/dev/null",))
    yield refused("place.proc", EXPORT.replace("--out out", "--out /proc/x"), ("/proc",))


BOMB = "a: &a [x,x,x,x,x,x,x,x,x]\n" + "".join(
    f"{new}: &{new} [{','.join([f'*{old}'] * 9)}]\n"
    for old, new in zip("abcdefgh", "bcdefghi", strict=True)
)
YAML = {
    "bomb": BOMB + "ipc: *i\n",
    "bomb-below": "squeeze:\n  backbones: &a [x, x, x, x, x, x, x, x, x]\n"
    + "synthesis:\n  backbones: &b [*a, *a, *a, *a, *a, *a, *a, *a]\n"
    + "labels:\n  backbones: &c [*b, *b, *b, *b, *b, *b, *b, *b]\n"
    + "evaluation:\n  students: &d [*c, *c, *c, *c, *c, *c, *c, *c]\n"
    + "baselines:\n  methods: &e [*d, *d, *d, *d, *d, *d, *d, *d]\n"
    + "trackers: &f [*e, *e, *e, *e, *e, *e, *e, *e]\n"
    + "statistics:\n  n_p: [*f, *f, *f, *f, *f, *f, *f, *f]\n",
    "loop": "squeeze: &a\n  backbones: *a\n",
    "loop-list": "trackers: &a [*a]\n",
    "object": "ipc: !!python/object/apply:os.system ['touch ran']\n",
    "merge": "<<: 3\n",
    "twice": "ipc: 1\nipc: 2\nipc: []\n",
    "key-list": "? [1, 2]\n: 3\n",
    "deep": "ipc: " + "[" * 20_000,
    "digits": "ipc: " + "9" * 100_000 + "\n",
    "float": "ipc: 1e400\n",
    "date": "ipc: 2020-13-45\n",
    "tag": "ipc: !unknown 3\n",
    "tab": "\tipc: 1\n",
    "nul": "ipc: 1\0\n",
    "words": "just words\n",
    "two": "ipc: 1\n---\nipc: 2\n",
    "sexagesimal": "ipc: 99:99:99\n",
}


def yaml_case(kind):
    """A preset that is a bomb, a program or no settings."""

    def make(place):
        preset = place.folder / "preset.yaml"
        preset.write_text(YAML[kind])
        arguments = (
            "squeeze",
            f"{place.samples / 'teacher.yaml'}+{preset}",
            "--workdir",
            "work",
            "--quiet",
        )
        return Command(arguments, refused=())

    return Case(f"environments/yaml.{kind}", make)


def notes_case(kind):
    """A set whose card shows names that are markup: they are shown as they are."""

    def make(place):
        import json

        from faults.hostile.samples import edit_json

        source = copy(place.samples / "folder", place.folder / "set")
        text = {
            "html": "<script>alert(1)</script>",
            "markdown": "](javascript:x) | `",
            "front": "\n---\nlicense: x",
        }[kind]
        edit_json(source / "gvbsm.json", lambda facts: facts.update(dataset=text, method=text))
        arguments = ("export", "set", "--to", "hub", "--out", "out", "--quiet")

        def check():
            card = (place.folder / "out" / "README.md").read_text()
            assert "<script>" not in card
            assert card.count("\n---\n") == 1
            assert json.loads((place.folder / "out" / "gvbsm.json").read_text())["dataset"] == text

        return Command(arguments, refused=("set",), check=check, outputs=("out",))

    return Case(f"environments/card.{kind}", make)


def cases():
    """All cases of environments."""
    yield from variables()
    yield from streams()
    yield from limits()
    yield from map(yaml_case, YAML)
    yield from map(notes_case, ("html", "markdown", "front"))
