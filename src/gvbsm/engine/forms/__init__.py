"""The forms in which a network can be computed, and which of them each kind of work takes.

A form is a precision, a memory layout, and whether the network is compiled. Which one is fastest
depends on the processor, on the network and on what is computed; `race.py` measures it. This module
needs no torch.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal, NamedTuple

Kind = Literal["training", "pixels", "inference"]
"""What is computed: a training step; a forward pass and the gradient of the pixels; a forward pass.
"""


class Form(NamedTuple):
    """How a network is computed.

    Attributes:
        precision: fp32 or bf16 (autocast; master weights, losses and statistics stay float32).
        layout: channels-last or contiguous; None is what `usual_layout` names.
        compiled: Whether the network is compiled; for pixels, with the statistics of its layers.
    """

    precision: str = "fp32"
    layout: str | None = None
    compiled: bool = False

    @property
    def name(self) -> str:
        """Name for recipes and logs, such as `bf16` or `fp32 channels-last`."""
        words = (self.precision, self.layout, "compiled" if self.compiled else None)
        return " ".join(word for word in words if word)

    @classmethod
    def named(cls, name: str) -> Form:
        """The form of a name."""
        precision, *words = name.split()
        layouts = [word for word in words if word != "compiled"]
        return cls(precision, layouts[0] if layouts else None, "compiled" in words)


@dataclass(frozen=True)
class Forms:
    """The form of single networks in single kinds of work.

    Attributes:
        table: Names of forms by kind of work, by network.
    """

    table: Mapping[str, Mapping[Kind, str]] = field(default_factory=dict)

    def of(self, network: str, kind: Kind) -> Form | None:
        """Return the form of a network in a kind of work; None if none is named."""
        name = self.table.get(network, {}).get(kind)
        return Form.named(name) if name else None

    @property
    def precisions(self) -> list[str]:
        """The precisions that occur, sorted."""
        names = [name for row in self.table.values() for name in row.values()]
        return sorted({Form.named(name).precision for name in names})


NO_FORMS = Forms()
