"""The command line: verbs, presets, one clear line for every fault, and the exit code.

All but three tests call `main` in this process; a fault must never show a traceback.
"""

import importlib.metadata
import json
import logging
import os
import re
import shlex
import subprocess
import sys

import pytest

import gvbsm
from gvbsm import cli
from gvbsm.cli import VERBS, main
from gvbsm.config import Config
from gvbsm.config.build import build_config
from gvbsm.config.fields import descriptions
from gvbsm.config.preset_files import preset_names, read_preset
from gvbsm.data.datasets import load_dataset
from gvbsm.engine.device import RunError
from gvbsm.files.tensors import load_tensors, save
from support.picture_files import draw_classes, write_npz

TINY = shlex.split(
    "--squeeze.backbones [convnet8_d1] --squeeze.epochs 1 --squeeze.tests 1 "
    "--synthesis.iterations 2 --labels.epochs 2 --evaluation.tests 1 "
    "--evaluation.students [convnet8_d1] --evaluation.seeds 1 --ipc 2 "
    "--device cpu --data.workers 0"
)


@pytest.fixture(autouse=True)
def _level_of_the_logger():
    logger = logging.getLogger("gvbsm")
    level = logger.level
    yield
    logger.setLevel(level)


@pytest.fixture
def tiny(tmp_path):
    """Arguments of a run that takes a second, on twelve pictures of two classes."""
    path = tmp_path / "tiny.npz"
    write_npz(path, count=12, channels=1)
    return ["npz", "--data-root", str(path), "--workdir", str(tmp_path / "w"), *TINY]


@pytest.fixture
def fault(capsys):
    """Run a command that fails: its exit code and its one line on standard error."""

    def run(*argv):
        code = main([str(argument) for argument in argv])
        out, err = capsys.readouterr()
        assert out == ""
        assert err.count("\n") == 1, err
        assert err.startswith("gvbsm: ")
        assert "Traceback" not in err
        return code, err

    return run


@pytest.fixture
def taken(monkeypatch):
    """Run nothing: the settings, work directory and `quiet` that a command would have run with."""

    def take(*argv):
        seen = []
        record = lambda *arguments, **_origin: seen.append(arguments) or {"rows": []}  # noqa: E731
        monkeypatch.setattr("gvbsm.api.run", record)
        monkeypatch.setattr("gvbsm.api.run_stage", record)
        monkeypatch.setattr("gvbsm.reporting.report", lambda *_arguments: "a page")
        assert main([str(argument) for argument in argv]) == 0
        return seen[0]

    return take


# In processes of their own


@pytest.fixture
def start(tmp_path):
    def run(*arguments):
        command = [sys.executable, *arguments]
        return subprocess.run(
            command, capture_output=True, text=True, timeout=120, check=False, cwd=tmp_path
        )

    return run


def test_questions_are_answered_without_importing_torch(start):
    program = """
import sys
import gvbsm
from gvbsm.cli import COMMANDS, main
codes = [main(argv) for argv in (
    ["--help"], ["-h"], ["--version"], ["run", "--help"], ["squeeze", "digits", "-h"],
    ["show", "-h"], ["sweep", "-h"], ["export", "-h"], ["train", "-h"], ["settings", "digits"],
    ["list", "-h"], ["list", "presets"], ["list", "data"], ["list", "studies"],
    [], ["walk"], ["run", "cifar1"], ["run", "digits", "--ipc", "0"],
)]
heavy = sorted({"torch", "torchvision", "timm", "sklearn", "matplotlib"} & set(sys.modules))
print("\\n", *codes, heavy, file=sys.stderr)
"""
    done = start("-c", program)
    assert done.returncode == 0, done.stderr
    assert done.stderr.splitlines()[-1] == f" {'0 ' * 14}{'2 ' * 4}[]"
    assert all(f"  {verb}" in done.stdout for verb in VERBS)


def test_python_dash_m(start):
    done = start("-m", "gvbsm", "--version")
    assert (done.returncode, done.stdout, done.stderr) == (0, f"gvbsm {gvbsm.__version__}\n", "")


def test_a_fault_in_a_process_of_its_own(start, tmp_path):
    missing = tmp_path / "nowhere"
    done = start("-m", "gvbsm", "run", "folder", "--data-root", str(missing), "--quiet")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.count("\n") == 1
    assert done.stderr.startswith("gvbsm: ")
    assert str(missing) in done.stderr


