"""What became of one candidate: the plain data that choosing and reporting work on."""

from __future__ import annotations

from dataclasses import dataclass, replace

from edgekit_converters.recipe.recipe import Recipe

# MEASURED: on all evaluation data, and timed. DROPPED: a part of the data showed that it loses too much. BROKEN: it
# computes something else. FAILED: a toolchain refused it. SKIPPED: the time was up.
MEASURED, DROPPED, BROKEN, FAILED, SKIPPED = "measured", "dropped", "broken", "failed", "skipped"


@dataclass(frozen=True)
class Trial:
    """A candidate of one engine, and what was measured of it; what was not is None."""

    engine: str
    recipe: Recipe
    state: str
    reason: str = ""  # why it is not MEASURED
    samples: int | None = None  # evaluated
    value: float | None = None  # of the metric
    drop: float | None = None  # how much worse than the source; below 0 is better
    latency_ms: float | None = None  # median of a call here, on one thread
    size_bytes: int | None = None
    seconds: float = 0.0  # what it took
    error: float | None = None  # standard error of the drop, where the metric is a mean over samples

    @property
    def name(self) -> str:
        """Engine and recipe, such as ``litert int8-static percentile equalize, 3 layers float32``."""
        return f"{self.engine} {told(self.recipe)}"


def arithmetic(recipe: Recipe) -> Recipe:
    """The recipe as far as it decides which kernels run; smoothing adds multiplications of its own."""
    graph = tuple(name for name in recipe.corrections if name == "smooth")
    return replace(recipe, statistics=Recipe.statistics, percentile=Recipe.percentile, corrections=graph)


def told(recipe: Recipe) -> str:
    """A recipe in a few words: what is not usual about it."""
    words = [recipe.scheme]
    if recipe.statistics != Recipe.statistics:
        words.append(recipe.statistics)
    if recipe.corrections:
        words.append("+".join(recipe.corrections))
    apart = [f"{len(rule.layers)} layers {rule.scheme}" for rule in recipe.rules if rule.layers]
    return ", ".join([" ".join(words), *apart])


def complexity(recipe: Recipe) -> tuple[int, int, int]:
    """How much a recipe does beyond its scheme: layers apart, corrections, and ranges drawn in another way."""
    apart = sum(len(rule.layers) for rule in recipe.rules)
    return apart, len(recipe.corrections), int(recipe.statistics != Recipe.statistics)
