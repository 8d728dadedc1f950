"""Work in hand: what is kept comes back bit for bit, on top of what has been begun anew."""

import torch

from gvbsm.config import OptimizerConfig
from gvbsm.engine.optimizers import make_optimizer
from gvbsm.files.checkpoint import Checkpoint
from gvbsm.method.matching import Average
from gvbsm.stages.unfinished import Work


def fresh():
    images = torch.zeros(2, 3, 4, 4).requires_grad_()
    solver = make_optimizer(OptimizerConfig(name="adam"), [images], 0.1)
    average = Average(torch.zeros(1, 5), torch.zeros(1, 5), torch.zeros(2, dtype=torch.bool))
    return Work(images, solver, {"a|channel": average}, torch.zeros(1, 2, 3, 4, 4).byte(), [[]])


def moved():
    work = fresh()
    for _ in range(3):
        work.images.grad = torch.randn(
            2, 3, 4, 4, generator=torch.Generator().manual_seed(work.step)
        )
        work.solver.step()
        work.step += 1
    work.state["a|channel"] = Average(torch.ones(1, 5), torch.full((1, 5), 2.0), torch.ones(2) > 0)
    work.film += 7
    work.traces = [[{"step": 2, "teacher": "a"}]]
    return work


def test_work__comes_back(tmp_path):
    checkpoint = Checkpoint(tmp_path / "group", {"toy": 1}, 0)
    nothing = fresh()
    nothing.resume(checkpoint)
    assert (nothing.step, nothing.traces) == (0, [[]])
    work, found = moved(), fresh()
    work.keep(checkpoint)
    found.resume(checkpoint)
    assert torch.equal(found.images, work.images)
    assert torch.equal(found.film, work.film)
    assert (found.step, found.traces) == (3, work.traces)
    assert all(map(torch.equal, found.state["a|channel"], work.state["a|channel"]))
    for each in (work, found):  # the optimiser's moments count in the next step
        each.images.grad = torch.ones(2, 3, 4, 4)
        each.solver.step()
    assert torch.equal(found.images, work.images)
