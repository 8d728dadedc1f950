"""Commands, settings, presets and data with a fault: exit 2, a line a fault, nothing written."""

import contextlib
import io
import json
import pickle
import shutil

import numpy as np
import yaml
from PIL import Image

from support.workdirs import digests, quick_settings, write_arrays, write_files, write_preset

NUMBERS = """
ipc=0 ipc=-1 ipc=many ipc=1.5 ipc=1000 seed=x seed=1.5 threads=0 threads=-3 precision=fp7
method=none checkpoint_seconds=-1 checkpoint_seconds=soon trackers=[pigeon] data.name=cifar11
data.name=7 data.image_size=0 data.image_size=-8 data.image_size=wide data.val_fraction=0
data.val_fraction=1 data.val_fraction=2 data.in_memory=perhaps data.workers=-1
data.root=/no/such/folder data.split_seed=a squeeze.backbones=[] squeeze.backbones=[resnet19]
squeeze.backbones=[convnet8_d1,convnet8_d1] squeeze.epochs=0 squeeze.epochs=-1
squeeze.batch_size=0 squeeze.tests=0 squeeze.pretrained=true squeeze.optimizer.name=sgdd
squeeze.optimizer.lr=-1 squeeze.optimizer.lr=nan squeeze.optimizer.lr=inf
squeeze.optimizer.momentum=2 squeeze.optimizer.schedule=steps squeeze.optimizer.weight_decay=-1
squeeze.views.crop=round squeeze.views.padding=-1 squeeze.views.cutmix=1 statistics.n_p=0
statistics.batch_size=0 statistics.passes=0 synthesis.backbones=[] synthesis.backbones=[resnet18]
synthesis.iterations=0 synthesis.batch_size=0 synthesis.loop=fast synthesis.alpha=1
synthesis.alpha=-0.1 synthesis.alpha=nan synthesis.beta_dr=1.1 synthesis.beta_dr=-1
synthesis.beta_dr_of={10:2} synthesis.beta_dr_of={ten:0.4} synthesis.beta_dr_of={0:0.4}
synthesis.tau=0 synthesis.tau=-4 synthesis.init=zeros synthesis.groups=0 synthesis.ema_start=never
synthesis.densification=none synthesis.compile=sometimes synthesis.weight_conv=-1
synthesis.weight_batchnorm=-1 synthesis.weight_cross_entropy=-1 synthesis.weight_densification=nan
synthesis.first_layer_multiplier=-1 synthesis.optimizer.betas=[1,2]
synthesis.optimizer.betas=[0.5] synthesis.views.scale=[0,1] synthesis.views.scale=[0.9,0.1]
synthesis.views.scale=[0.1,2] synthesis.views.ratio=[0,1] synthesis.views.roll=-1
labels.backbones=[] labels.backbones=[vgg] labels.epochs=0 labels.min_steps=-1 labels.batch_size=0
labels.full_batch_up_to=-1 labels.views.cutmix=-1 labels.store=maybe evaluation.students=[]
evaluation.students=[convnet8_d9] evaluation.students=[timm/no_such_net] evaluation.seeds=0
evaluation.loss=l2 evaluation.gamma=-1 evaluation.temperature=0 evaluation.hard_target=soft
evaluation.batch_size=0 evaluation.tests=0 evaluation.lr_of={convnet8_d1:-1}
evaluation.lr_of={nobody:0.1} labels.weights={nobody:1} labels.batchnorm=both
baselines.methods=[random] baselines.draws=0 squeeze.settings_of={nobody:{epochs:1}}
squeeze.settings_of={convnet8_d1:{epochs:0}} squeeze.settings_of={convnet8_d1:{tests:1}}
coreset.backbone=resnet50 coreset.epochs=0 no_such_key=1 synthesis.no_such_key=1 evalution.seeds=1
""".split()  # noqa: SIM905


def commands(preset, folder):
    """Whole commands with a fault; no work directory is named."""
    work = str(folder / "work")
    return [
        ["rum", preset],
        ["run"],
        ["run", "--workdir", work],
        ["run", preset, "more"],
        ["run", preset, "--workdir"],
        ["run", preset, "--no-such-option", "1"],
        ["run", "no-such-preset"],
        ["run", f"{preset}+no-such-preset"],
        ["run", str(folder / "none.yaml")],
        ["run", "-x"],
        ["labels"],
        ["squeeze", "no-such-preset"],
        ["statistics", preset, "--ipc", "none"],
        ["continual", preset, "--continual.steps", "0"],
        ["continual", preset, "--continual.steps", "9", "--workdir", work],
        ["continual", preset, "--continual.orders", "0"],
        ["continual", preset, "--continual.students", "[]"],
        ["show"],
        ["show", str(folder / "nothing")],
        ["show", str(folder)],
        ["show", "a", "b"],
        ["report"],
        ["report", str(folder / "nothing")],
        ["report", str(folder)],
        ["report", "--loud"],
        ["sweep"],
        ["sweep", "table1-alpha"],
        ["sweep", "no-such-study", preset],
        ["sweep", "table1-alpha", "no-such-preset"],
        ["sweep", "table1-alpha", preset, "--repeat", "0"],
        ["sweep", "table1-alpha", preset, "--no-such-option", "1"],
    ]


