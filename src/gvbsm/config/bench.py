"""Settings of the measurements."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class BenchConfig:
    """What `gvbsm bench` measures.

    Args:
        settings: Presets to measure: cifar10 (50 images of 32 pixels, five networks), imagenet-1k
            (40 images of 224 pixels, four networks).
        repeats: Repetitions of each measurement.
        groups: Numbers of batches in a forward pass to compare.
        processes: Numbers of processes, with one thread each, whose synthesis is compared.
        device: cpu, cuda or cuda:N; auto takes a GPU if there is one.
        precision: fp32 or bf16; auto is bf16 on CUDA, else fp32.
        threads: CPU threads; none leaves torch's choice.
        json: File for the results.
        memory: Measure how peak memory grows with classes, images and epochs instead.
    """

    settings: tuple[Literal["cifar10", "imagenet-1k"], ...] = ("cifar10", "imagenet-1k")
    repeats: int = 5
    groups: tuple[int, ...] = (1, 2, 4)
    processes: tuple[int, ...] = ()
    device: str = "auto"
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    threads: int | None = None
    json: str | None = None
    memory: bool = False
