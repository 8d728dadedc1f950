"""Statistics as tensors: what is written comes back."""

import pytest
import torch

from gvbsm.files.artifacts import ArtifactError
from gvbsm.files.tensors import load_tensors, save
from gvbsm.method.moments import Moments
from gvbsm.method.statistics import Statistics
from gvbsm.store.statistics_codec import load_statistics, pack_statistics, unpack_statistics
from support.toy import N_P, WRN, of_classes


def test_statistics_round_trip(tmp_path):
    generator = torch.Generator().manual_seed(1)

    def moments(*shape):
        parts = (torch.rand(*shape, generator=generator, dtype=torch.float64) for _ in "mv")
        return Moments(*parts)

    paths = ("conv", "layer1.0.conv2", "features/odd.name")
    statistics = Statistics(
        {path: moments(3) for path in paths}, {path: moments(2, 4) for path in paths}
    )
    path = tmp_path / "s.safetensors"
    save(path, pack_statistics(statistics), {"kind": "statistics", "recipe": {}})
    found = unpack_statistics(load_tensors(path, "statistics")[0])
    for table, expected in ((found.channel, statistics.channel), (found.patch, statistics.patch)):
        assert table.keys() == expected.keys()
        for name, pair in table.items():
            assert torch.equal(pair.mean, expected[name].mean)
            assert torch.equal(pair.variance, expected[name].variance)
            assert pair.mean.dtype == torch.float64


@pytest.mark.parametrize("name", ["conv/channel/mean", "conv/other/mean", "mean"])
def test_statistics__a_damaged_file_is_named(name, tmp_path):
    path = tmp_path / "s.safetensors"
    tensors = {name: torch.ones(3), "conv/other/variance": torch.ones(3)}
    save(path, tensors, {"kind": "statistics", "recipe": {}})
    with pytest.raises(ArtifactError, match=rf"s\.safetensors is damaged \('{name}' is no mean"):
        load_statistics(path)


def test_statistics__by_class_come_back_from_tensors(teachers, data):
    table = Statistics({}, {}, *of_classes(teachers[WRN], data, N_P))
    found = unpack_statistics(pack_statistics(table))
    assert found.class_channel.keys() == table.class_channel.keys()
    assert found.class_patch.keys() == table.class_patch.keys() < table.class_channel.keys()
    for path, moments in table.class_channel.items():
        assert all(map(torch.equal, found.class_channel[path], moments))
