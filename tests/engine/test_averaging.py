"""The moving average of parameters: against the weighted mean that it stands for."""

import pytest
import torch
from torch import nn

from gvbsm.engine.averaging import Averaging


def stepped(net, number):
    generator = torch.Generator().manual_seed(number)
    with torch.no_grad():
        for part in net.parameters():
            part.copy_(torch.randn(part.shape, generator=generator))
    net[1].running_mean.fill_(number)


def small():
    return nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4)).double()


@pytest.mark.parametrize("decay", [0.3, 0.9, 0.999, 0.99999])
def test_average__is_the_weighted_mean_of_all_steps_without_bias_to_the_first(decay):
    net = small()
    average, seen = Averaging(net, decay), []
    for number in range(1, 8):
        stepped(net, number)
        average.update()
        seen.append([part.detach().clone() for part in net.parameters()])
        weights = [decay ** (len(seen) - 1 - i) for i in range(len(seen))]
        for place, found in enumerate(average.network.parameters()):
            parts = (w * step[place] for w, step in zip(weights, seen, strict=True))
            torch.testing.assert_close(found, sum(parts) / sum(weights), rtol=1e-9, atol=1e-12)
        assert torch.equal(average.network[1].running_mean, net[1].running_mean)
    average.settle()
    for own, averaged in zip(net.parameters(), average.network.parameters(), strict=True):
        assert torch.equal(own, averaged)


def test_average__off_is_the_network_itself():
    net = small()
    average = Averaging(net, 0.0)
    average.update()
    average.settle()
    assert average.network is net
    assert average.state() == {}
    average.load({})


def test_average__goes_on_from_its_state():
    net, twin = small(), small()
    average, other = Averaging(net, 0.9), Averaging(twin, 0.9)
    for number in range(3):
        stepped(net, number)
        average.update()
    other.load({name: part.clone() for name, part in average.state().items()})
    for one, moved in ((net, average), (twin, other)):
        stepped(one, 9)
        moved.update()
    for ours, theirs in zip(average.network.parameters(), other.network.parameters(), strict=True):
        assert torch.equal(ours, theirs)
