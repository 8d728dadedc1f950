"""What `gvbsm bench` has measured: predictions for the presets, and the text."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from statistics import mean
from typing import Any

from gvbsm.config.build import as_config

# Data sets of the predictions: classes, training pictures, side in pixels, the preset they scale.
SIZES = {
    "cifar10": (10, 50_000, 32, "cifar10"),
    "cifar100": (100, 50_000, 32, "cifar10"),
    "tiny-imagenet": (200, 100_000, 64, "cifar10"),
    "imagenet-1k": (1000, 1_281_167, 224, "imagenet-1k"),
}
# What is spread over several devices: data set, classes, images per class.
LARGE_SETS = (
    ("imagenet-1k", 1000, 10),
    ("imagenet-1k", 1000, 50),
    ("imagenet-1k", 1000, 100),
    ("imagenet-21k-p", 10_450, 10),
)
DEVICES = (1, 8, 64)
SOURCES = {"memory": "memory, 32 px", "files": "JPEG files to 224 px, one worker"}
BARE = {
    "labels": "teachers' forward passes",
    "evaluation": "bare training steps",
    "squeeze": "bare training steps",
    "pooling": "training steps with torch's AvgPool2d",
}


def predict(measured: Mapping[str, Any]) -> dict[str, Any]:
    """Seconds an image and hours of each preset, scaled from the measured networks by pixels.

    No layer is taken as dropped, a training step counts as three forward passes, and compiling is
    left out.

    Args:
        measured: The numbers of each setting that was measured, by its preset.
    """
    rows = {}
    for name, (classes, pictures, size, preset) in SIZES.items():
        if preset not in measured:
            continue
        config = as_config(name)
        networks = measured[preset]["backbones"].values()
        scale = (size / SIZES[preset][2]) ** 2
        full = scale * mean(row["full"] / row["images"] for row in networks)
        forward = scale * sum(row["forward"] / row["images"] for row in networks)
        count = classes * config.ipc
        image = config.synthesis.iterations * full
        epochs = 0 if config.squeeze.pretrained else config.squeeze.epochs
        rows[name] = {
            "ipc": config.ipc,
            "seconds_per_image": image,
            "squeeze_hours": epochs * pictures * 3 * forward / 3600,
            "statistics_hours": pictures * config.statistics.passes * forward / 3600,
            "synthesis_hours": count * image / 3600,
            "labels_hours": count * config.labels.epochs * forward / 3600,
        }
    return rows


def spread_over_devices(predictions: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Hours of synthesis and labels on several devices like the measured one.

    The batches of images know nothing of each other and so do the views of the labels: both are
    taken to split evenly. ImageNet-21k-P is taken with ImageNet-1k's settings.

    Args:
        predictions: What `predict` returned; without ImageNet-1k there is nothing to spread.
    """
    if (known := predictions.get("imagenet-1k")) is None:
        return []
    images = SIZES["imagenet-1k"][0] * known["ipc"]
    rows = []
    for name, classes, ipc in LARGE_SETS:
        hours = known["synthesis_hours"] + known["labels_hours"]
        one = hours * classes * ipc / images
        spread = {str(devices): one / devices for devices in DEVICES}
        rows.append({"data": name, "ipc": ipc, "hours": spread})
    return rows


def format_bench(found: Mapping[str, Any]) -> str:
    """The numbers as text."""
    lines = [", ".join(f"{key} {value}" for key, value in found["machine"].items())]
    for preset, part in found["synthesis"].items():
        lines += ["", *_synthesis_lines(preset, part)]
    for stage, bare in BARE.items():
        if stage in found:
            lines += ["", f"{stage} / {bare}", f"  {'':36} {_ratio(found[stage])}"]
    if "groups" in found:
        lines += ["", f"batches a pass, {found['groups']['backbone']}: images x iterations / s"]
        rates = found["groups"]["images_per_second"].items()
        lines += [f"  {groups:36} {rate:5.0f}" for groups, rate in rates]
    if "processes" in found:
        lines += ["", f"processes, {found['processes']['backbone']}: images x iterations / s"]
        rates = found["processes"]["images_per_second"]
        first = next(iter(rates.values()))
        lines += [f"  {name:36} {rate:5.0f} ({rate / first:.2f})" for name, rate in rates.items()]
    if "data" in found:
        lines += ["", "data pipeline alone: pictures / s"]
        rates = found["data"]["pictures_per_second"].items()
        lines += [f"  {SOURCES[source]:36} {rate:5.0f}" for source, rate in rates]
    if "storage" in found:
        lines += ["", *_storage_lines(found["storage"])]
    heads = ("s/image", "squeeze h", "statistics h", "synthesis h", "labels h")
    lines += ["", f"{'prediction':38}" + "".join(f"{head:>14}" for head in heads)]
    for name, row in found["predictions"].items():
        values = [value for key, value in row.items() if key != "ipc"]
        lines.append(_row(name, row["ipc"], values))
    if found["devices"]:
        columns = "".join(f"{f'{devices} devices':>14}" for devices in DEVICES)
        lines += ["", f"{'synthesis and labels, hours on':38}{columns}"]
        lines += [_row(row["data"], row["ipc"], row["hours"].values()) for row in found["devices"]]
    return "\n".join(lines)


def _synthesis_lines(preset: str, part: Mapping[str, Any]) -> list[str]:
    lines = [f"synthesis as in {preset}: full iteration / bare network"]
    lines += [f"  {name:36} {_ratio(row)}" for name, row in part["backbones"].items()]
    lines.append(f"  {'all':36} {part['sum']['ratio']:5.2f}")
    memory = part["memory"]
    if memory["ratio"] is not None:
        lines.append(f"  {'peak memory, ' + memory['backbone']:36} {memory['ratio']:5.2f}")
    return lines


def _storage_lines(part: Mapping[str, Any]) -> list[str]:
    """Labels of 1000 classes: the store against plain files, and labels a second."""
    lines = []
    for work, plain in (("write", "written"), ("read", "read")):
        lines.append(f"label store, 1000 classes: {work} / a plain file {plain}")
        for name, row in part["schemes"].items():
            label = f"{name}, {row['bytes']:.0f} bytes a label"
            rate = f"{row[work]['labels_per_second']:10.0f} labels/s"
            lines.append(f"  {label:36} {_ratio(row[work])}{rate}")
    rate = part["labels_per_second"]
    return [*lines, f"  {'labels / s of ' + part['network'] + ' alone':36} {rate:5.0f}"]


def _row(name: str, ipc: int, values: Iterable[float]) -> str:
    label = f"  {name}, {ipc} images per class"
    return f"{label:38}" + "".join(f"{value:14.2f}" for value in values)


def _ratio(row: Mapping[str, float]) -> str:
    times = f"{1e3 * row['full']:10.1f} / {1e3 * row['bare']:.1f} ms"
    return f"{row['ratio']:5.2f} ({row['low']:.2f} to {row['high']:.2f}){times}"
