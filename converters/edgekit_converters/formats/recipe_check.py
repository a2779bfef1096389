"""Check that a format can hold what a recipe asks for."""

from __future__ import annotations

from collections.abc import Sequence

from edgekit_converters.formats import engines_for_scheme, format_of
from edgekit_converters.recipe.recipe import Recipe
from edgekit_converters.recipe.schemes import COARSER, SCHEMES
from edgekit_runtime.errors import PlanError

NEED_CALIBRATION = ("bias", "bias-fast", "smooth")  # corrections


def check_schemes(engine: str, names: Sequence[str], block_size: int = 0) -> None:
    """Check that one artifact can hold the schemes of a recipe.

    Args:
        engine: that runs the artifact.
        names: the schemes, the recipe's own first.
        block_size: how many 4-bit weights share a scale; 0 is a whole channel.

    Raises:
        PlanError: the format lacks a scheme, cannot mix them, or lacks the block size; the message says what it can do.
    """
    held = format_of(engine)
    missing = [name for name in names if engine not in engines_for_scheme(name)]
    if missing:
        able = ", ".join(name for name in SCHEMES if name in held.schemes)
        raise PlanError(f"{engine} cannot do {missing[0]}; it can do {able}")
    unmixable = [name for name in names if name not in held.mixable_schemes]
    if len(set(names)) > 1 and unmixable:
        raise PlanError(
            f"{engine} cannot mix {unmixable[0]} with {next(name for name in names if name != unmixable[0])} in one "
            f"artifact; it can mix {', '.join(held.mixable_schemes)}"
        )
    coarsest = max(names, key=COARSER.index)
    if coarsest != names[0]:
        raise PlanError(
            f'a recipe\'s own scheme must be its coarsest: say scheme = "{coarsest}", and select in rules what is '
            f"to be {names[0]}"
        )
    if block_size not in held.block_sizes:
        able = ", ".join(map(str, held.block_sizes))
        raise PlanError(f"{engine} cannot do block_size {block_size}; it can do {able} (0 is a whole channel)")


def check_corrections(engine: str, recipe: Recipe) -> None:
    """Check that a format's quantizer can apply the corrections of a recipe.

    Raises:
        PlanError: the quantizer lacks a correction, or a correction needs calibration and no scheme is calibrated.
    """
    able = format_of(engine).corrections
    calibrated = any(SCHEMES[name].calibrated for name in recipe.schemes)
    for name in recipe.corrections:
        if name not in able:
            raise PlanError(f"{engine}: corrections: {name!r} is not supported; use one of {', '.join(able)}")
        if name in NEED_CALIBRATION and not calibrated:
            raise PlanError(
                f"corrections: {name!r} needs a calibrated scheme, such as int8-static; "
                f"the recipe has {' and '.join(recipe.schemes)}"
            )
