"""Which corrections a recipe may ask of which engine's quantizer."""

from __future__ import annotations

from edgekit_converters.recipe.recipe import Recipe
from edgekit_converters.recipe.schemes import SCHEMES
from edgekit_runtime.errors import PlanError

# AI Edge Quantizer has none of them: edgekit works on the float file and on the quantized one. NNCF corrects biases
# and smooths itself.
CORRECTS = {
    "litert": ("equalize", "bias", "bias-fast"),
    "openvino": ("equalize", "bias", "bias-fast", "smooth"),
}
NEED_CALIBRATION = ("bias", "bias-fast", "smooth")


def refuse_corrections(recipe: Recipe, engine: str) -> None:
    """Refuse what an engine's quantizer cannot do to a model in the recipe's schemes.

    Raises:
        PlanError: it lacks a correction, or none of the schemes is calibrated and the correction needs samples.
    """
    can = CORRECTS[engine]
    calibrated = any(SCHEMES[name].calibrated for name in recipe.schemes)
    for name in recipe.corrections:
        if name not in can:
            raise PlanError(f"{engine}: corrections: {name!r} cannot be done here; there are {', '.join(can)}")
        if name in NEED_CALIBRATION and not calibrated:
            raise PlanError(
                f"corrections: {name!r} goes with a scheme that is calibrated, such as int8-static, "
                f"not with {' and '.join(recipe.schemes)}"
            )
