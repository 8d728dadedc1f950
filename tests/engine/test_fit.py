"""The supervised loop: against updates written by hand, and after stops at every moment."""

import math
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from gvbsm.config import OptimizerConfig
from gvbsm.engine.device import RunError
from gvbsm.engine.fit import Training, fit
from gvbsm.engine.forms.compiled import CompiledNetwork
from gvbsm.engine.launch import Launch
from gvbsm.engine.optimizers import make_optimizer, pack_optimizer, unpack_optimizer
from gvbsm.engine.out_of_memory import Step
from gvbsm.engine.processes import ALONE, Processes
from gvbsm.engine.seeds import seeded
from gvbsm.files.checkpoint import Checkpoint
from support.toy import StoppedError

EPOCHS, STEPS = 3, 4
OPTIMIZERS = [
    OptimizerConfig(name="sgd", lr=0.1, momentum=0.9, weight_decay=0.05),
    OptimizerConfig(name="sgd", lr=0.1, momentum=0.0, schedule="constant"),
    OptimizerConfig(name="adam", lr=0.02, betas=(0.5, 0.9), weight_decay=0.05),
    OptimizerConfig(name="adamw", lr=0.02, weight_decay=0.05),
    OptimizerConfig(name="muon", lr=0.02, momentum=0.8, weight_decay=0.05),
]
CONSTANT = OPTIMIZERS[1]
every_optimizer = pytest.mark.parametrize("optimizer", OPTIMIZERS, ids=lambda o: f"{o.name}")


def net(seed=0, dropout=0.4):
    """Weights, biases, buffers and dropout: all that has to come back from a checkpoint."""
    with seeded(seed, "net"):
        return nn.Sequential(
            nn.Linear(6, 8, bias=False),  # under BatchNorm a bias has no gradient but noise
            nn.BatchNorm1d(8),
            nn.ReLU(),
            nn.Dropout(dropout),
            nn.Linear(8, 3),
        )


def samples(epoch):
    generator = torch.Generator().manual_seed(epoch)
    x = torch.randn(STEPS, 10, 6, generator=generator)
    return x, torch.randint(3, (STEPS, 10), generator=generator)


def batches(epoch, start):
    for x, y in zip(*(part[start:] for part in samples(epoch)), strict=True):

        def loss(model, rows, x=x, y=y):
            return F.cross_entropy(model(x[rows].to(model[0].weight.dtype)), y[rows])

        yield Step(len(y), loss)


def stopped_after(calls, inner=batches):
    """The same batches; the call of a loss after `calls` of them stops the work."""
    left = [calls]

    def stopping(epoch, start):
        for step in inner(epoch, start):

            def loss(model, rows, step=step):
                if left[0] == 0:
                    raise StoppedError
                left[0] -= 1
                return step.loss(model, rows)

            yield step._replace(loss=loss)

    return stopping


def weigh(model):
    """Stands for the test accuracy: any change of the weights changes it. Leaves eval mode."""
    model.eval()
    return float(sum(part.double().sum() for part in model.state_dict().values()))


def train(model, optimizer, runtime, path, batches=batches, test=weigh, **changed):
    optimizer = replace(optimizer, lr=changed.pop("lr", optimizer.lr))
    team = changed.pop("team", ALONE)
    training = replace(Training("toy", "toy", EPOCHS, STEPS, 3, optimizer), **changed)
    checkpoint = Checkpoint(path / "toy.safetensors", {"toy": 1}, runtime.checkpoint_seconds)
    return fit(model, batches, test, training, runtime, checkpoint, team)


def test_log__hears_every_epoch_and_every_test(runtime, tmp_path):
    told = []
    history = train(
        net(), OPTIMIZERS[0], replace(runtime, log=lambda *what: told.append(what)), tmp_path
    )
    assert [step for _, _, step in told] == list(range(1, EPOCHS + 1))
    assert {name for name, _, _ in told} == {"toy"}
    assert [values["loss"] for _, values, _ in told] == history.losses
    tests = {step: values["top1"] for _, values, step in told if "top1" in values}
    assert tests == dict(zip(history.epochs, history.top1, strict=True))


