"""Corrections that an engine's quantizer, or a scheme, cannot have are refused before anything runs."""

import pytest

from edgekit_converters.quantize.corrections import CORRECTS, refuse_corrections
from edgekit_converters.recipe.recipe import CORRECTIONS, Recipe
from edgekit_runtime.errors import PlanError


def test_smoothing_is_nncfs_alone():
    recipe = Recipe("int8-static", corrections=("smooth",))
    refuse_corrections(recipe, "openvino")
    with pytest.raises(PlanError, match=r"litert: corrections: 'smooth' cannot be done.*equalize, bias, bias-fast"):
        refuse_corrections(recipe, "litert")


@pytest.mark.parametrize("name", ["bias", "bias-fast", "smooth"])
def test_what_needs_samples_goes_with_calibrated_schemes(name):
    with pytest.raises(PlanError, match=rf"'{name}' goes with a scheme that is calibrated.*not with int8-weights"):
        refuse_corrections(Recipe("int8-weights", corrections=(name,)), "openvino")
    refuse_corrections(Recipe("int8-static", corrections=(name,)), "openvino")


@pytest.mark.parametrize("engine", CORRECTS)
def test_equalization_needs_no_samples(engine):
    refuse_corrections(Recipe("int8-weights", corrections=("equalize",)), engine)


def test_every_correction_that_a_recipe_knows_can_be_done_somewhere():
    assert {name for can in CORRECTS.values() for name in can} == set(CORRECTIONS)