def test_labels_are_compressed_in_place(start, tiny, tmp_path, capsys, fault):
    assert main(["run", *tiny, "--quiet", "--baselines.methods", "[]"]) == 0
    labels = tmp_path / "w" / "labels"
    before = sum(path.stat().st_size for path in labels.glob("shard-*"))
    pool = ["--baselines.methods", "[]", "--labels.storage.pruning", "2"]
    done = start("-m", "gvbsm", "labels", *tiny, *pool, "--compress")
    assert (done.returncode, done.stdout) == (0, ""), done.stderr
    (shard,) = labels.glob("shard-*")
    assert shard.name == "shard-pool2-00000.safetensors"
    told = f"labels gvbsm: 1 of 2 epochs, {shard.stat().st_size} bytes, before {before}"
    assert told in [line.partition(" ")[2] for line in done.stderr.splitlines()]  # after the time
    capsys.readouterr()
    code, err = fault("labels", *tiny, "--baselines.methods", "[]", "--compress", "--quiet")
    assert code == 2
    assert "they hold 1 of 2 epochs, fewer than the settings ask for" in err
    assert shard.is_file()


def test_only_labels_are_compressed(fault, tiny):
    code, err = fault("synthesis", *tiny, "--compress")
    assert code == 2
    assert "compress" in err


@pytest.mark.parametrize(
    ("argv", "code", "out"),
    [(["--version"], 0, f"gvbsm {gvbsm.__version__}\n"), (["walk"], 2, "")],
)
def test_the_installed_command_leaves_with_the_exit_code(argv, code, out):
    (script,) = importlib.metadata.entry_points(group="console_scripts", name="gvbsm")
    assert script.load() is cli.entry
    # In a process of its own: `entry` takes over the signals of its process for good.
    command = [sys.executable, "-c", "from gvbsm.cli import entry; entry()", *argv]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stdout) == (code, out)


@pytest.mark.parametrize(
    ("environment", "turns"),
    [({}, "2000"), ({"GOMP_SPINCOUNT": "7"}, "7"), ({"OMP_WAIT_POLICY": "active"}, "None")],
)
def test_threads_spin_briefly_unless_the_environment_says_how_they_wait(environment, turns):
    code = (
        "import atexit, os; from gvbsm.cli import entry;"
        "atexit.register(lambda: print(os.environ.get('GOMP_SPINCOUNT'))); entry()"
    )
    variables = {key: value for key, value in os.environ.items() if not key.startswith("GOMP_")}
    variables.pop("OMP_WAIT_POLICY", None)
    command = [sys.executable, "-c", code, "--version"]
    output = subprocess.check_output(command, env=variables | environment, text=True, timeout=60)
    assert output.splitlines()[-1] == turns


# Help


def test_a_fault_moves_no_cursor(tmp_path, capsys):
    assert main(["show", str(tmp_path / "\x1b[31m\udce9é")]) == 2
    error = capsys.readouterr().err
    assert r"\x1b[31m\udce9é" in error
    assert error.count("\n") == 1


def test_the_overview_names_every_verb_and_where_presets_are_listed(capsys):
    assert main(["--help"]) == 0
    text = capsys.readouterr().out
    assert all(f"  {verb}" in text for verb in VERBS)
    assert "gvbsm list presets" in text
    assert main([]) == 2


STAGE_VERBS = [v for v in VERBS if v not in cli.COMMANDS and v != "sweep"]


@pytest.mark.parametrize("verb", STAGE_VERBS)
def test_a_verb_with_settings_has_help_in_two_levels(capsys, monkeypatch, verb):
    monkeypatch.setenv("COLUMNS", "100")  # the width of a terminal
    assert main([verb, "--help"]) == 0
    brief = capsys.readouterr().out
    assert brief.startswith(f"usage: gvbsm {verb} NAME")
    assert len(brief.splitlines()) <= 60
    common = [item.name for item in descriptions(Config()) if item.often_changed]
    assert 15 <= len(common) <= 25
    for option in ("workdir", "quiet", *common):
        assert f"\n  --{option} " in brief, option
    assert f"gvbsm {verb} --help all" in brief

    assert main([verb, "--help", "all"]) == 0
    whole = capsys.readouterr().out
    options = re.findall(r"^  --(\S+)", whole, re.MULTILINE)
    assert {item.name for item in descriptions(Config())} < {*options}
    assert len(options) == len({*options})
    for text in (brief, whole):
        assert not re.search(r"Optional|Union|tuple|Literal|CONFIG|<class|NoneType", text)
        assert max(map(len, text.splitlines())) <= 100


