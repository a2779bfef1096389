"""Print the results of a benchmark: one line for each, with its target and whether the target holds."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

MIN_FOR_QUARTILES = 8  # values from which the spread is that of the middle half; below, all of it is shown


def show(label: str, measured: str, target: str = "", *, holds: bool | None = None) -> None:
    """Print one line; ``holds`` is None for a result without a target."""
    verdict = {None: "", True: "holds", False: "DOES NOT HOLD"}[holds]
    print(f"  {label:<50} {measured:<26} {target:<16} {verdict}".rstrip(), flush=True)


def show_at_most(label: str, values: Sequence[float], limit: float, unit: str = "") -> None:
    """Print the median of the values, with its spread, against an upper limit."""
    median = float(np.median(values))
    show(label, f"{with_spread(values)}{unit}", f"<= {limit:g}{unit}", holds=median <= limit)


def with_spread(values: Sequence[float]) -> str:
    """Return the median and the range of the values: ``1.12 (1.08..1.20)``."""
    if len(values) == 1:
        return f"{values[0]:.3g}"
    low, middle, high = np.percentile(values, [25, 50, 75] if len(values) >= MIN_FOR_QUARTILES else [0, 50, 100])
    return f"{middle:.3g} ({low:.3g}..{high:.3g})"
