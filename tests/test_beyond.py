"""Settings beyond the paper: faults are told before work."""

import pytest

from gvbsm.beyond import stage_begins
from gvbsm.config import ConfigError, SynthesisConfig
from gvbsm.settings import build_config


@pytest.mark.parametrize(
    ("settings", "line"),
    [
        ({"crop_scale": [0.5, 0.2]}, r"crop_scale must satisfy .* got \[0\.5, 0\.2\]"),
        ({"crop_scale": [0.0, 1.0]}, "crop_scale must satisfy"),
        ({"stages": 0}, r"stages must be from 1 to synthesis\.iterations \(4000\), got 0"),
        ({"stages": 5, "iterations": 4}, "got 5"),
        ({"residual": 0.5, "init": "real"}, "stages is 1; take more"),
        ({"residual": 0.5, "stages": 2}, "init is noise; set"),
        ({"residual": 1.0, "stages": 2, "init": "real"}, r"residual must be in \[0, 1\), got 1"),
        ({"weight_class": 1.5}, r"weight_class must be in \[0, 1\], got 1\.5"),
        ({"weight_flatness": -1.0}, "weight_flatness must not be negative, got -1"),
        ({"flatness_decay": 1.0}, "flatness_decay must be in"),
        ({"flatness_tau": 0.0}, "flatness_tau must be positive, got 0"),
        ({"crop_tiles": 2}, "init is noise; set synthesis.init=crops"),
    ],
)
def test_beyond_faults__are_one_line(settings, line):
    with pytest.raises(ConfigError, match=line) as error:
        build_config({"synthesis": settings})
    assert "\n" not in str(error.value)


def test_stage_begins__cut_the_iterations_evenly():
    def begins(iterations, stages):
        return stage_begins(SynthesisConfig(iterations=iterations, stages=stages))

    assert begins(4000, 1) == []
    assert begins(2000, 4) == [500, 1000, 1500]
    assert begins(8, 3) == [2, 5]
