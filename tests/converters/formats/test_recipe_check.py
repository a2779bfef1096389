"""Recipes that a format does not support are refused before anything runs."""

import pytest

from edgekit_converters.formats import FORMATS, format_of
from edgekit_converters.formats.recipe_check import check_corrections, check_schemes
from edgekit_converters.recipe.recipe import CORRECTIONS, Recipe
from edgekit_converters.recipe.schemes import COARSER
from edgekit_runtime.errors import PlanError


def test_only_nncf_supports_smoothing():
    recipe = Recipe("int8-static", corrections=("smooth",))
    check_corrections("openvino", recipe)
    with pytest.raises(
        PlanError, match=r"litert: corrections: 'smooth' is not supported; use .*equalize, bias, bias-fast"
    ):
        check_corrections("litert", recipe)


@pytest.mark.parametrize("name", ["bias", "bias-fast", "smooth"])
def test_corrections_that_need_samples_need_a_calibrated_scheme(name):
    with pytest.raises(PlanError, match=rf"'{name}' needs a calibrated scheme.*the recipe has int8-weights"):
        check_corrections("openvino", Recipe("int8-weights", corrections=(name,)))
    check_corrections("openvino", Recipe("int8-static", corrections=(name,)))


@pytest.mark.parametrize("engine", FORMATS)
def test_equalization_needs_no_samples(engine):
    check_corrections(engine, Recipe("int8-weights", corrections=("equalize",)))


def test_some_format_supports_every_correction():
    assert {name for engine in FORMATS for name in format_of(engine).corrections} == set(CORRECTIONS)


@pytest.mark.parametrize(
    ("engine", "names", "said"),
    [
        (
            "openvino",
            ("int8-static", "int16x8-static"),
            "openvino cannot do int16x8-static; it can do float32, float16,",
        ),
        ("openvino", ("int8-static", "float16"), "openvino cannot mix float16 with int8-static .* it can mix float32,"),
        ("openvino", ("float16", "float32"), "openvino cannot mix float16 with float32"),
        ("litert", ("float32", "int8-static"), 'must be its coarsest: say scheme = "int8-static"'),
        ("litert", ("int8-weights", "float32", "int4-weights"), 'say scheme = "int4-weights"'),
    ],
)
def test_unsupported_schemes_are_refused_with_the_supported_ones(engine, names, said):
    with pytest.raises(PlanError, match=said):
        check_schemes(engine, names)


def test_supported_mixtures_pass():
    check_schemes("openvino", ("float16",))
    for engine in FORMATS:
        held = format_of(engine)
        coarsest_first = sorted(held.mixable_schemes, key=COARSER.index, reverse=True)
        check_schemes(engine, coarsest_first, held.block_sizes[-1])


def test_block_sizes_are_refused_for_tflite():
    with pytest.raises(PlanError, match="litert cannot do block_size 32; it can do 0 "):
        check_schemes("litert", ("int4-weights",), 32)
