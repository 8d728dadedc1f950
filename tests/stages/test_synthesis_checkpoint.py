"""Checkpoints of a synthesis: what is saved comes back bit for bit, on top of a new beginning."""

import torch

from gvbsm.config import OptimizerConfig
from gvbsm.engine.optimizers import make_optimizer
from gvbsm.files.checkpoint import Checkpoint
from gvbsm.method.matching import Average
from gvbsm.method.synthesis import State
from gvbsm.stages.synthesis_checkpoint import Work


def fresh():
    images = torch.zeros(2, 3, 4, 4).requires_grad_()
    solver = make_optimizer(OptimizerConfig(name="adam"), [images], 0.1)
    average = Average(torch.zeros(1, 5), torch.zeros(1, 5), torch.zeros(2, dtype=torch.bool))
    bounds = -torch.ones(3, 1, 1), torch.ones(3, 1, 1)
    state = State(images, bounds, solver, {"a|b": {"channel": average}})
    return Work(state, torch.zeros(1, 2, 3, 4, 4).byte(), [[]])


def moved():
    work = fresh()
    state = work.state
    for _ in range(3):
        generator = torch.Generator().manual_seed(state.step)
        state.images.grad = torch.randn(2, 3, 4, 4, generator=generator)
        state.solver.step()
        state.step += 1
    ones = Average(torch.ones(1, 5), torch.full((1, 5), 2.0), torch.ones(2) > 0)
    state.averages["a|b"] = {"channel": ones, "channel by class": ones}
    state.copies["flatness"] = torch.full((2, 3, 4, 4), 0.5)
    work.film += 7
    work.traces = [[{"step": 2, "teacher": "a"}]]
    return work


def test_work__comes_back(tmp_path):
    checkpoint = Checkpoint(tmp_path / "group", {"toy": 1}, 0)
    nothing = fresh()
    nothing.resume(checkpoint)
    assert (nothing.state.step, nothing.traces) == (0, [[]])
    work, again = moved(), fresh()
    work.save(checkpoint)
    again.resume(checkpoint)
    assert torch.equal(again.state.images, work.state.images)
    assert torch.equal(again.film, work.film)
    assert (again.state.step, again.traces) == (3, work.traces)
    averages = again.state.averages["a|b"]
    assert averages.keys() == {"channel", "channel by class"}
    for level, average in averages.items():
        assert all(map(torch.equal, average, work.state.averages["a|b"][level]))
    assert torch.equal(again.state.copies["flatness"], work.state.copies["flatness"])
    for each in (work.state, again.state):  # the optimizer's moments count in the next step
        each.images.grad = torch.ones(2, 3, 4, 4)
        each.solver.step()
    assert torch.equal(again.state.images, work.state.images)
