"""What a variant may cost, as ``--quantize auto`` searches for it."""

from __future__ import annotations

from dataclasses import dataclass

OBJECTIVES = ("latency", "size", "accuracy")


@dataclass(frozen=True)
class Budget:
    """The limits of a variant, and the time for finding it."""

    max_drop: float
    max_latency_ms: float | None = None
    max_size_mib: float | None = None
    objective: str = "latency"  # one of OBJECTIVES
    minutes: float = 20.0  # no new candidate is started after this time

    @property
    def size_matters(self) -> bool:
        """Whether size is the objective or has a limit."""
        return self.objective == "size" or self.max_size_mib is not None
