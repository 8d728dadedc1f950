"""The chance of dropping a layer's matching, by images per class."""

import json
from dataclasses import replace

import pytest

from gvbsm.config import ConfigError
from gvbsm.config.build import as_config, build_config, for_method, to_dict
from gvbsm.config.settled import check_beta_dr, settle_beta_dr
from gvbsm.config.yaml_files import format_yaml

BETAS = {"synthesis": {"beta_dr": 0.4, "beta_dr_of": {10: 0.0, 50: 0.2}}}


@pytest.mark.parametrize(("ipc", "wanted"), [(1, 0.4), (10, 0.0), (50, 0.2), (100, 0.4)])
def test_the_chance_of_dropping_a_layer_goes_by_images_per_class(ipc, wanted):
    config = build_config({**BETAS, "ipc": ipc})
    settled = settle_beta_dr(config)
    assert settled == replace(config, synthesis=replace(config.synthesis, beta_dr=wanted))
    assert settle_beta_dr(settled) == settled
    assert for_method(config, "sre2l").synthesis.beta_dr == wanted


def test_the_table_of_chances_is_the_same_after_json_and_yaml(tmp_path):
    config = build_config(BETAS)
    (path := tmp_path / "mine.yaml").write_text(
        format_yaml(json.loads(json.dumps(to_dict(config))))
    )
    assert as_config(str(path)) == config


def test_a_chance_that_was_asked_for_and_is_overruled_is_refused():
    check_beta_dr(build_config({**BETAS, "ipc": 1}))
    words = r"beta_dr is 0\.4, but synthesis\.beta_dr_of has 0\.0 at 10 images per class"
    with pytest.raises(ConfigError, match=words):
        check_beta_dr(build_config({**BETAS, "ipc": 10}))