def same_state(ours, theirs):
    theirs = theirs.state_dict()
    return all(torch.equal(value, theirs[name]) for name, value in ours.state_dict().items())


def orthogonalized_by_hand(matrix):
    """Newton and Schulz act on the singular values alone: here on these, one by one."""
    u, values, v = torch.linalg.svd(matrix, full_matrices=False)
    values = values / values.square().sum().sqrt()
    for _ in range(5):
        values = 3.4445 * values - 4.7750 * values**3 + 2.0315 * values**5
    return u @ values.diag() @ v


def updated_by_hand(config, parameter, gradient, memory, step, lr):
    """One update as the optimizers' papers write it, in float64; 1-d tensors do not decay."""
    decay = config.weight_decay if parameter.ndim > 1 else 0.0
    if config.name == "muon" and parameter.shape == (8, 6):  # the other matrix is the classifier
        share = 1 - config.momentum
        memory["m"] = config.momentum * memory.get("m", 0) + share * gradient
        ahead = config.momentum * memory["m"] + share * gradient
        update = 0.2 * 8**0.5 * orthogonalized_by_hand(ahead)
        return parameter - lr * decay * parameter - lr * update
    if config.name == "sgd":
        gradient = gradient + decay * parameter
        memory["v"] = config.momentum * memory.get("v", 0) + gradient
        return parameter - lr * memory["v"]
    if config.name == "adam":
        gradient = gradient + decay * parameter
    else:
        parameter = parameter - lr * decay * parameter
    a, b = config.betas
    memory["m"] = a * memory.get("m", 0) + (1 - a) * gradient
    memory["v"] = b * memory.get("v", 0) + (1 - b) * gradient**2
    mean, square = memory["m"] / (1 - a ** (step + 1)), memory["v"] / (1 - b ** (step + 1))
    return parameter - lr * mean / (square.sqrt() + 1e-8)


