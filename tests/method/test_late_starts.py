"""Settings beyond the paper: faults are told before work."""

import pytest

from gvbsm.config import ConfigError, SynthesisConfig
from gvbsm.config.build import build_config
from gvbsm.method.beyond.late_starts import late_begins, side_at, stage_begins


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
        ({"rounds": 2}, "init is noise; set synthesis.init=real, or leave rounds out"),
        ({"stage_sizes": [6, 8]}, r"each of synthesis\.stages \(1\), got \[6, 8\]"),
        ({"stage_sizes": [8], "stages": 2}, r"stages \(2\), got \[8\]"),
        ({"stage_sizes": [0, 8], "stages": 2}, r"1 pixel or more .* got \[0, 8\]"),
        ({"rounds": 0}, "rounds must be from 1 to"),
        ({"rounds": 11, "init": "real"}, r"ipc \(10\), .* \(4000\), got 11"),
        ({"rounds": 4, "iterations": 3, "init": "real"}, r"iterations \(3\), got 4"),
    ],
)
def test_beyond_faults__are_one_line(settings, line):
    with pytest.raises(ConfigError, match=line) as error:
        build_config({"synthesis": settings})
    assert "\n" not in str(error.value)


def test_late_begins__cut_images_and_iterations_evenly():
    def begins(iterations, rounds, ipc):
        return late_begins(SynthesisConfig(iterations=iterations, rounds=rounds), ipc)

    assert begins(4000, 1, 3) == [0, 0, 0]
    assert begins(4000, 4, 4) == [0, 1000, 2000, 3000]
    assert begins(8, 3, 5) == [0, 0, 2, 2, 5]  # the first rounds are the larger
    assert begins(2, 2, 3) == [0, 0, 1]


def test_side_at__is_that_of_the_stage():
    staged = SynthesisConfig(iterations=8, stages=3, stage_sizes=(6, 10, 8))
    assert [side_at(staged, step, 8) for step in range(8)] == [6, 6, 10, 10, 10, 8, 8, 8]
    assert side_at(SynthesisConfig(stages=3), 5, 8) == 8


def test_stage_begins__cut_the_iterations_evenly():
    def begins(iterations, stages):
        return stage_begins(SynthesisConfig(iterations=iterations, stages=stages))

    assert begins(4000, 1) == []
    assert begins(2000, 4) == [500, 1000, 1500]
    assert begins(8, 3) == [2, 5]
