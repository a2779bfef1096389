"""One call of a layer as the rules see it: what it takes, whose channels that holds, and what it gives."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from edgekit_converters.frameworks.keras_graph import Call
from edgekit_converters.prune.keras.channels import Tracing, TrackedAxis


@dataclass(frozen=True)
class LayerCall:
    """One call as a rule sees it."""

    call: Call
    tags: tuple[TrackedAxis, ...]  # of what it takes
    shapes: tuple[tuple[int, ...], ...]  # of what it takes, with the batch
    shape: tuple[int, ...]  # of what it gives
    tracing: Tracing

    @property
    def layer(self) -> Any:
        """The layer called."""
        return self.call.layer

    @property
    def last(self) -> bool:
        """Whether the channels of what it takes first lie last."""
        return self.tags[0].axis == len(self.shapes[0]) - 1

    def keep(self, why: str) -> None:
        """Leave all that it takes whole."""
        for tag in self.tags:
            self.tracing.partition.keep(tag.ids, f"what it gives {why} {self.call.name!r}")

    def whole(self) -> TrackedAxis:
        """Return a tag for what it gives, of channels that are never cut."""
        why = f"what it gives goes together with that of {self.call.name!r} ({self.call.kind}), which stays"
        return TrackedAxis(len(self.shape) - 1, self.tracing.partition.whole(self.shape[-1], why))

    def positions(self, shape: tuple[int, ...]) -> int:
        """Return how often a kernel is applied to give, or to take, a tensor."""
        return math.prod(shape[1:-1])
