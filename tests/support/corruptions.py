"""A stand-in for the library imagecorruptions, which few have installed."""

import sys
from types import ModuleType

import numpy as np


def stand_in(monkeypatch, corrupt=None):
    """Put a library in place that adds noise, 10 levels a severity; give the list of its calls."""
    module, calls = ModuleType("imagecorruptions"), []

    def add_noise(image, severity, kind, **options):
        calls.append((image.copy(), severity, kind, options))
        if corrupt is not None:
            return corrupt(image)
        generator = np.random.default_rng(options["seed"]) if options else np.random
        noise = generator.normal(scale=10 * severity, size=(*image.shape[:2], 3))
        return np.uint8(np.clip(image + noise, 0, 255))

    module.corrupt = add_noise
    monkeypatch.setitem(sys.modules, "imagecorruptions", module)
    return calls
