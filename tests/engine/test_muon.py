"""Muon: orthogonal updates against singular values, and which parameters get them."""

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st

from gvbsm.backbones import build_backbone
from gvbsm.config import OptimizerConfig
from gvbsm.engine.muon import Muon, orthogonalize
from gvbsm.engine.optimizers import make_optimizer


def drawn(rows, columns, seed=0):
    return torch.randn(
        rows, columns, dtype=torch.float64, generator=torch.Generator().manual_seed(seed)
    )


@given(rows=st.integers(1, 24), columns=st.integers(1, 24), seed=st.integers(0, 99))
def test_orthogonalize__singular_values_come_near_1_and_vectors_stay(rows, columns, seed):
    matrix = drawn(rows, columns, seed)
    (found,) = orthogonalize([matrix])
    assert found.shape == matrix.shape
    before = torch.linalg.svdvals(matrix)
    after = torch.linalg.svdvals(found)
    large = int((before > 0.02 * before.norm()).sum())
    assert ((after[:large] > 0.6) & (after[:large] < 1.3)).all()
    # The same singular vectors: found^T matrix is then symmetric, and has no negative eigenvalue.
    product = found.T @ matrix
    torch.testing.assert_close(product, product.T, rtol=0, atol=1e-9 * float(before.sum()))
    assert torch.linalg.eigvalsh(product).min() > -1e-9 * float(before.sum())


def test_orthogonalize__has_no_scale_and_zero_stays_zero():
    matrix = drawn(5, 9)
    scaled, found, zero = orthogonalize([1e3 * matrix, matrix, torch.zeros_like(matrix)])
    torch.testing.assert_close(scaled, found, rtol=1e-5, atol=0)
    assert torch.equal(zero, torch.zeros_like(matrix))


@given(shapes=st.lists(st.tuples(st.integers(1, 5), st.integers(1, 5)), min_size=1, max_size=7))
def test_orthogonalize__takes_each_matrix_by_itself(shapes):
    """Those whose short sides are alike go through the iteration together, tall ones too."""
    matrices = [10.0**seed * drawn(*shape, seed) for seed, shape in enumerate(shapes)]
    for found, matrix in zip(orthogonalize(matrices), matrices, strict=True):
        assert found.shape == matrix.shape
        torch.testing.assert_close(found, orthogonalize([matrix])[0], rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_kernels__are_moved_as_each_would_be_alone(layout):
    """And whatever the order in which they lie in memory."""
    shapes = [(4, 3, 3, 3), (4, 27), (6, 4), (4, 3, 3, 3), (2, 5)]
    kernels = [torch.nn.Parameter(torch.zeros(shape, dtype=torch.float64)) for shape in shapes]
    alone = [torch.nn.Parameter(kernel.detach().clone()) for kernel in kernels]

    def laid(tensor):
        return tensor.contiguous(memory_format=layout) if tensor.ndim == 4 else tensor

    for kernel in kernels:
        kernel.data = laid(kernel.data)
    together = Muon(kernels, [], 0.1, 0.9, (0.9, 0.999), 0.1)
    solvers = [Muon([kernel], [], 0.1, 0.9, (0.9, 0.999), 0.1) for kernel in alone]
    for step in range(3):
        for number, (kernel, other) in enumerate(zip(kernels, alone, strict=True)):
            other.grad = drawn(1, kernel.numel(), 10 * step + number).view(kernel.shape)
            kernel.grad = laid(other.grad.clone())
        together.step()
        for solver in solvers:
            solver.step()
    for kernel, other in zip(kernels, alone, strict=True):
        assert kernel.abs().max() > 0
        assert kernel.stride() == laid(other.detach()).stride()
        torch.testing.assert_close(kernel, other, rtol=1e-9, atol=1e-12, check_stride=False)


def test_update__has_adamws_size_whatever_the_gradients_is():
    """A root mean square of about 0.2 times the rate, for wide and tall kernels alike."""
    for shape in [(64, 3, 3, 3), (16, 64, 3, 3), (8, 32)]:
        kernel = torch.nn.Parameter(torch.zeros(shape))
        solver = Muon([kernel], [], 0.1, 0.9, (0.9, 0.999), 0.0)
        kernel.grad = 1e-4 * torch.randn(shape, generator=torch.Generator().manual_seed(1))
        solver.step()
        size = float(kernel.detach().square().mean().sqrt())
        assert size == pytest.approx(0.1 * 0.2, rel=0.35)  # singular values are 0.7 to 1.2


def test_networks__kernels_are_orthogonalized_the_classifier_and_vectors_are_not():
    config = OptimizerConfig(name="muon", lr=0.01)
    model = build_backbone("convnet8", 10, 32, 3)
    before = {name: value.detach().clone() for name, value in model.named_parameters()}
    twin = build_backbone("convnet8", 10, 32, 3)
    twin.load_state_dict(model.state_dict())
    pictures = torch.randn(6, 3, 32, 32, generator=torch.Generator().manual_seed(2))
    solvers = [
        make_optimizer(config, list(model.parameters()), 0.01),
        torch.optim.AdamW(twin.parameters(), lr=0.01, weight_decay=0.0),
    ]
    for network, solver in zip((model, twin), solvers, strict=True):
        F.cross_entropy(network(pictures), torch.arange(6)).backward()
        solver.step()
    adamw = dict(twin.named_parameters())
    for name, value in model.named_parameters():
        moved = (value - before[name]).detach()
        if value.ndim == 4:
            values = torch.linalg.svdvals(moved.flatten(1)) / (
                0.01 * 0.2 * max(moved.flatten(1).shape) ** 0.5
            )
            assert 0.6 < values.max() < 1.3
        else:
            torch.testing.assert_close(value, adamw[name], rtol=1e-5, atol=1e-7)
    assert {value.ndim for value in model.parameters()} == {1, 2, 4}


def test_tensors_of_three_dimensions_are_adamws():
    """Such as the position embeddings of a transformer, (1, tokens, width)."""
    config = OptimizerConfig(name="muon", lr=0.01, weight_decay=0.1)
    shapes = [(1, 5, 4), (6, 4), (3, 6)]
    ours, theirs = ([torch.nn.Parameter(torch.ones(shape)) for shape in shapes] for _ in range(2))
    solvers = [
        make_optimizer(config, ours, 0.01),
        torch.optim.AdamW(theirs, lr=0.01, betas=config.betas, weight_decay=0.1),
    ]
    for parameters, solver in zip((ours, theirs), solvers, strict=True):
        for seed, parameter in enumerate(parameters):
            parameter.grad = drawn(1, parameter.numel(), seed).float().view(parameter.shape)
        solver.step()
    embedding, matrix, classifier = map(torch.allclose, ours, theirs)
    assert embedding
    assert classifier
    assert not matrix


def test_parameters_without_a_gradient_stay():
    kernel = torch.nn.Parameter(torch.ones(3, 3))
    Muon([kernel], [torch.nn.Parameter(torch.ones(2))], 0.1, 0.9, (0.9, 0.999), 0.5).step()
    assert torch.equal(kernel, torch.ones(3, 3))
