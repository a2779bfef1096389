"""What a race tries, for each engine, the cheapest first."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import replace

from edgekit_converters.recipe.recipe import Recipe, Rule

FLOAT, PLAIN = Recipe("float32"), Recipe("int8-static")
# Schemes, then statistics and corrections of int8-static: these cost next to nothing at run time.
FIRST = {
    "litert": (
        FLOAT,
        PLAIN,
        Recipe("float16"),
        Recipe("int8-dynamic"),
        Recipe("int8-weights"),
        Recipe("int8-dynamic", corrections=("equalize",)),
        replace(PLAIN, statistics="moving-average"),  # the quantizer's own default
        replace(PLAIN, statistics="percentile"),
        replace(PLAIN, statistics="mse"),
        replace(PLAIN, corrections=("bias",)),
        replace(PLAIN, corrections=("equalize",)),
        replace(PLAIN, corrections=("equalize", "bias")),
        replace(PLAIN, statistics="mse", corrections=("equalize", "bias")),
    ),
    "openvino": (
        FLOAT,
        PLAIN,
        Recipe("float16"),
        Recipe("int8-weights"),
        replace(PLAIN, statistics="percentile"),
        replace(PLAIN, corrections=("bias-fast",)),
        replace(PLAIN, corrections=("smooth",)),
        replace(PLAIN, corrections=("equalize",)),
        replace(PLAIN, statistics="percentile", corrections=("equalize",)),
    ),
}
# What nothing else is as small as, and what is slower than int8 everywhere.
SMALL = {
    "litert": (
        Recipe("int8-weights", corrections=("equalize",)),
        Recipe("int4-weights"),
        Recipe("int4-weights", corrections=("equalize",)),
    ),
    "openvino": (
        Recipe("int8-weights", corrections=("equalize",)),
        Recipe("int4-weights", block_size=64),
        Recipe("int4-weights", block_size=64, corrections=("equalize",)),
    ),
}
# When none of these fits: some layers of the best int8 in float, then what is slower everywhere.
LAST = {"litert": (Recipe("int16x8-static"),), "openvino": ()}
SHARES = (1, 2, 4, 8, 16)  # layers to keep in float


def first(engine: str, schemes: Collection[str], *, small: bool) -> tuple[Recipe, ...]:
    """The candidates that need to know nothing of the model; float32 is always there, to be compared with.

    Args:
        engine: whose candidates.
        schemes: those that some device allows.
        small: whether size matters.
    """
    recipes = (*FIRST[engine], *(SMALL[engine] if small else ()))
    return tuple(recipe for recipe in recipes if recipe is FLOAT or recipe.scheme in schemes)


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
    return tuple(recipe for recipe in LAST[engine] if recipe.scheme in schemes)
