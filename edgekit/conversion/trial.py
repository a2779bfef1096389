"""The result of one candidate, as plain data for selection and for the report."""

from __future__ import annotations

from dataclasses import dataclass, replace

from edgekit_converters.recipe.label import recipe_label
from edgekit_converters.recipe.recipe import Recipe

# MEASURED: evaluated on all data, and timed. DROPPED: loses too much on a subset of the data. BROKEN: failed the
# parity check. FAILED: a toolchain rejected it. SKIPPED: the search ended before it.
MEASURED, DROPPED, BROKEN, FAILED, SKIPPED = "measured", "dropped", "broken", "failed", "skipped"


@dataclass(frozen=True)
class Trial:
    """A candidate of one engine and its measurements; None where nothing was measured."""

    engine: str
    recipe: Recipe
    state: str
    reason: str = ""  # why it is not MEASURED
    samples: int | None = None  # evaluated
    value: float | None = None  # of the metric
    drop: float | None = None  # how much worse than the source; below 0 is better
    latency_ms: float | None = None  # median of a call here, on one thread
    size_bytes: int | None = None
    seconds: float = 0.0  # to quantize and evaluate
    error: float | None = None  # standard error of the drop, where the metric is a mean over samples

    @property
    def name(self) -> str:
        """Engine and recipe label, such as ``litert int8-static percentile equalize, 3 layers float32``."""
        return f"{self.engine} {recipe_label(self.recipe)}"


def kernel_recipe(recipe: Recipe) -> Recipe:
    """Return the part of a recipe that decides which kernels run; smoothing adds multiplications, so it is kept."""
    graph = tuple(name for name in recipe.corrections if name == "smooth")
    return replace(recipe, statistics=Recipe.statistics, percentile=Recipe.percentile, corrections=graph)


def complexity(recipe: Recipe) -> tuple[int, int, int]:
    """Return how far a recipe departs from its scheme: rules of layers, corrections, other statistics."""
    layers = sum(len(rule.layers) for rule in recipe.rules)
    return layers, len(recipe.corrections), int(recipe.statistics != Recipe.statistics)
