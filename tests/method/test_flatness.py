"""Flatness against its slow twin."""

import torch

from gvbsm.method.beyond.flatness import flatness
from support import reference


def test_flatness__equals_the_slow_twin_with_its_gradient():
    generator = torch.Generator().manual_seed(5)
    logits = 3 * torch.randn(4, 6, generator=generator, dtype=torch.float64)
    average = 3 * torch.randn(4, 6, generator=generator, dtype=torch.float64)

    def slow(z):
        rows = zip(z.tolist(), average.tolist(), strict=True)
        pairs = [[reference.softmax([v / 4 for v in row]) for row in pair] for pair in rows]
        return torch.tensor([reference.kl_divergence(*pair) for pair in pairs]).double()

    logits.requires_grad_()
    found = flatness(logits, average, 4.0)
    torch.testing.assert_close(found.detach(), slow(logits.detach()), rtol=1e-6, atol=1e-9)
    (gradient,) = torch.autograd.grad(found.sum(), logits)
    p, q = torch.softmax(logits.detach() / 4, 1), torch.softmax(average / 4, 1)
    ratio = (p / q).log()
    by_hand = p * (ratio - (p * ratio).sum(dim=1, keepdim=True)) / 4
    torch.testing.assert_close(gradient, by_hand)
    assert flatness(average, average, 4.0).abs().max() < 1e-12
