"""Pictures a second that the data pipeline yields by itself, without a network.

    python benchmarks/loading.py

From memory: cropped and mirrored batches of 32 pixels, on the device. From files: JPEG pictures of
ImageNet's usual size that one worker decodes, crops and resizes to 224 pixels. Workers add up as
long as there are cores for them.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path
from statistics import median

import torch
import torch.nn.functional as F

from gvbsm.config import ViewConfig
from gvbsm.config.build import as_config
from gvbsm.data.datasets import ImageData
from gvbsm.data.loading import training_batches, view_batches
from gvbsm.data.pictures import Split, write_image
from gvbsm.data.pixels import Normalization
from gvbsm.engine.device import Runtime
from noise import noise_data
from timing import add_options, cost_of, machine, runtime_of

BATCH, ROUNDS = 64, 5
HELD = 12 * BATCH  # pictures in memory
FILES, FILE_SIZE, SIDE = 64, (375, 500), 224


def noise_files(folder: Path) -> ImageData:
    """JPEG files of smoothed noise, about as long as photographs are."""
    generator = torch.Generator().manual_seed(0)
    height, width = FILE_SIZE
    paths = []
    for number in range(FILES):
        coarse = torch.rand(1, 3, height // 4, width // 4, generator=generator)
        picture = F.interpolate(coarse, FILE_SIZE, mode="bilinear")[0]
        paths.append(folder / f"{number}.jpg")
        write_image(paths[-1], (255 * picture).to(torch.uint8), quality=90)
    split = Split(torch.arange(FILES) % 10, paths=tuple(paths))
    half = Normalization((0.5,) * 3, (0.5,) * 3)
    return ImageData("noise", tuple(map(str, range(10))), 3, SIDE, split, split, half, "noise")


def rate(data: ImageData, views: ViewConfig, runtime: Runtime) -> float:
    """Pictures a second: the median of passes over the data, after one that does not count."""

    def read() -> None:
        batches = training_batches(data, BATCH, runtime, ("benchmark",))
        for _ in view_batches(data, views, batches, runtime, ("benchmark",)):
            pass

    read()
    seconds = median(cost_of(read, runtime.device).wall for _ in range(ROUNDS))
    return len(data.train) / seconds


def main() -> None:
    """Measure, print the table, and write the figures to `--json`."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add_options(parser)
    options = parser.parse_args()
    runtime = runtime_of(options)
    rates = {"memory": rate(noise_data(HELD), as_config("cifar10").squeeze.views, runtime)}
    with tempfile.TemporaryDirectory() as name:
        files = noise_files(Path(name))
        rates["files"] = rate(files, as_config("imagenet-1k").squeeze.views, runtime)
    print(f"pictures / s from memory, 32 px: {rates['memory']:.0f}")
    print(f"pictures / s from JPEG files to 224 px, one worker: {rates['files']:.0f}")
    if options.json is not None:
        figures = {"machine": machine(runtime), "pictures_per_second": rates}
        options.json.write_text(json.dumps(figures, indent=2) + "\n")


if __name__ == "__main__":
    main()