OTHER_VERBS = sorted({*VERBS} - {*STAGE_VERBS, "sweep"})


@pytest.mark.parametrize("verb", OTHER_VERBS)
def test_a_verb_without_a_preset_says_what_it_does_with_which_words_and_an_example(
    capsys, monkeypatch, verb
):
    monkeypatch.setenv("COLUMNS", "100")
    assert main([verb, "--help"]) == 0
    text = capsys.readouterr().out
    usage, empty, purpose, *rest = text.splitlines()
    assert usage.startswith(f"usage: gvbsm {verb} ")
    assert not empty
    assert purpose.lower() == f"{VERBS[verb]}.".lower()
    words = re.findall(r"^  (\S+)", "\n".join(rest), re.MULTILINE)
    assert set(re.findall(r"--\w+", usage)) - {"--setting"} <= {*words}
    assert re.search(rf"^example: gvbsm {verb} ", text, re.MULTILINE)
    assert max(map(len, text.splitlines())) <= 100


@pytest.mark.parametrize(
    ("verb", "options"),
    [
        ("run", "--workdir --quiet --log-format --budget"),
        ("labels", "--workdir --quiet --log-format --compress --budget"),
        ("plan", "--workdir --quiet --log-format --json --budget"),
        ("settings", "--budget --changed"),
    ],
)
def test_a_verb_has_the_options_that_it_reads(capsys, verb, options):
    assert main([verb, "--help"]) == 0
    before_settings = capsys.readouterr().out.partition("settings that are changed most")[0]
    assert re.findall(r"^  (--\S+)", before_settings, re.MULTILINE) == options.split()
    for other in {"--compress", "--json", "--changed"} - {*options.split()}:
        assert main([verb, "digits", other]) == 2
        assert other.strip("-") in capsys.readouterr().err


def test_help_shows_the_values_of_the_preset(capsys):
    assert main(["run", "tiny-imagenet", "--help"]) == 0
    text = " ".join(capsys.readouterr().out.split())
    assert "distilled set [a whole number; 50]" in text
    assert "resnet18,resnet50,resnet101]" in text


# Settings from the command


@pytest.mark.parametrize("name", sorted({*preset_names()} - {"sre2l", "own"}))  # own: test_budget
def test_the_command_and_python_read_a_preset_alike(taken, name):
    config, workdir, quiet = taken("run", name, "--device", "cpu")
    assert config == build_config({**read_preset(name), "device": "cpu"})
    assert (str(workdir), quiet) == (f"runs/{name}", False)


def test_options_win_over_the_preset(taken, tmp_path):
    numbers = "--seed 7 --ipc=1 --squeeze.optimizer.lr 1e-3 --synthesis.views.scale [0.5,1]"
    options = f"{numbers} --labels.store false --workdir {tmp_path} --quiet --threads null"
    tables = ("--evaluation.lr_of", "{resnet18: 0.3}", "--labels.weights", "resnet18=2")
    given = taken("run", "tiny-imagenet+sre2l", "--data-root=/x y/z", *tables, *options.split())
    config, workdir, quiet = given
    assert (config.seed, config.ipc, config.data.root) == (7, 1, "/x y/z")
    assert (config.squeeze.optimizer.lr, config.squeeze.optimizer.momentum) == (1e-3, 0.9)
    assert config.evaluation.lr_of == {"resnet18": 0.3}
    assert config.labels.weights == {"resnet18": 2.0}
    assert (config.labels.store, config.threads) == (False, None)
    assert config.synthesis.views.scale == (0.5, 1.0)
    assert config.synthesis.backbones == ("resnet18",)
    assert (workdir, quiet) == (tmp_path, True)


