"""Write artifacts, and look for what is left of a stopped write."""

import torch

from gvbsm.files.tensors import save

RECIPE = {"stage": "test", "seed": 0, "synthesis": {"alpha": 0.8, "backbones": ["a", "b"]}}


def tensors():
    generator = torch.Generator().manual_seed(0)
    return {
        "images": torch.randint(256, (4, 3, 5, 5), generator=generator).to(torch.uint8),
        "labels": torch.arange(4),
        "nested/name.weight": torch.randn(3, 2, generator=generator),
        "half": torch.randn(7, generator=generator).half(),
        "bf16": torch.randn(7, generator=generator).bfloat16(),
        "double": torch.tensor([torch.pi, float("inf"), -0.0], dtype=torch.float64),
        "flag": torch.tensor([True, False]),
        "scalar": torch.tensor(3, dtype=torch.int16),
        "empty": torch.zeros(0, 3),
    }


def write(path, kind="kind", recipe=RECIPE, **header):
    save(path, tensors(), {"kind": kind, "recipe": recipe, **header})
    return path


def leftovers(directory):
    return sorted(path.name for path in directory.iterdir())
