"""Batches cut into parts: the same gradients and answers, at once or as memory runs out."""

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from gvbsm.engine.device import RunError
from gvbsm.engine.out_of_memory import Halving, InParts, MicroBatches, Step, even_slices
from gvbsm.engine.seeds import seeded


class Small(nn.Module):
    """A memory that holds `most` pictures at once; `seen` is what came through."""

    def __init__(self, most):
        super().__init__()
        self.most, self.seen = most, []

    def forward(self, x):
        if len(x) > self.most:
            raise torch.OutOfMemoryError("too many")
        self.seen.append(len(x))
        return x


def net(most, middle=nn.Identity):
    with seeded(0, "net"):
        return nn.Sequential(Small(most), nn.Linear(5, 6), middle(), nn.Tanh(), nn.Linear(6, 3))


def step(size=7):
    generator = torch.Generator().manual_seed(size)
    x, y = torch.randn(size, 5, generator=generator), torch.arange(size) % 3

    def loss(model, rows):
        return F.cross_entropy(model(x[rows]), y[rows])

    return Step(size, loss)


def gradients(model):
    return [parameter.grad.clone() for parameter in model.parameters()]


@given(size=st.integers(1, 200), limit=st.integers(1, 200))
def test_even_slices__all_rows_once_in_the_fewest_parts_of_like_size(size, limit):
    parts = list(even_slices(size, limit))
    assert [row for part in parts for row in range(part.start, part.stop)] == list(range(size))
    lengths = [part.stop - part.start for part in parts]
    assert max(lengths) <= limit
    assert max(lengths) - min(lengths) <= 1
    assert len(parts) == -(-size // limit)


@pytest.mark.parametrize("limit", [1, 2, 3, 6])
def test_parts__their_gradients_are_the_whole_batch_s(limit):
    whole, cut = net(99), net(99)
    expected = MicroBatches(None, "x").backward(whole, step())
    loss = MicroBatches(limit, "x").backward(cut, step())
    assert max(cut[0].seen) <= limit
    assert loss.item() == pytest.approx(expected.item(), rel=1e-6)
    torch.testing.assert_close(gradients(cut), gradients(whole), rtol=1e-5, atol=1e-7)


def test_parts__one_part_is_the_plain_step_bit_for_bit():
    plain, ours = net(99, lambda: nn.BatchNorm1d(6)), net(99, lambda: nn.BatchNorm1d(6))
    loss = step().loss(plain, slice(None))
    loss.backward()
    found = MicroBatches(7, "x").backward(ours, step())
    assert torch.equal(found, loss)
    assert all(map(torch.equal, gradients(ours), gradients(plain)))


def test_parts__batchnorm_sees_the_parts():
    cut, by_hand = net(99, lambda: nn.BatchNorm1d(6)), net(99, lambda: nn.BatchNorm1d(6))
    MicroBatches(4, "x").backward(cut, step())
    for rows in (slice(0, 3), slice(3, 7)):
        (step().loss(by_hand, rows) * (rows.stop - rows.start) / 7).backward()
    torch.testing.assert_close(gradients(cut), gradients(by_hand))
    assert torch.equal(cut[2].running_mean, by_hand[2].running_mean)


@pytest.mark.parametrize(("most", "limit"), [(6, 4), (3, 2), (1, 1)])
def test_parts__out_of_memory_halves_and_goes_on(most, limit):
    """7 images: 4, 2, then 1 at once. Gradients of what had been done before do not remain."""
    whole, cut, parts = net(99), net(most), MicroBatches(None, "x")
    MicroBatches(None, "x").backward(whole, step())
    parts.backward(cut, step())
    torch.testing.assert_close(gradients(cut), gradients(whole), rtol=1e-5, atol=1e-7)
    assert parts.limit == limit
    cut[0].seen.clear()
    parts.backward(cut, step())  # what did not fit is not tried again
    assert len(cut[0].seen) == -(-7 // limit)


def test_parts__late_in_a_step_memory_may_run_out_too():
    whole, cut = net(99), net(99)
    MicroBatches(None, "x").backward(whole, step())
    calls = []

    def loss(model, rows):
        calls.append(rows)
        if len(calls) == 2:
            raise torch.OutOfMemoryError("too many")
        return step().loss(model, rows)

    MicroBatches(5, "x").backward(cut, Step(7, loss))
    torch.testing.assert_close(gradients(cut), gradients(whole), rtol=1e-5, atol=1e-7)


def test_parts__with_batchnorm_the_user_is_asked():
    model = net(4, lambda: nn.BatchNorm1d(6))
    with pytest.raises(RunError, match=r"with 7 images at once.*--evaluation\.micro_batch 4 ") as e:
        MicroBatches(None, "evaluation").backward(model, step())
    assert "\n" not in str(e.value)
    MicroBatches(4, "evaluation").backward(model, step())
    with pytest.raises(RunError, match="with 6 images"):
        MicroBatches(6, "evaluation").backward(net(2, lambda: nn.BatchNorm1d(6)), step())


def test_parts__processes_that_train_together_cut_nothing_by_themselves():
    with pytest.raises(RunError, match=r"7 images at once in each process; .*squeeze\.batch_"):
        MicroBatches(None, "squeeze", shared=True).backward(net(2), step())
    MicroBatches(None, "squeeze", shared=True).backward(net(99), step())


def test_parts__one_image_that_does_not_fit_ends_the_run():
    with pytest.raises(RunError, match="one image"):
        MicroBatches(None, "x").backward(net(0), step())


@pytest.mark.parametrize(("most", "parts"), [(9, 1), (8, 2), (3, 3), (1, 9)])
def test_in_parts__answers_as_the_whole_network(most, parts, caplog):
    x = torch.randn(9, 5, generator=torch.Generator().manual_seed(0))
    whole, small = net(99).eval(), net(most).eval()
    answer = InParts(small)
    with torch.no_grad():
        torch.testing.assert_close(answer(x), whole(x))
        assert len(small[0].seen) >= parts
        caplog.clear()
        small[0].seen.clear()
        torch.testing.assert_close(answer(x[:8]), whole(x[:8]))
    assert not caplog.records  # known by now
    assert max(small[0].seen) <= most


def test_halving__parts_are_in_order_and_none_is_kept_of_a_try_that_failed():
    small = Small(3)
    found = Halving()(lambda part: small(part).tolist(), torch.arange(8))
    assert [row for part in found for row in part] == list(range(8))


def test_halving__one_picture_that_does_not_fit_ends_the_run():
    with pytest.raises(RunError, match="one picture"):
        Halving()(Small(0), torch.arange(4))
