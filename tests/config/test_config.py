"""The settings' own shape; reading and checking them is in test_settings.py."""

import dataclasses
import subprocess
import sys

import pytest

from gvbsm.config import Config, ViewConfig


def sections(of=Config):
    yield of
    for field in dataclasses.fields(of):
        if field.default_factory is not dataclasses.MISSING:
            default = field.default_factory()
            if dataclasses.is_dataclass(default):
                yield from sections(type(default))


@pytest.mark.parametrize("section", sorted(set(sections()), key=lambda kind: kind.__name__))
def test_section__is_frozen_and_describes_each_of_its_fields(section):
    with pytest.raises(dataclasses.FrozenInstanceError):
        setattr(section(), dataclasses.fields(section)[0].name, None)
    described = section.__doc__.partition("Args:")[2]
    for field in dataclasses.fields(section):
        assert f"        {field.name}: " in described


def test_defaults__are_table_9_for_cifar():
    config = Config()
    assert (config.squeeze.optimizer.lr, config.squeeze.batch_size) == (0.05, 64)
    synthesis = config.synthesis
    assert (synthesis.iterations, synthesis.batch_size, synthesis.beta_dr) == (4000, 50, 0.4)
    assert (synthesis.optimizer.lr, synthesis.optimizer.betas) == (0.05, (0.5, 0.9))
    assert (synthesis.weight_batchnorm, synthesis.weight_conv) == (0.01, 0.01)
    assert (synthesis.weight_densification, synthesis.tau, config.statistics.n_p) == (1.0, 4.0, 4)
    assert (config.labels.epochs, config.evaluation.gamma) == (1000, 0.15)


def test_defaults__leave_how_it_is_computed_to_the_machine():
    config = Config()
    assert (config.device, config.precision, config.synthesis.compile) == ("auto", "auto", "auto")
    assert config.threads is config.synthesis.groups is None


def test_defaults__of_sections_are_not_shared():
    assert Config().labels.views.cutmix == 1.0
    assert Config().synthesis.views.cutmix == ViewConfig().cutmix == 0.0


def test_config__imports_no_torch():
    code = "import sys, gvbsm.config, gvbsm.config.build; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