def test_an_option_that_a_table_would_overrule_is_refused(fault):
    code, line = fault("run", "imagenet-1k", "--synthesis.beta_dr=0.2")
    assert code == 2
    assert "synthesis.beta_dr_of has 0.0 at 10 images per class" in line


def test_a_yaml_file_of_one_s_own(taken, tmp_path):
    path = tmp_path / "my.yaml"
    path.write_text("ipc: 3\nevaluation: {optimizer: {lr: 1e-2}, lr_of: {resnet18: 2e-1}}\n")
    config, workdir, _ = taken("evaluation", f"cifar10+{path}")[1:]
    assert (config.ipc, config.evaluation.optimizer.lr) == (3, 0.01)
    assert config.evaluation.lr_of == {"resnet18": 0.2}
    assert workdir.name == "cifar10+my"


# Faults of the command and the settings


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        (["walk"], r"no verb 'walk'.*verbs: run, plan, squeeze"),
        (["sqeeze"], r"did you mean squeeze\?"),
        (["run"], r"gvbsm run PRESET"),
        (["run", "--ipc", "1"], r"gvbsm run PRESET"),
        (["run", "cifar1"], r"no preset 'cifar1'.*did you mean cifar10"),
        (["run", "digits+sre2"], r"no preset 'sre2'.*did you mean sre2l"),
        (["run", "none.yaml"], r"no settings file none\.yaml"),
        (["run", "digits", "more"], r"more"),
        (["run", "digits", "--sythesis.alpha", "1"], r"sythesis\.alpha.*mean synthesis\.alpha"),
        (["run", "digits", "--synthesis.iteration", "5"], r"mean synthesis\.iterations"),
        (["train", "w", "--mod", "resnet18"], r"required: model|'mod'"),
        (["run", "digits", "--labels.weights", "resnet18"], r"takes name=value,other=value"),
        (["run", "digits", "--alpha=1"], r"'alpha'; did you mean synthesis\.alpha"),
        (["run", "digits", "--synthesis.alhpa", "1"], r"alhpa.*mean synthesis\.alpha"),
        (["run", "digits", "--ipc", "ten"], r"ipc.*ten"),
        (["run", "digits", "--ipc"], r"--ipc"),
        (["run", "digits", "--ipc", "-5"], r"ipc must be positive, got -5"),
        (["run", "digits", "--synthesis.loop", "both"], r"synthesis\.loop.*both"),
        (["run", "digits", "--synthesis.alpha", "1"], r"synthesis\.alpha must be in \[0, 1\)"),
        (["run", "digits", "--threads", "0"], r"threads"),
        (["run", "digits", "--data.name", "digit"], r"'digit'.*did you mean 'digits'"),
        (["show"], r"gvbsm show DIR"),
        (["show", "a", "b"], r"gvbsm show DIR"),
        (["show", "a", "--format", "pdf"], r"\[--format md\|latex\|csv\] .*--format pdf"),
        (["show", "a", "--format"], r"gvbsm show DIR"),
        (["show", ".", "--format", "md"], r"holds no results\.json; `gvbsm run` writes it"),
        (["export", "w"], r"required: to, out"),
        (["export", "w", "--to", "zip", "--out", "x"], r"one of folder, hub, dd-ranking, safet"),
        (["export", "w", "--to", "folder", "--out", "x", "--push", "a/b"], r"--to hub, not with"),
        (
            ["export", "w", "--to", "folder", "--out", "x", "--networks", "net.py:Net"],
            r"--networks goes with --to onnx, not with --to folder",
        ),
        (["export", "w", "--to", "folder", "--out", "x"], r"there is no w; name a work directory"),
        (["train", "w"], r"required: model"),
        (["train", "w", "--model", "resnet18"], r"there is no w; name a work directory"),
        (["train", "w", "--model", "resnet18", "--ipc", "2"], r"gvbsm train does not read ipc"),
    ],
)
def test_a_fault_of_the_command_is_one_line(fault, tmp_path, monkeypatch, argv, words):
    monkeypatch.chdir(tmp_path)
    code, line = fault(*argv)
    assert code == 2
    assert re.search(words, line)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "argv",
    [
        ["run", "digits", "--ipcs", "2"],
        ["run", "digits", "--ipc", "two"],
        ["plan", "digit"],
        ["sweep", "table1-alpha", "digits", "--synthesis.alpha", "high"],
    ],
)
def test_a_fault_of_an_option_is_a_json_object_if_the_log_is(capsys, monkeypatch, argv):
    monkeypatch.setattr(logging.root, "handlers", [])  # else commands leave pytest's as they are
    assert main([*argv, "--log-format", "json"]) == 2
    line = json.loads(capsys.readouterr().err)
    assert (line["level"], line["message"][:7]) == ("error", "gvbsm: ")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("ipc: ten", r"ipc.*ten"),
        ("ipc: null", r"ipc.*(None|null)"),
        ("ipc: 1.5", r"ipc.*1\.5"),
        ("seed: x", r"seed.*x"),
        ("{method: mtt, baselines: {methods: []}}", r"method.*mtt"),
        ("squeeze: 5", r"squeeze.*5"),
        ("squeeze: null", r"squeeze"),
        ("squeeze: {optimizer: sgd}", r"squeeze\.optimizer.*sgd"),
        ("squeeze: {optimizer: {name: sdg}}", r"squeeze\.optimizer\.name.*sdg"),
        ("squeeze: {backbones: resnet18}", r"squeeze\.backbones.*'?resnet18"),
        ("squeeze: {epohcs: 5}", r"did you mean squeeze\.epochs"),
        ("labels: {views: {crop: pda}}", r"labels\.views\.crop.*pda"),
        ("data: {root: 5}", r"data\.root.*5"),
        ("evaluation: {lr_of: {resnet18: fast}}", r"evaluation\.lr_of.*fast"),
        ("- 1", r"mapping"),
        ("a: [", r"YAML"),
    ],
)
def test_a_fault_of_a_settings_file_is_one_line_and_exit_code_2(fault, tmp_path, text, words):
    path = tmp_path / "my.yaml"
    path.write_text(text)
    # the data are missing too: a fault that is not seen in time shows as that one
    code, line = fault("run", path, "--workdir", tmp_path / "w", "--data.name", "folder")
    assert code == 2
    assert re.search(words, line)
    assert not (tmp_path / "w").exists()


