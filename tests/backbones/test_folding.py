"""Networks with BatchNorm folded into their convolutions answer as before."""

import pytest
import torch
from torch import nn

from gvbsm.backbones import build_backbone
from gvbsm.backbones.folding import fold_batchnorm


def trained(name):
    """A network whose BatchNorm has recorded moments, in float64."""
    torch.manual_seed(0)
    net = build_backbone(name, 5, 32).double()
    with torch.no_grad():
        for _ in range(2):
            net(3 * torch.randn(8, 3, 32, 32, dtype=torch.float64) + 1)
    return net.eval()


def batchnorms(net):
    return sum(isinstance(module, nn.BatchNorm2d) for module in net.modules())


@pytest.mark.parametrize(
    ("name", "left"),
    [
        ("resnet18", 0),
        ("mobilenet_v2_x0_5", 0),
        ("shufflenet_v2_x0_5", 0),
        ("wrn10_1", 4),  # normalized before the convolution: no convolution there to fold into
    ],
)
def test_outputs_are_the_same_and_layers_are_gone(name, left):
    net = trained(name)
    folded = fold_batchnorm(net, (3, 32, 32))
    pictures = torch.randn(4, 3, 32, 32, dtype=torch.float64)
    torch.testing.assert_close(folded(pictures), net(pictures), rtol=1e-10, atol=1e-10)
    assert batchnorms(folded) == left < batchnorms(net)
    weight = next(module.weight for module in folded.modules() if isinstance(module, nn.Conv2d))
    assert weight.is_contiguous(memory_format=torch.channels_last)
    assert not any(
        parameter is other for parameter in folded.parameters() for other in net.parameters()
    )


class Branching(nn.Module):
    """Cannot be traced: its path depends on the pictures."""

    def __init__(self):
        super().__init__()
        self.conv, self.norm = nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)

    def forward(self, x):
        y = self.norm(self.conv(x)).mean(dim=(2, 3))
        return y if x.sum() > 0 else -y


class Drawing(Branching):
    """Can be traced, and then repeats the draw of its first call."""

    def forward(self, x):
        return float(torch.rand(())) * self.norm(self.conv(x)).mean(dim=(2, 3))


@pytest.mark.parametrize("net", [Branching(), Drawing(), build_backbone("convnet8_d1", 5, 8)])
def test_what_cannot_be_folded_stays_as_it_is(net):
    net = net.eval()
    assert fold_batchnorm(net, (3, 8, 8)) is net
