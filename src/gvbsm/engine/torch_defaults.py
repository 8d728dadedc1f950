"""torch's defaults, for code that must not depend on what its caller has set."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator


@contextlib.contextmanager
def torch_defaults() -> Iterator[None]:
    """Set torch's own defaults inside the block, and restore the caller's after it.

    Inside, tensors are float32 on the CPU unless a device or dtype is named, gradients are
    recorded, and no autocast is active. The number of threads may be changed inside.
    """
    import torch  # here, so that a decorated function can be imported without torch

    dtype, threads = torch.get_default_dtype(), torch.get_num_threads()
    with contextlib.ExitStack() as restored:
        torch.set_default_dtype(torch.float32)
        restored.callback(torch.set_default_dtype, dtype)
        if torch.get_default_device().type != "cpu":  # such a context costs time at every call
            restored.enter_context(torch.device("cpu"))
        restored.enter_context(torch.inference_mode(mode=False))
        restored.enter_context(torch.enable_grad())
        for kind in ("cpu", "cuda"):
            if torch.is_autocast_enabled(kind):
                restored.enter_context(torch.autocast(kind, enabled=False))
        try:
            yield
        finally:
            if torch.get_num_threads() != threads:
                torch.set_num_threads(threads)