def test_all_faults_are_told_at_once(capsys):
    assert main(["run", "digits", "--ipc", "0", "--synthesis.alpha", "2"]) == 2
    lines = capsys.readouterr().err.splitlines()
    assert [line.split()[:2] for line in lines] == [
        ["gvbsm:", "ipc"],
        ["gvbsm:", "synthesis.alpha"],
    ]


# Faults of the data, the work directory and the machine


def test_faults_that_are_known_before_any_work(fault, tiny, tmp_path):
    work = tmp_path / "w"
    for argv, words in (
        (["--data-root", tmp_path / "no"], f"no such file or folder: {tmp_path / 'no'}"),
        (["--ipc", "31", "--synthesis.init", "crops"], "but it has 6 training pictures; lower"),
        (["--coreset.backbone", "resnet18"], "coreset.backbone names 'resnet18', which is not in"),
        (["--baselines.methods", "[forgetting-hard]"], "coreset.epochs must be at least 2"),
        (["--squeeze.backbones", "[resnet8]"], "unknown backbone 'resnet8'; did you mean resnet18"),
        (["--evaluation.students", "[convnet]"], "unknown backbone 'convnet'"),
        (["--data.image_size", "-1"], "image_size"),
        (["--data.val_fraction", "2"], "val_fraction"),
    ):
        code, line = fault("run", *tiny, *argv)
        assert code == 2
        assert words in line
        assert not (work / "squeeze").exists()
    assert fault("run", "folder", "--workdir", work)[0] == 2
    one = draw_classes(tmp_path / "one", {"cat": 4})
    code, line = fault("run", "folder", "--data-root", one, "--workdir", work)
    assert (code, "only one class" in line) == (2, True)


@pytest.mark.parametrize("device", ["tpu", "cuda:99"])
def test_a_device_that_is_not_there(fault, tiny, device):
    code, line = fault("run", *tiny, "--device", device)
    assert code in (1, 2)
    assert f"device '{device}' is not available" in line


def test_a_baseline_that_does_not_exist_names_those_that_do(fault, tiny):
    code, line = fault("run", *tiny, "--baselines.methods", "[kcenter-hard]")
    assert code == 2
    for selection in ("random", "herding", "k-center", "balanced", "forgetting"):
        assert f" {selection}-hard" in line


