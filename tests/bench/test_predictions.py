"""Predictions from measured networks, by hand, and the text of all numbers."""

from dataclasses import replace

import pytest

from gvbsm.bench.predictions import SIZES, format_bench, predict, spread_over_devices
from gvbsm.config.build import as_config

PAIR = {"bare": 0.2, "full": 0.25, "ratio": 1.25, "low": 1.2, "high": 1.3}


def measured(*rows):
    """A setting whose networks took so many seconds for an iteration and for a forward pass."""
    names = ("one", "two")
    return {
        "backbones": {
            name: {**PAIR, "full": full, "forward": forward, "images": images}
            for name, (full, forward, images) in zip(names, rows, strict=False)
        },
        "sum": {"bare": 0.4, "full": 0.5, "ratio": 1.25},
        "memory": {"backbone": "one", "bare": 1e6, "full": 1.5e6, "ratio": 1.5},
    }


@pytest.fixture
def found():
    """Numbers of one setting, as `run_bench` gives them."""
    synthesis = {"cifar10": measured((1.0, 0.1, 50), (3.0, 0.4, 50))}
    return {
        "synthesis": synthesis,
        "predictions": predict(synthesis),
        "devices": [],
        "data": {"pictures_per_second": {"memory": 54321.0, "files": 123.0}},
        "groups": {"backbone": "one", "images_per_second": {"1": 1500.0, "2": 1625.4}},
        "processes": {"backbone": "one", "images_per_second": {"1": 100.0, "2": 191.0}},
        "storage": {
            "network": "one",
            "labels_per_second": 4321.0,
            "schemes": {
                "8 bits": {
                    "bytes": 1016.4,
                    "write": {**PAIR, "labels_per_second": 98765.0},
                    "read": {**PAIR, "labels_per_second": 123456.0},
                }
            },
        },
        "labels": PAIR | {"ratio": 1.0123},
        "evaluation": PAIR,
        "squeeze": PAIR,
        "pooling": PAIR,
        "machine": {"torch": "2.0", "processor": "a fast one", "cores": 2},
        "repeats": 3,
    }


def test_predict__known_answer(monkeypatch):
    """50 images take 1 s and 3 s a step, so 0.04 s an image on average; forward 0.01 s in sum."""

    def preset(name):
        config = as_config(name)
        return replace(
            config,
            ipc=3,
            squeeze=replace(config.squeeze, epochs=7),
            statistics=replace(config.statistics, passes=2),
            synthesis=replace(config.synthesis, iterations=500),
            labels=replace(config.labels, epochs=11),
        )

    monkeypatch.setattr("gvbsm.bench.predictions.as_config", preset)
    rows = predict({"cifar10": measured((1.0, 0.1, 50), (3.0, 0.4, 50))})
    assert rows["cifar10"] == {
        "ipc": 3,
        "seconds_per_image": pytest.approx(500 * 0.04),
        "squeeze_hours": pytest.approx(7 * 50_000 * 3 * 0.01 / 3600),
        "statistics_hours": pytest.approx(2 * 50_000 * 0.01 / 3600),
        "synthesis_hours": pytest.approx(30 * 500 * 0.04 / 3600),
        "labels_hours": pytest.approx(30 * 11 * 0.01 / 3600),
    }


def test_predict__scales_by_classes_pictures_and_pixels():
    rows = predict({"cifar10": measured((1.0, 0.1, 50))})
    assert rows.keys() == {"cifar10", "cifar100", "tiny-imagenet"}
    seconds = {
        name: row["seconds_per_image"] / as_config(name).synthesis.iterations
        for name, row in rows.items()
    }
    assert seconds["cifar10"] == seconds["cifar100"] == pytest.approx(0.02)
    assert seconds["tiny-imagenet"] == pytest.approx(4 * 0.02)  # 64 pixels for 32
    for name, row in rows.items():
        classes, pictures, size, _ = SIZES[name]
        config, scale = as_config(name), (size / 32) ** 2
        assert row["synthesis_hours"] * 3600 == pytest.approx(
            classes * config.ipc * row["seconds_per_image"]
        )
        assert row["statistics_hours"] * 3600 == pytest.approx(
            config.statistics.passes * pictures * scale * 0.1 / 50
        )


def test_predict__pretrained_teachers_cost_no_squeeze():
    rows = predict({"imagenet-1k": measured((8.0, 2.0, 40))})
    assert rows.keys() == {"imagenet-1k"}
    assert rows["imagenet-1k"]["squeeze_hours"] == 0
    assert rows["imagenet-1k"]["statistics_hours"] == pytest.approx(1_281_167 * 0.05 / 3600)