def presets(folder):
    """Files that are no presets."""
    texts = {
        "broken": b"ipc: [1, 2",
        "tabs": b"ipc:\t1\n\tseed: 2",
        "list": b"[1, 2]",
        "text": b"hello",
        "number": b"7",
        "bytes": bytes(range(256)),
        "latin": "ipc: 1 # \xfc".encode("latin-1"),
        "nul": b"ipc: 1\x00",
        "pickle": pickle.dumps({"ipc": 1}),
        "object": b"ipc: !!python/object/apply:os.system ['true']",
        "bomb": b"a: &a [x,x,x,x,x,x,x,x,x]\n"
        + b"".join(
            f"{chr(98 + i)}: &{chr(98 + i)} [{','.join([f'*{chr(97 + i)}'] * 9)}]\n".encode()
            for i in range(9)
        ),
        "deep": b"ipc: " + b"[" * 5000,
        "twice": b"synthesis: 3",
        "misspelt": b"synthesys: {alpha: 0.4}",
        "null": b"squeeze: null",
        "type": b"squeeze: {epochs: [1]}",
        "values": b"ipc: 0\nsqueeze: {epochs: 0}\nlabels: {epochs: 0}",
    }
    for name, content in texts.items():
        path = folder / f"{name}.yaml"
        path.write_bytes(content)
        yield path
    (folder / "folder.yaml").mkdir()
    yield folder / "folder.yaml"