def test_a_selection_takes_the_place_of_the_synthesis(tiny, tmp_path, capsys):
    argv = ["run", "npz+k-center-hard", *tiny[1:], "--baselines.methods", "[]"]
    assert main(argv) == 0
    assert "k-center-hard  convnet8_d1" in capsys.readouterr().out
    distilled = gvbsm.load(tmp_path / "w")
    real = load_dataset("npz", tmp_path / "tiny.npz").train
    for image, label in zip(distilled.images, distilled.labels, strict=True):
        assert label in real.labels[(real.images == image).flatten(1).all(dim=1)]
    assert distilled.labels.tolist() == [0, 0, 1, 1]


def test_a_work_directory_that_is_a_file(fault, tiny, tmp_path):
    (tmp_path / "file").write_text("mine")
    for path in ("file", "file/inside"):
        code, line = fault("run", *tiny, "--workdir", tmp_path / path)
        assert code in (1, 2)
        assert "file" in line
    assert (tmp_path / "file").read_text() == "mine"


def test_stages_before_their_input_and_a_work_directory_of_others(fault, tiny, tmp_path, capsys):
    work = tmp_path / "w"
    for stage in ("statistics", "synthesis", "labels", "evaluation"):
        code, line = fault(stage, *tiny, "--quiet")
        assert code == 2
        assert f"run `gvbsm squeeze PRESET --workdir {work}`" in line
    assert main(["squeeze", *tiny, "--quiet"]) == 0
    assert capsys.readouterr() == ("", "")
    code, line = fault("synthesis", *tiny, "--quiet")
    assert (code, "`gvbsm statistics " in line) == (2, True)
    code, line = fault("labels", *tiny, "--quiet", "--synthesis.weight_conv", "0")
    assert (code, "`gvbsm synthesis " in line) == (2, True)
    code, line = fault("statistics", *tiny, "--quiet", "--squeeze.epochs", "2")
    assert code == 2
    assert "made with other settings (squeeze.epochs: 1 -> 2); run `gvbsm squeeze " in line

    code, line = fault("run", *tiny, "--data.image_size", "4")
    assert code == 2
    assert f"{work} belongs to other data" in line
    assert "image_size: 8 -> 4" in line
    assert "--workdir" in line

    teacher = work / "squeeze" / "convnet8_d1.safetensors"
    found, header = load_tensors(teacher, "teacher")
    save(teacher, found, {**header, "format": 2, "version": "9.8"})
    before = teacher.read_bytes()
    code, line = fault("run", *tiny)
    assert (code, "gvbsm 9.8" in line, "upgrade" in line) == (2, True, True)
    assert teacher.read_bytes() == before


@pytest.mark.parametrize(
    ("error", "code", "line"),
    [
        (RunError("the loss became nan"), 1, "gvbsm: the loss became nan\n"),
        (OSError(28, "No space left on device"), 1, "gvbsm: [Errno 28] No space left on device\n"),
        (
            KeyboardInterrupt(),
            130,
            "\nstopped; the same command goes on from the last checkpoint\n",
        ),
    ],
)
def test_exit_codes_of_a_run_that_stops(monkeypatch, capsys, error, code, line):
    def stop(*_args, **_origin):
        raise error

    monkeypatch.setattr("gvbsm.api.run", stop)
    assert main(["run", "digits"]) == code
    assert capsys.readouterr() == ("", line)


def test_a_command_without_checkpoints_does_not_promise_to_go_on(monkeypatch, capsys):
    def stop(_argv):
        raise KeyboardInterrupt

    monkeypatch.setitem(cli.COMMANDS, "export", stop)
    assert main(["export", "runs/digits", "--to", "folder", "--out", "SET"]) == 130
    assert capsys.readouterr().err == "\nstopped\n"


def test_a_bug_keeps_its_traceback(monkeypatch):
    def stop(*_args, **_origin):
        raise ZeroDivisionError("ours")

    monkeypatch.setattr("gvbsm.api.run", stop)
    with pytest.raises(ZeroDivisionError, match="ours"):
        main(["run", "digits"])


# A whole run


