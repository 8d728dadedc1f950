"""One network that processes train together: each step is one process's step on the whole batch."""

from functools import partial

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from gvbsm.backbones import build_backbone
from gvbsm.config import OptimizerConfig
from gvbsm.engine.accuracy import accuracy
from gvbsm.engine.device import Runtime
from gvbsm.engine.fit import Training, fit, shared_step
from gvbsm.engine.processes import ALONE, join
from gvbsm.engine.replicas import check_replicable, replicate
from gvbsm.files.checkpoint import Checkpoint
from gvbsm.files.tensors import load_tensors, save
from support.launch import torchrun
from support.toy import CONVNET, WRN

CPU = torch.device("cpu")
SIZES = (
    5,
    4,
    1,
    5,
)  # of a training's batches: uneven for two processes, and one too small for them


def network(name):
    torch.manual_seed(3)
    return build_backbone(name, 4, 8).double()


def batch(size):
    generator = torch.Generator().manual_seed(size)
    x = torch.randn(size, 3, 8, 8, dtype=torch.float64, generator=generator)
    return x, torch.arange(size) % 4


def loss(x, labels, net, part):
    return F.cross_entropy(net(x[part]), labels[part])


def own_step(team, size):
    x, labels = batch(size)
    rows = team.rows(size)
    return shared_step(team, size, partial(loss, x[rows], labels[rows]))


def step(name, team):
    """Gradients of one batch of five, the outputs of three more, and the network's state."""
    model = network(name)
    net = replicate(model, team, CPU)
    own = own_step(team, 5)
    own.loss(net, slice(0, own.size)).backward()
    found = {f"gradient/{key}": each.grad for key, each in model.named_parameters()}
    found["outputs"] = model.eval()(batch(3)[0]).detach()
    return found | {f"state/{key}": each.double() for key, each in model.state_dict().items()}


def trained(name, team, path, seconds=3600, ema=0.0):
    """The state after two epochs, and what was measured: tests are of seven pictures."""
    runtime = Runtime(CPU, "fp32", seed=7, checkpoint_seconds=seconds, quiet=True)

    def test(net):
        x, labels = batch(7)
        part = team.part(7)
        return accuracy(net, iter([(x[part], labels[part])]), runtime, team)

    model = network(name)
    history = fit(
        model,
        lambda _, start: (own_step(team, size) for size in SIZES[start:]),
        test,
        Training(name, "squeeze", 2, len(SIZES), 2, OptimizerConfig(lr=0.02), ema=ema),
        runtime,
        Checkpoint(path, {}, seconds),
        team,
    )
    measured = torch.tensor([*history.losses, *history.top1], dtype=torch.float64)
    return {"measured": measured} | {k: each.double() for k, each in model.state_dict().items()}


def work(folder):
    """What each process does; both write what they have."""
    us = join()
    for name in (CONVNET, WRN):
        for what, found in (
            ("step", step(name, us)),
            ("trained", trained(name, us, folder / f"{name}.safetensors")),
            ("averaged", trained(name, us, folder / f"ema-{name}.safetensors", ema=0.9)),
            ("resumed", trained(name, us, folder / f"half-{name}.safetensors")),
        ):
            save(folder / f"{what}-{name}-{us.rank}", found, {"kind": "toy", "recipe": {}})


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Where two processes have worked; the half-done training was begun by one."""
    folder = tmp_path_factory.mktemp("replicas")
    for name in (CONVNET, WRN):
        path = folder / f"half-{name}.safetensors"
        trained(name, ALONE, path, seconds=0)  # the last checkpoint: one step is left
        assert load_tensors(next(folder.glob(f"half-{name}.partial*")), "checkpoint")
    script = folder / "script.py"
    script.write_text(
        "import pathlib, sys\n"
        "from engine.test_replicas import work\n"
        "work(pathlib.Path(sys.argv[1]))\n"
    )
    done = torchrun(2, script, folder)
    assert done.returncode == 0, done.stderr
    return folder


@pytest.mark.parametrize("name", [CONVNET, WRN])  # GroupNorm, and BatchNorm of all rows
@pytest.mark.parametrize("what", ["step", "trained", "averaged", "resumed"])
def test_two_processes__do_what_one_does(what, name, folder, tmp_path):
    ema = 0.9 if what == "averaged" else 0.0
    expected = (
        step(name, ALONE) if what == "step" else trained(name, ALONE, tmp_path / "x", ema=ema)
    )
    found = [load_tensors(folder / f"{what}-{name}-{rank}", "toy")[0] for rank in range(2)]
    assert found[0].keys() == expected.keys()
    for key, value in expected.items():
        # A batch of one, which both had in full, counts twice in BatchNorm's unbiased variance.
        rtol = 0.05 if key.endswith("running_var") and what != "step" else 1e-9
        rtol = 1e-6 if key == "measured" else rtol  # losses are summed in float32
        torch.testing.assert_close(found[0][key], value, rtol=rtol, atol=1e-10, msg=key)
        assert torch.equal(found[1][key], found[0][key]), key


def test_kinds_of_batchnorm_that_cannot_be_synchronized__are_named():
    class Special(nn.BatchNorm2d):
        pass

    model = nn.Sequential(nn.Conv2d(3, 4, 3), Special(4))
    with pytest.raises(ValueError, match=r"Special \(1\) cannot be trained"):
        check_replicable(model, CPU)
    check_replicable(model, torch.device("cuda"))
    check_replicable(network(WRN), CPU)
    assert replicate(model, ALONE, CPU) is model
    assert type(model[1]) is Special