def folders(place):
    """Data that cannot be read: name of the kind, and where."""

    def fresh(name):
        return write_files(place / name)

    def one(root):
        return next((root / "train").rglob("*.png"))

    (place / "empty").mkdir(parents=True)
    yield "folder", place / "empty"
    root = fresh("file")
    yield "folder", one(root)
    root = fresh("one-class")
    for name in "bcd":
        shutil.rmtree(root / "train" / name)
        shutil.rmtree(root / "val" / name)
    yield "folder", root
    root = fresh("no-val")
    shutil.rmtree(root / "val")
    yield "folder", root
    root = fresh("other-classes")
    (root / "val" / "a").rename(root / "val" / "z")
    yield "folder", root
    root = fresh("empty-class")
    (root / "train" / "z").mkdir()
    yield "folder", root
    for name, content in {
        "empty-picture": b"",
        "text-picture": b"no picture",
        "cut": None,
        "flipped": None,
        "pickle": pickle.dumps([1]),
    }.items():
        root = fresh(name)
        path = one(root)
        whole = path.read_bytes()
        if name == "flipped":
            whole = whole[:40] + bytes([whole[40] ^ 255]) + whole[41:]
        path.write_bytes(whole[: len(whole) // 2] if name == "cut" else content or whole)
        if name in ("empty-picture",):
            path.write_bytes(b"")
        yield "folder", root
    root = fresh("bomb")
    Image.new("1", (20_000, 20_000)).save(one(root))
    yield "folder", root
    root = fresh("name")
    one(root).rename(one(root).parent / "new\nline.png")
    next((root / "train").rglob("new*")).write_bytes(b"")
    yield "folder", root
    yield "tiny-imagenet", place / "empty"
    yield "imagenet-1k", place / "empty"
    yield "cifar10", place / "empty"
    yield "npz", place / "empty"


def archives(place):
    """.npz files that cannot be read."""
    place.mkdir()
    good = dict(np.load(write_arrays(place / "good.npz")))
    changes = {
        "float": {"train_images": good["train_images"].astype(np.float32)},
        "short": {"train_labels": good["train_labels"][:-1]},
        "negative": {"train_labels": good["train_labels"].astype(np.int64) - 1},
        "beyond": {"test_labels": good["test_labels"] + 100},
        "text": {"train_labels": good["train_labels"].astype(str)},
        "flat": {"train_images": good["train_images"].reshape(len(good["train_images"]), -1)},
        "channels": {"train_images": good["train_images"][..., :2]},
        "none": {
            "train_images": good["train_images"][:0],
            "train_labels": good["train_labels"][:0],
        },
        "names": {"class_names": np.array(["a"])},
        "objects": {"train_labels": np.array([{}] * len(good["train_labels"]), dtype=object)},
        "grey": {"test_images": good["test_images"][..., :1]},
    }
    for name, change in changes.items():
        np.savez(place / f"{name}.npz", **{**good, **change})
        yield "npz", place / f"{name}.npz"
    for missing in ("train_images", "test_labels"):
        np.savez(place / f"{missing}.npz", **{k: v for k, v in good.items() if k != missing})
        yield "npz", place / f"{missing}.npz"
    whole = (place / "good.npz").read_bytes()
    for name, content in {
        "cut": whole[: len(whole) // 2],
        "nothing": b"",
        "words": b"words",
        "pickled": pickle.dumps(good),
        "flip": whole[:200] + bytes([whole[200] ^ 255]) + whole[201:],
    }.items():
        (place / f"{name}.npz").write_bytes(content)
        yield "npz", place / f"{name}.npz"


def places(folder, preset):
    """Work directories that cannot be used; each is left as it is."""
    file = folder / "a-file"
    file.write_text("mine")
    yield file
    yield file / "below"
    owned = folder / "owned"
    owned.mkdir()
    for name, content in {
        "other": json.dumps({"name": "digits", "fingerprint": "x", "classes": 10, "image_size": 8}),
        "broken": "{",
        "list": "[]",
        "deep": "[" * 100_000,
    }.items():
        (owned / name).mkdir()
        (owned / name / "data.json").write_text(content)
        yield owned / name


def call(arguments):
    """Exit code and standard error; what escapes is a fault."""
    from gvbsm.cli import main

    errors = io.StringIO()
    with contextlib.redirect_stderr(errors), contextlib.redirect_stdout(io.StringIO()):
        code = main([str(argument) for argument in arguments])
    return code, errors.getvalue()


def check(arguments, folder, work, codes=(2,)):
    """A fault as a text, or None if the command was refused as it should be."""
    before = digests(work) if work.is_dir() else None
    try:
        code, errors = call(arguments)
    except BaseException as error:
        return f"{arguments}: {type(error).__name__} escapes: {error}"
    if code not in codes:
        return f"{arguments}: exit code {code}: {errors[-300:]}"
    lines = errors.splitlines()
    if not lines or not all(line.startswith("gvbsm: ") for line in lines) or len(lines) > 12:
        return f"{arguments}: {len(lines)} lines: {errors[-500:]}"
    if max(map(len, lines)) > 600:
        return f"{arguments}: a line of {max(map(len, lines))} letters"
    if (digests(work) if work.is_dir() else None) != before:
        return f"{arguments}: something was written"
    return None


def cases(folder):
    """Each command with its work directory."""
    arrays = write_arrays(folder / "toy.npz")
    settings = quick_settings({"name": "npz", "root": str(arrays)})
    preset = write_preset(folder / "toy.yaml", settings)
    work = folder / "work"
    for number, pair in enumerate(NUMBERS):
        key, _, value = pair.partition("=")
        yield ["run", preset, f"--{key}={value}", "--workdir", work, "--quiet"], work
        if number % 8:  # what a file says is checked by the same code
            continue
        nested = yaml.safe_load(value)
        for part in reversed(key.split(".")):
            nested = {part: nested}
        one = write_preset(folder / "one.yaml", nested)
        yield ["run", f"{preset}+{one}", "--workdir", work], work
    for arguments in commands(str(preset), folder):
        yield arguments, folder / "runs"
    (folder / "presets").mkdir()
    for path in presets(folder / "presets"):
        yield ["run", path, "--workdir", work], work
    for name, root in (*folders(folder / "data"), *archives(folder / "archives")):
        yield ["run", preset, "--data.name", name, "--data.root", root, "--workdir", work], work
    for path in places(folder, preset):
        yield ["run", preset, "--workdir", path], path


def run_inputs(folder, tell=print):
    """Try all; raises AssertionError with all that was not refused as it should be."""
    with contextlib.chdir(folder):
        harms, count = [], 0
        for arguments, work in cases(folder):
            count += 1
            if (harm := check(arguments, folder, work)) is not None:
                harms.append(harm)
                tell(f"HARM {harm}")
            if work.name == "work":
                shutil.rmtree(work, ignore_errors=True)
    assert not harms, f"{len(harms)} of {count} were not refused:\n" + "\n".join(harms)
    return count