def test_run_then_quiet_then_show(tiny, tmp_path, capsys, caplog):
    work = tmp_path / "w"
    assert main(["run", *tiny]) == 0
    out, _ = capsys.readouterr()
    methods = [line.split()[0] for line in out.splitlines()[2:7]]
    assert methods == ["gvbsm", "random-hard", "random-soft", "sre2l", "teacher"]
    for name in ("results.json", "synthesis/images.safetensors", "images.png", "report/index.html"):
        assert str(work / name) in out
        assert (work / name).is_file()
    logged = [record.getMessage() for record in caplog.records if record.name == "gvbsm"]
    assert any(message.startswith("squeeze convnet8_d1: ") for message in logged)
    assert any(message.startswith("evaluation gvbsm, convnet8_d1, seed 0: ") for message in logged)

    caplog.clear()
    assert main(["run", *tiny, "--quiet", "--synthesis.iterations", "3"]) == 0
    again, err = capsys.readouterr()
    assert err == ""
    assert [line.split()[0] for line in again.splitlines()[2:7]] == methods
    assert not [record for record in caplog.records if record.name == "gvbsm"]

    assert main(["show", str(work)]) == 0
    out, err = capsys.readouterr()
    assert err == ""
    assert out.startswith(f"{work}: tiny, 2 classes, 8 px\n")
    assert again.splitlines()[2] in out.splitlines()
    assert main(["show", str(work), "--format", "md"]) == 0
    assert capsys.readouterr().out.splitlines()[2].startswith("| gvbsm | convnet8")
    assert main(["show", "--format=csv", str(work)]) == 0
    assert capsys.readouterr().out.startswith("method,student,ipc,seed,top1,top1_best,")
    assert main(["show", str(work), "--format", "latex"]) == 0
    assert capsys.readouterr().out.splitlines()[-1] == r"\end{tabular}"


def test_show_of_what_is_no_work_directory(fault, tmp_path):
    code, line = fault("show", tmp_path)
    assert (code, f"{tmp_path} is not a work directory" in line) == (2, True)
    assert fault("show", tmp_path / "none")[0] == 2


def test_export_and_train(tiny, tmp_path, capsys):
    assert main(["run", *tiny, "--baselines.methods", "[]", "--quiet"]) == 0
    out, weights = tmp_path / "e", tmp_path / "s.safetensors"
    assert main(["export", str(tmp_path / "w"), "--to", "folder", "--out", str(out)]) == 0
    assert capsys.readouterr().out.splitlines()[-1] == str(out)
    command = ["train", str(out), "--model", "convnet8_d1", "--labels.epochs", "2", "--quiet"]
    data = ["--data.name", "npz", "--data-root", str(tmp_path / "tiny.npz")]
    assert main([*command, *data, "--out", str(weights), "--device", "cpu"]) == 0
    first, last = capsys.readouterr().out.splitlines()
    assert re.fullmatch(r"convnet8_d1: [\d.]+ % on the test pictures, loss [\d.]+", first)
    assert last == f"weights: {weights}"
    assert load_tensors(weights, "student")[1]["backbone"] == "convnet8_d1"


@pytest.mark.parametrize(
    ("local_rank", "told"), [("0", "gvbsm: process 1 of 2: there is no preset 'tiyn'"), ("1", "")]
)
def test_of_several_processes__one_a_machine_tells_what_all_meet(
    local_rank, told, monkeypatch, capsys
):
    place = {"MASTER_ADDR": "localhost", "MASTER_PORT": "1"}
    for name, value in {"RANK": "1", "WORLD_SIZE": "2", "LOCAL_RANK": local_rank, **place}.items():
        monkeypatch.setenv(name, value)
    assert main(["run", "tiyn"]) == 2
    assert capsys.readouterr().err.startswith(told) if told else not capsys.readouterr().err
    for command in (["report", "nowhere"], ["export", "nowhere"], ["train", "nowhere"]):
        assert main(command) == 0  # the first alone does it
    monkeypatch.setattr(cli, "_dispatch", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError) as bug:
        main(["run", "tiny"])
    assert bug.value.__notes__ == ["in process 1 of 2"]
    monkeypatch.delenv("MASTER_PORT")
    assert main(["run", "tiny"]) == 2
    assert "MASTER_PORT is not set" in capsys.readouterr().err
