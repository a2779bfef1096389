"""The recipes that the candidate search tries for each engine, the fastest at run time first."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import replace

from edgekit_converters.formats import format_of
from edgekit_converters.recipe.recipe import Recipe, Rule

FLOAT_LAYER_COUNTS = (1, 2, 4, 8, 16)  # of mixed precision, in this order


def initial(engine: str, schemes: Collection[str], *, small: bool) -> tuple[Recipe, ...]:
    """Return the candidates that need no knowledge of the model; float32 is always one, as the baseline.

    Args:
        engine: whose candidates.
        schemes: those that at least one device supports.
        small: whether size matters.
    """
    candidates = format_of(engine).candidates
    recipes = (*candidates.first, *(candidates.small if small else ()))
    return tuple(recipe for recipe in recipes if recipe == Recipe("float32") or recipe.scheme in schemes)


def mixed_precision(best: Recipe, layers: Sequence[str]) -> Iterator[Recipe]:
    """Return the best recipe with more and more of its most sensitive layers in float, at most half of them.

    Args:
        best: a recipe of int8-static.
        layers: names of the quantized layers, the most sensitive first.
    """
    for count in FLOAT_LAYER_COUNTS:
        if count > max(1, len(layers) // 2):
            return
        yield replace(best, rules=(Rule("float32", layers=tuple(layers[:count])),))


def fallback(engine: str, schemes: Collection[str]) -> tuple[Recipe, ...]:
    """Return the candidates that are tried last."""
    return tuple(recipe for recipe in format_of(engine).candidates.last if recipe.scheme in schemes)
