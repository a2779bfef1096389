"""How a benchmark prints what it measured: a line a figure, its target beside it, and whether that holds."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

MANY = 8  # values from which the spread is that of the middle half; below, all of it is shown


def show(what: str, measured: str, target: str = "", *, holds: bool | None = None) -> None:
    """Print one line; ``holds`` is None for a figure without a target."""
    verdict = {None: "", True: "holds", False: "DOES NOT HOLD"}[holds]
    print(f"  {what:<50} {measured:<26} {target:<16} {verdict}".rstrip(), flush=True)


def show_at_most(what: str, values: Sequence[float], limit: float, unit: str = "") -> None:
    """Print the median of what was measured, with its spread, against the most it may be."""
    median = float(np.median(values))
    show(what, f"{with_spread(values)}{unit}", f"<= {limit:g}{unit}", holds=median <= limit)


def with_spread(values: Sequence[float]) -> str:
    """Return the median, and from where to where the values go: ``1.12 (1.08..1.20)``."""
    if len(values) == 1:
        return f"{values[0]:.3g}"
    low, middle, high = np.percentile(values, [25, 50, 75] if len(values) >= MANY else [0, 50, 100])
    return f"{middle:.3g} ({low:.3g}..{high:.3g})"
