"""What ``load(..., on_event=...)`` reports of an isolated model."""

from __future__ import annotations

from edgekit_runtime.record import dataclass


@dataclass(frozen=True)
class Event:
    """A variant that was lost while it ran."""

    lost: str  # the variant's name
    reason: str  # how its process crashed or hung
    now: str | None  # the variant that runs instead, which may be the same one, opened again; None if none could be
    delegate: str | None = None  # of the lost variant
