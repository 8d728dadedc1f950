"""Save and restore the state, film and traces of a running synthesis, bit for bit."""

from __future__ import annotations

from dataclasses import dataclass, field

from torch import Tensor

from gvbsm.engine.optimizers import pack_optimizer, unpack_optimizer, with_prefix, without_prefix
from gvbsm.files.checkpoint import Checkpoint
from gvbsm.method.matching import Average
from gvbsm.method.synthesis import State
from gvbsm.stages.group_files import Trace


@dataclass
class Work:
    """A stack of groups that is being optimized.

    Attributes:
        state: Images, optimizer and averages.
        film: Frames so far, uint8 (filmed, frames, channels, height, width).
        traces: Each group's trace.
    """

    state: State
    film: Tensor
    traces: list[Trace] = field(default_factory=list)

    def save(self, checkpoint: Checkpoint) -> None:
        """Write a checkpoint."""
        state = self.state
        averages = {
            f"{teacher}|{level}|{name}": value
            for teacher, levels in state.averages.items()
            for level, average in levels.items()
            for name, value in average._asdict().items()
        }
        tensors = {
            "images": state.images,
            **with_prefix("optimizer", pack_optimizer(state.solver)),
            **with_prefix("ema", averages),
            **with_prefix("copy", state.copies),
            "film": self.film,
        }
        checkpoint.save(tensors, {"step": state.step, "traces": self.traces})

    def resume(self, checkpoint: Checkpoint) -> None:
        """Restore the work from its checkpoint, if there is one."""
        if (saved := checkpoint.load()) is None:
            return
        tensors, header = saved
        state, device = self.state, self.state.images.device
        state.set_images(tensors["images"].to(device))
        unpack_optimizer(state.solver, without_prefix("optimizer", tensors))
        copies = without_prefix("copy", tensors)
        state.copies = {name: pixels.to(device) for name, pixels in copies.items()}
        averages = without_prefix("ema", tensors)
        for key in {key.rpartition("|")[0] for key in averages}:
            teacher, _, level = key.rpartition("|")
            values = (averages[f"{key}|{name}"].to(device) for name in Average._fields)
            state.averages[teacher][level] = Average(*values)
        self.film.copy_(tensors["film"])
        state.step, self.traces = header["step"], header["traces"]
