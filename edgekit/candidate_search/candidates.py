"""What a race tries, for each engine, the cheapest first."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import replace

from edgekit_converters.formats import format_of
from edgekit_converters.recipe.recipe import Recipe, Rule

SHARES = (1, 2, 4, 8, 16)  # layers to keep in float


def first(engine: str, schemes: Collection[str], *, small: bool) -> tuple[Recipe, ...]:
    """The candidates that need to know nothing of the model; float32 is always there, to be compared with.

    Args:
        engine: whose candidates.
        schemes: those that some device allows.
        small: whether size matters.
    """
    candidates = format_of(engine).candidates
    recipes = (*candidates.first, *(candidates.small if small else ()))
    return tuple(recipe for recipe in recipes if recipe == Recipe("float32") or recipe.scheme in schemes)


def partial(best: Recipe, harm: Sequence[str]) -> Iterator[Recipe]:
    """The best recipe so far with more and more of its worst layers in float, at most half of them.

    Args:
        best: a recipe of int8-static.
        harm: the names of the layers that int8 harms, the worst first.
    """
    for count in SHARES:
        if count > max(1, len(harm) // 2):
            return
        yield replace(best, rules=(Rule("float32", layers=tuple(harm[:count])),))


def last(engine: str, schemes: Collection[str]) -> tuple[Recipe, ...]:
    """What is tried at the very end."""
    return tuple(recipe for recipe in format_of(engine).candidates.last if recipe.scheme in schemes)
