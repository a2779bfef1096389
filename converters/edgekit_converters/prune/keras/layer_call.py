"""One call of a layer: its inputs, their channels, and its output."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from edgekit_converters.frameworks.keras_graph import Call
from edgekit_converters.prune.keras.channels import Tracing, TrackedAxis


@dataclass(frozen=True)
class LayerCall:
    """One call of a layer, as the propagation rules read it."""

    call: Call
    tags: tuple[TrackedAxis, ...]  # of the inputs
    shapes: tuple[tuple[int, ...], ...]  # of the inputs, with the batch
    shape: tuple[int, ...]  # of the output
    tracing: Tracing

    @property
    def layer(self) -> Any:
        """The layer that is called."""
        return self.call.layer

    @property
    def last(self) -> bool:
        """Whether the channels of the first input are on its last axis."""
        return self.tags[0].axis == len(self.shapes[0]) - 1

    def keep(self, why: str) -> None:
        """Mark the channels of all inputs as not to be cut."""
        for tag in self.tags:
            self.tracing.partition.keep(tag.ids, f"its output {why} {self.call.name!r}")

    def whole(self) -> TrackedAxis:
        """Return an axis for the output whose channels are never cut."""
        why = f"its channels are joined with those of {self.call.name!r} ({self.call.kind}), which cannot be cut"
        return TrackedAxis(len(self.shape) - 1, self.tracing.partition.whole(self.shape[-1], why))

    def positions(self, shape: tuple[int, ...]) -> int:
        """Return how often a kernel is applied to compute, or to read, a tensor."""
        return math.prod(shape[1:-1])
