"""The names of forms, the race between them, and which of its trials wins."""

import copy

import pytest
import torch
from torch import nn

from gvbsm.engine.device import usual_layout
from gvbsm.engine.forms import Form, Forms
from gvbsm.engine.forms.compiled import CompiledNetwork
from gvbsm.engine.forms.race import CANDIDATES, Trial, fastest, noise, race

NETWORK = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(144, 2))


@pytest.mark.parametrize(
    "form",
    [*CANDIDATES, Form("fp32"), Form("bf16", compiled=True), Form("fp32", "contiguous", True)],
)
def test_a_form_is_found_again_by_its_name(form):
    assert Form.named(form.name) == form


def test_forms__names_none_for_work_that_was_not_raced():
    forms = Forms({"a": {"training": "bf16 contiguous"}})
    assert forms.of("a", "training") == Form("bf16", "contiguous")
    assert forms.of("a", "pixels") is None
    assert forms.of("b", "training") is None


def test_a_runtime_takes_the_form_of_the_network_and_keeps_its_own_for_others(runtime):
    forms = Forms({"a": {"pixels": "bf16 channels-last"}})
    mixed = type(runtime)(runtime.device, "fp32", 7, forms=forms)
    assert mixed.of("a", "pixels").form == Form("bf16", "channels-last")
    assert mixed.of("a", "training").form == Form("fp32")
    kernel = next(mixed.of("a", "pixels").place(nn.Conv2d(3, 8, 3)).parameters())
    assert kernel.is_contiguous(memory_format=torch.channels_last)
    back = next(mixed.place(nn.Conv2d(3, 8, 3).to(memory_format=torch.channels_last)).parameters())
    assert back.is_contiguous()


@pytest.mark.parametrize(
    ("times", "chosen"),
    [
        ((100, 90, 50, 45), "bf16"),  # channels-last is bf16's usual layout
        ((100, 90, 45, 50), "bf16 contiguous"),
        ((100, 90, 48, 48.5), "bf16"),  # no gain over the usual layout
        ((100, 99, 98, 99), "fp32"),  # no gain over the first
        ((100, 70, 60, 50), "bf16"),
        ((100, 70, -60, -50), "fp32 channels-last"),  # exactness before speed
        ((-100, -70, -60, -50), "fp32"),
    ],
)
def test_fastest__takes_what_gains_among_what_is_exact(times, chosen):
    raced = [
        Trial(form.name, abs(ms), 0.5 if ms < 0 else 1.0)
        for form, ms in zip(CANDIDATES, times, strict=True)
    ]
    assert fastest(raced, NETWORK).name == chosen


def test_usual_layout__is_contiguous_for_groupnorm():
    assert usual_layout(NETWORK, "bf16") == "channels-last"
    assert usual_layout(NETWORK, "fp32") == "contiguous"
    assert usual_layout(nn.Sequential(nn.GroupNorm(1, 2)), "bf16") == "contiguous"


def test_race__measures_how_far_each_form_is_from_float64(runtime):
    dtypes = []

    def work(network, in_form):
        def step(pictures):
            with torch.no_grad(), in_form.autocast():
                output = network(pictures)
            dtypes.append(output.dtype)
            # A computation that breaks in bf16 alone.
            return -output if output.dtype == torch.bfloat16 else output

        return step

    raced = race(NETWORK.eval(), work, (3, 8, 8), runtime)
    assert [trial.form for trial in raced] == [form.name for form in CANDIDATES]
    assert [round(trial.cosine, 2) for trial in raced] == [1.0, 1.0, -1.0, -1.0]
    assert dtypes[0] == torch.float64
    assert fastest(raced, NETWORK).precision == "fp32"


class InFloat32(nn.Module):
    """A network that works in float32 alone, and otherwise as `broken` says."""

    def __init__(self, broken):
        super().__init__()
        self.layer, self.broken = nn.Linear(4, 2), broken

    def forward(self, x):
        y = self.layer(x.flatten(1)[:, :4])
        if y.dtype in self.broken:
            raise RuntimeError(f"not in {y.dtype}")
        return y


def infer(network, in_form):
    def step(pictures):
        with torch.no_grad(), in_form.autocast():
            return network(pictures)

    return step


def test_race__leaves_out_the_forms_that_a_network_does_not_work_in(runtime):
    raced = race(InFloat32({torch.bfloat16}), infer, (3, 8, 8), runtime)
    assert [trial.form for trial in raced] == ["fp32 contiguous", "fp32 channels-last"]
    assert fastest(raced, NETWORK).precision == "fp32"
    with pytest.raises(RuntimeError, match="float32"):
        race(InFloat32({torch.float32}), infer, (3, 8, 8), runtime)


def test_race__compares_with_float32_where_float64_does_not_work(runtime):
    raced = race(InFloat32({torch.float64}), infer, (3, 8, 8), runtime)
    assert [trial.form for trial in raced] == [form.name for form in CANDIDATES]
    assert raced[0].cosine == pytest.approx(1)
    assert all(trial.cosine > 0.99 for trial in raced)


def test_noise__has_fewer_pictures_where_they_are_large():
    assert [len(noise((3, side, side))) for side in (8, 64, 128, 224)] == [16, 16, 4, 4]
    assert noise((3, 224, 224), 7).shape == (7, 3, 224, 224)


# Compiled networks


def gradients(network, pictures):
    network.zero_grad()
    network(pictures).square().sum().backward()
    return [parameter.grad for parameter in network.parameters()]


def test_compiled_network__trains_the_parameters_of_the_network():
    network = copy.deepcopy(NETWORK).train()
    compiled, pictures = CompiledNetwork(network), noise((3, 8, 8))
    expected = [gradient.clone() for gradient in gradients(copy.deepcopy(network), pictures)]
    assert [*map(id, compiled.parameters())] == [*map(id, network.parameters())]
    for gradient, reference in zip(gradients(compiled, pictures), expected, strict=True):
        torch.testing.assert_close(gradient, reference)


class NotOnZeros(nn.Module):
    def forward(self, x):
        if not bool(x.any()):
            raise ValueError("zeros")
        return 2 * x


def test_compiled_network__goes_on_uncompiled_but_keeps_the_networks_own_errors(monkeypatch):
    def broken(_):
        raise RuntimeError("no compiler\nand more")

    monkeypatch.setattr(torch, "compile", lambda *_, **_settings: broken)
    failures, ones = [], torch.ones(2)
    network = CompiledNetwork(NotOnZeros(), failures.append)
    assert torch.equal(network(ones), 2 * ones)
    assert torch.equal(network(ones), 2 * ones)
    assert failures == ["no compiler"]
    with pytest.raises(ValueError, match="zeros"):
        network(torch.zeros(2))