def test_predict__what_was_not_measured_is_left_out():
    assert predict({}) == {}
    both = {"cifar10": measured((1.0, 0.1, 50)), "imagenet-1k": measured((8.0, 2.0, 40))}
    assert list(predict(both)) == list(SIZES)


def test_spread_over_devices__known_answer():
    """10,000 images take 100 hours on one device, so 522,500 images on 8 take 653."""
    known = {"ipc": 10, "synthesis_hours": 90.0, "labels_hours": 10.0}
    rows = spread_over_devices({"imagenet-1k": known})
    hours = {(row["data"], row["ipc"]): row["hours"] for row in rows}
    assert hours["imagenet-1k", 10] == {"1": 100.0, "8": 12.5, "64": pytest.approx(100 / 64)}
    assert hours["imagenet-1k", 100]["1"] == pytest.approx(1000)
    assert hours["imagenet-21k-p", 10]["8"] == pytest.approx(1045 / 8)
    assert spread_over_devices({"cifar10": known}) == []


def test_format__hours_on_several_devices(found):
    known = {"ipc": 10, "synthesis_hours": 90.0, "labels_hours": 10.0}
    text = format_bench({**found, "devices": spread_over_devices({"imagenet-1k": known})})
    (line,) = (line for line in text.splitlines() if "imagenet-1k, 50 images" in line)
    assert line.split()[-3:] == ["500.00", "62.50", "7.81"]
    assert "54321" in text


def test_sizes__belong_to_presets_that_exist():
    for name, (classes, pictures, size, preset) in SIZES.items():
        assert as_config(name).data.name == name
        assert min(classes, pictures, size) > 1
        assert SIZES[preset][3] == preset  # what is measured scales itself by 1
        assert as_config(preset).squeeze.backbones


def test_format__is_complete(found):
    text = format_bench(found)
    lines = text.splitlines()
    assert lines[0] == "torch 2.0, processor a fast one, cores 2"
    (one,) = [line for line in lines if line.startswith("  one ")]
    assert one.split() == ["one", "1.25", "(1.20", "to", "1.30)", "1000.0", "/", "200.0", "ms"]
    for start, end in (("  all ", "1.25"), ("  peak memory, one ", "1.50")):
        (line,) = [line for line in lines if line.startswith(start)]
        assert line.endswith(f" {end}")
    two = [line for line in lines if line.startswith("  2 ")]  # batches, processes
    assert [line.split(maxsplit=1)[1] for line in two] == ["1625", "191 (1.91)"]
    for stage in ("labels", "evaluation", "squeeze", "pooling"):
        assert sum(line.startswith(f"{stage} / ") for line in lines) == 1
    assert "1.01 (1.20 to 1.30)" in text
    told = [line for line in lines if line.startswith("  8 bits, 1016 bytes a label ")]
    assert [line.split()[-2:] for line in told] == [["98765", "labels/s"], ["123456", "labels/s"]]
    (line,) = [line for line in lines if line.startswith("  labels / s of one alone")]
    assert line.endswith(" 4321")
    for name, row in found["predictions"].items():
        (line,) = [line for line in lines if line.startswith(f"  {name}, {row['ipc']} images")]
        shown = line.rpartition("per class")[2].split()
        assert shown == [f"{value:.2f}" for key, value in row.items() if key != "ipc"]


def test_format__is_aligned(found):
    """Ratios below each other, and each prediction below its heading."""
    lines = format_bench(found).splitlines()
    starts = ("  one ", "  two ", "  all ", "  peak memory", "   ")
    dots = {line.index(".", 38) for line in lines if line.startswith(starts)}
    assert len(dots) == 1
    (heading,) = [index for index, line in enumerate(lines) if line.startswith("prediction")]
    assert len({len(line) for line in lines[heading:]}) == 1
    assert len(lines[heading:]) == 1 + len(found["predictions"])
    heads = lines[heading][38:]
    assert len(heads.split("  ")) > 4
    assert max(map(len, lines)) <= 120
    assert all(line == line.rstrip() for line in lines)


def test_format__what_is_not_known_is_left_out(found):
    found["synthesis"]["cifar10"]["memory"] |= {"bare": None, "full": None, "ratio": None}
    for key in ("groups", "labels", "evaluation", "squeeze", "pooling", "storage"):
        del found[key]
    text = format_bench(found)
    assert "None" not in text
    assert "peak memory" not in text
    assert "a pass" not in text
    assert "training steps" not in text
    assert "label store" not in text
    assert "  one " in text