@every_optimizer
def test_fit__equals_a_plain_loop(optimizer, runtime, tmp_path):
    ours, theirs = net(dropout=0.0).double(), net(dropout=0.0).double()
    history = train(ours, optimizer, runtime, tmp_path, lr=0.03)
    memories, losses = [{} for _ in theirs.parameters()], []
    for step in range(EPOCHS * STEPS):
        x, y = samples(step // STEPS)
        loss = F.cross_entropy(theirs(x[step % STEPS].double()), y[step % STEPS])
        gradients = torch.autograd.grad(loss, list(theirs.parameters()))
        losses.append(loss.item())
        lr = 0.03  # not that of the parametrized optimizer
        if optimizer.schedule == "cosine":
            lr *= (1 + math.cos(math.pi * step / 12)) / 2
        for weight, gradient, memory in zip(theirs.parameters(), gradients, memories, strict=True):
            weight.data = updated_by_hand(optimizer, weight.data, gradient, memory, step, lr)
    for name, value in theirs.state_dict().items():
        torch.testing.assert_close(ours.state_dict()[name], value, rtol=1e-9, atol=1e-12)
    expected = [sum(losses[i : i + STEPS]) / STEPS for i in range(0, 12, STEPS)]
    assert history.losses == pytest.approx(expected, rel=1e-5)


@every_optimizer
def test_fit__stopped_at_every_step_ends_bit_identical(optimizer, runtime, tmp_path):
    whole = net()
    expected = train(whole, optimizer, runtime, tmp_path / "whole")
    often = replace(runtime, checkpoint_seconds=0)
    for attempt in range(EPOCHS * STEPS - 1):  # one step each; epochs' ends among them
        with pytest.raises(StoppedError):
            train(net(attempt), optimizer, often, tmp_path, stopped_after(1))
    resumed = net(99)
    assert train(resumed, optimizer, often, tmp_path) == expected
    assert same_state(resumed, whole)
    assert len(expected.losses) == len(expected.top1) == EPOCHS


def test_fit__compiled_trains_the_same_network(runtime, tmp_path):
    def plain_net():
        torch.manual_seed(0)
        return nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 3))

    def drawn(epoch, start):
        for step in range(start, STEPS):
            generator = torch.Generator().manual_seed(10 * epoch + step)
            x = torch.randn(10, 6, generator=generator)

            def loss(model, rows, x=x):
                called.add(type(model))
                return model(x[rows]).square().mean()

            yield Step(10, loss)

    called = set()
    fast = replace(runtime, compiled=True)
    plain, compiled, resumed = plain_net(), plain_net(), plain_net()
    train(plain, OPTIMIZERS[0], runtime, tmp_path / "plain", drawn)
    assert called == {nn.Sequential}
    train(compiled, OPTIMIZERS[0], fast, tmp_path / "compiled", drawn)
    assert called == {nn.Sequential, CompiledNetwork}
    for parameter, reference in zip(compiled.parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(parameter, reference)
    often = replace(fast, checkpoint_seconds=0)
    with pytest.raises(StoppedError):
        train(plain_net(), OPTIMIZERS[0], often, tmp_path, stopped_after(2, drawn))
    train(resumed, OPTIMIZERS[0], often, tmp_path, drawn)
    assert same_state(resumed, compiled)


def test_fit__average__equals_a_slow_one_and_leaves_the_training_alone(runtime, tmp_path):
    live, averaged = [], []
    plain, ours = net(), net()
    train(plain, OPTIMIZERS[2], runtime, tmp_path / "plain")

    def watched(epoch, start):
        for step in batches(epoch, start):
            yield step
            live.append({name: part.clone() for name, part in ours.state_dict().items()})

    def test(model):
        averaged.append({name: part.clone() for name, part in model.state_dict().items()})
        return weigh(model)

    history = train(ours, OPTIMIZERS[2], runtime, tmp_path, watched, test, ema=0.9)
    assert same_state(plain, Loaded(live[-1]))  # the steps are those without an average
    for epoch, found in enumerate(averaged, 1):
        steps = live[: epoch * STEPS]
        weights = [0.9 ** (len(steps) - 1 - i) for i in range(len(steps))]
        for name, value in found.items():
            expected = steps[-1][name]  # buffers are the network's own
            if name in dict(ours.named_parameters()):
                parts = zip(weights, (step[name].double() for step in steps), strict=True)
                expected = sum(w * part for w, part in parts) / sum(weights)
            torch.testing.assert_close(value.double(), expected.double(), rtol=1e-5, atol=1e-6)
    assert same_state(ours, Loaded(averaged[-1]))  # it ends with what was tested
    assert history.top1[-1] == weigh(ours)


class Loaded:
    """Tensors in the place of a network."""

    def __init__(self, tensors):
        self.state_dict = lambda: tensors


def test_fit__average__stopped_at_every_step_ends_bit_identical(runtime, tmp_path):
    whole = net()
    expected = train(whole, OPTIMIZERS[3], runtime, tmp_path / "whole", ema=0.8)
    often = replace(runtime, checkpoint_seconds=0)
    for attempt in range(EPOCHS * STEPS - 1):
        with pytest.raises(StoppedError):
            train(net(attempt), OPTIMIZERS[3], often, tmp_path, stopped_after(1), ema=0.8)
    resumed = net(99)
    assert train(resumed, OPTIMIZERS[3], often, tmp_path, ema=0.8) == expected
    assert same_state(resumed, whole)


def test_fit__goes_back_to_the_last_checkpoint(runtime, tmp_path, checkpoint_every):
    whole = net()
    expected = train(whole, OPTIMIZERS[2], runtime, tmp_path / "whole")
    for calls in range(EPOCHS * STEPS):
        checkpoint_every(3)  # so that up to two steps are lost and done again
        with pytest.raises(StoppedError):
            train(net(), OPTIMIZERS[2], runtime, tmp_path / str(calls), stopped_after(calls))
        resumed, seen = net(), []

        def counted(epoch, start, seen=seen):
            seen.append(epoch * STEPS + start)
            yield from batches(epoch, start)

        assert train(resumed, OPTIMIZERS[2], runtime, tmp_path / str(calls), counted) == expected
        assert same_state(resumed, whole)
        assert seen[0] == calls // 3 * 3


def test_fit__stopped_while_testing(runtime, tmp_path):
    whole = net()
    expected = train(whole, OPTIMIZERS[0], runtime, tmp_path / "whole")

    def stop(_model):
        raise StoppedError

    often = replace(runtime, checkpoint_seconds=0)
    with pytest.raises(StoppedError):
        train(net(), OPTIMIZERS[0], often, tmp_path, test=stop)
    resumed = net()
    assert train(resumed, OPTIMIZERS[0], often, tmp_path) == expected
    assert same_state(resumed, whole)


def test_fit__dropout_acts_and_belongs_to_the_seed_and_the_name(runtime, tmp_path):
    models = [net() for _ in range(4)]
    torch.manual_seed(5)
    before = torch.get_rng_state()
    train(models[0], OPTIMIZERS[0], runtime, tmp_path)
    assert torch.equal(torch.get_rng_state(), before)  # the caller's generator is left alone
    torch.manual_seed(6)
    train(models[1], OPTIMIZERS[0], runtime, tmp_path)
    train(models[2], OPTIMIZERS[0], replace(runtime, seed=8), tmp_path)
    train(models[3], OPTIMIZERS[0], runtime, tmp_path, name="other")
    assert same_state(models[0], models[1])
    assert not same_state(models[0], models[2])
    assert not same_state(models[0], models[3])


def test_fit__a_further_process_drops_the_same_after_a_stop(runtime, tmp_path):
    """Its random state is in no checkpoint: that of process 0 is."""

    def watched(masks):
        def drawn(epoch, start):
            for number, step in enumerate(batches(epoch, start), epoch * STEPS + start):

                def loss(model, rows, step=step, number=number):
                    masks[number] = F.dropout(torch.ones(40))
                    return step.loss(model, rows)

                yield step._replace(loss=loss)

        return drawn

    second, often = Processes(Launch(rank=1)), replace(runtime, checkpoint_seconds=0)
    first, whole, resumed = {}, {}, {}
    train(net(), CONSTANT, runtime, tmp_path / "first", watched(first))
    train(net(), CONSTANT, runtime, tmp_path / "whole", watched(whole), team=second)
    with pytest.raises(StoppedError):
        train(net(), CONSTANT, often, tmp_path, stopped_after(5))
    train(net(), CONSTANT, runtime, tmp_path, watched(resumed), team=second)
    assert list(resumed) == list(range(5, EPOCHS * STEPS))
    assert all(torch.equal(mask, whole[step]) for step, mask in resumed.items())
    assert not torch.equal(whole[5], whole[6])
    assert not torch.equal(whole[5], first[5])


def test_fit__nan_names_the_learning_rate(runtime, tmp_path):
    def poisoned(epoch, start):
        for number, step in enumerate(batches(epoch, start), start):
            factor = math.nan if (epoch, number) == (1, 1) else 1.0
            yield step._replace(
                loss=lambda *given, step=step, factor=factor: factor * step.loss(*given)
            )

    with pytest.raises(RunError, match=r"^toy: .*nan.*learning rate \(0\.123\)"):
        train(net(), OPTIMIZERS[0], runtime, tmp_path, poisoned, lr=0.123)
    with pytest.raises(RunError, match=r"learning rate \(0\.1\)"):
        train(net(), OPTIMIZERS[0], replace(runtime, checkpoint_seconds=0), tmp_path, poisoned)
    again = net()  # what is kept is from before the fault
    train(again, OPTIMIZERS[0], runtime, tmp_path)
    assert all(bool(value.isfinite().all()) for value in again.state_dict().values())


@pytest.mark.parametrize("every_seconds", [0, 3600])
def test_fit__a_network_that_breaks_in_a_step_of_finite_loss_is_never_kept(
    runtime, tmp_path, every_seconds
):
    """The loss is that of the weights before the step, so that it is finite once more."""

    def breaking(epoch, start):
        for number, step in enumerate(batches(epoch, start), start):
            last = (epoch, number) == (EPOCHS - 1, STEPS - 1)

            def loss(model, rows, step=step, last=last):
                found = step.loss(model, rows)
                if last:
                    found.register_hook(lambda gradient: gradient * math.nan)
                return found

            yield Step(step.size, loss)

    often = replace(runtime, checkpoint_seconds=every_seconds)
    with pytest.raises(RunError, match=r"^toy: 0\.weight is no longer finite; .*learning rate"):
        train(net(), OPTIMIZERS[0], often, tmp_path, breaking)
    again, whole = net(), net()  # what is kept is from before the fault
    train(again, OPTIMIZERS[0], often, tmp_path)
    train(whole, OPTIMIZERS[0], runtime, tmp_path / "whole")
    assert same_state(again, whole)


@pytest.mark.parametrize(
    ("epochs", "tests", "expected"),
    [(10, 5, [2, 4, 6, 8, 10]), (3, 1, [3]), (2, 9, [1, 2]), (7, 7, [1, 2, 3, 4, 5, 6, 7])],
)
def test_fit__tests_are_evenly_spread(runtime, tmp_path, epochs, tests, expected):
    modes = []

    def checked(epoch, start):
        for step in batches(epoch % 3, start):
            yield step._replace(
                loss=lambda model, rows, step=step: (
                    modes.append(model.training) or step.loss(model, rows)
                )
            )

    model = net()
    history = train(model, OPTIMIZERS[0], runtime, tmp_path, checked, epochs=epochs, tests=tests)
    assert history.epochs == expected
    assert len(history.losses) == epochs
    assert history.top1[-1] == weigh(model)
    assert modes == [True] * (epochs * STEPS)  # the test's eval mode does not last


@pytest.mark.parametrize(("epochs", "tests"), [(7, 3), (50, 7), (1000, 10), (5, 4), (11, 10)])
def test_fit__any_number_of_tests_ends_with_the_last_epoch(runtime, tmp_path, epochs, tests):
    def one(epoch, start):
        yield Step(1, lambda model, rows: 0 * model[0].weight.sum())

    history = train(
        net(),
        OPTIMIZERS[1],
        runtime,
        tmp_path,
        one,
        test=lambda _: 0.0,
        epochs=epochs,
        steps=1,
        tests=tests,
    )
    gaps = [b - a for a, b in zip([0, *history.epochs], history.epochs, strict=False)]
    assert history.epochs[-1] == epochs
    assert len(gaps) == tests
    assert max(gaps) - min(gaps) <= 1


@pytest.mark.parametrize("name", ["sgd", "adam", "adamw", "muon"])
def test_weight_decay_leaves_vectors_alone(name):
    model = net()
    before = {key: value.clone() for key, value in model.named_parameters()}
    config = OptimizerConfig(name=name, lr=0.1, weight_decay=0.5)
    solver = make_optimizer(config, list(model.parameters()), 0.1)
    (0 * sum(part.sum() for part in model.parameters())).backward()
    solver.step()
    for key, value in model.named_parameters():
        if value.ndim > 1:
            assert value.norm() < before[key].norm(), key
        else:
            assert torch.equal(value, before[key]), key


@every_optimizer
def test_optimizer_state__round_trip(optimizer):
    def step(model, solver):
        solver.zero_grad()
        next(batches(0, 0)).loss(model, slice(None)).backward()
        solver.step()

    ours, theirs = net(dropout=0.0), net(dropout=0.0)
    solver = make_optimizer(optimizer, list(ours.parameters()), 0.1)
    for _ in range(3):
        step(ours, solver)
    packed = {name: value.clone() for name, value in pack_optimizer(solver).items()}
    assert all(isinstance(value, torch.Tensor) for value in packed.values())
    theirs.load_state_dict(ours.state_dict())
    twin = make_optimizer(optimizer, list(theirs.parameters()), 0.1)
    unpack_optimizer(twin, packed)
    assert pack_optimizer(twin).keys() == packed.keys()
    for _ in range(2):
        step(ours, solver)
        step(theirs, twin)
        assert same_state(ours, theirs)
