"""Contracts of the table of formats: every function that a record names exists and takes the stated arguments."""

import dataclasses
import inspect
import pkgutil
import re
import subprocess
import sys

import pytest

from edgekit_converters.execution import toolchains
from edgekit_converters.formats import FORMATS, Format, engines_for_framework, engines_for_scheme, format_of
from edgekit_converters.frameworks import FRAMEWORKS
from edgekit_converters.recipe.recipe import BLOCK_SIZES, CORRECTIONS
from edgekit_converters.recipe.schemes import SCHEMES
from edgekit_runtime.engines import ENGINES

# field of Format: the number of positional arguments of the function it names
FUNCTIONS = {
    "lowest_version": 1,
    "quantizer": 2,
    "output_splitter": 3,
    "tracer": 2,
    "graph_reader": 2,
    "value_reader": 2,
    "artifact_pair": 2,
    "layer_builder": 2,
    "tensor_order": 1,
}
engines = pytest.mark.parametrize("engine", FORMATS)
with_toolchains = [pytest.mark.needs_keras, pytest.mark.needs_torch, pytest.mark.needs_openvino]


def takes(function: object, count: int) -> bool:
    """Return whether a function can be called with a number of positional arguments and its required keywords."""
    signature = inspect.signature(function)
    keywords = [name for name, one in signature.parameters.items() if one.kind is one.KEYWORD_ONLY]
    try:
        signature.bind(*[None] * count, **dict.fromkeys(keywords))
    except TypeError:
        return False
    return True


@engines
def test_the_runtime_knows_the_engine_of_every_format(engine):
    assert format_of(engine).engine == engine
    assert engine in ENGINES


def test_every_field_that_names_a_function_is_tested():
    named = {
        field.name
        for field in dataclasses.fields(Format)
        if any(isinstance(value, str) and ":" in value for value in _values(field.name))
    }
    assert named == set(FUNCTIONS)


def _values(field):
    return [getattr(format_of(engine), field) for engine in FORMATS]


@pytest.mark.parametrize("field", FUNCTIONS)
@pytest.mark.parametrize(
    "engine",
    [
        pytest.param(engine, marks=[pytest.mark.needs_litert, *([pytest.mark.needs_openvino] * (engine == "openvino"))])
        for engine in FORMATS
    ],
)
def test_every_named_function_exists_and_takes_its_arguments(engine, field):
    name = getattr(format_of(engine), field)
    assert name is None or takes(pkgutil.resolve_name(name), FUNCTIONS[field])


@pytest.mark.parametrize(
    "lowering",
    [
        pytest.param(name, marks=with_toolchains, id=f"{framework}-{engine}")
        for engine in FORMATS
        for framework, name in format_of(engine).lowerings.items()
    ],
)
def test_every_lowering_takes_a_model_and_a_folder(lowering):
    assert takes(pkgutil.resolve_name(lowering), 2)


@engines
def test_schemes_corrections_and_block_sizes_of_a_format_are_known(engine):
    found = format_of(engine)
    assert set(found.mixable_schemes) <= set(found.schemes) <= set(SCHEMES)
    assert set(found.corrections) <= set(CORRECTIONS)
    assert set(found.block_sizes) <= set(BLOCK_SIZES)


def test_every_scheme_correction_and_block_size_has_a_format():
    assert all(engines_for_scheme(scheme) for scheme in SCHEMES)
    assert {size for engine in FORMATS for size in format_of(engine).block_sizes} == set(BLOCK_SIZES)
    assert {name for engine in FORMATS for name in format_of(engine).corrections} == set(CORRECTIONS)


@engines
def test_candidates_are_recipes_that_the_format_supports(engine):
    found, candidates = format_of(engine), format_of(engine).candidates
    recipes = (*candidates.first, *candidates.small, *candidates.last)
    assert {recipe.scheme for recipe in recipes} <= set(found.schemes)
    assert {name for recipe in recipes for name in recipe.corrections} <= set(found.corrections)
    assert {recipe.block_size for recipe in recipes} <= set(found.block_sizes)
    assert len(set(recipes)) == len(recipes)


@engines
def test_a_format_has_a_label_a_colour_and_a_suffix(engine):
    found = format_of(engine)
    assert re.fullmatch(r"#[0-9a-f]{6}", found.colour)
    assert found.label and found.suffix.startswith(".")


def test_formats_differ_in_label_and_colour():
    assert len(set(_values("label"))) == len(set(_values("colour"))) == len(FORMATS)


@engines
def test_the_toolchain_of_a_format_is_found_by_its_engine(engine):
    assert toolchains.toolchain(engine) == format_of(engine).toolchain


def test_every_framework_has_a_lowering():
    frameworks = {framework for engine in FORMATS for framework in format_of(engine).lowerings}
    assert frameworks == set(FRAMEWORKS)
    assert all(engines_for_framework(framework) for framework in frameworks)


@pytest.mark.parametrize(
    ("engine", "arguments", "settings"),
    [
        ("litert", ("int8-static", "f32", "cpu"), {}),
        ("openvino", ("float16", "f16", "cpu"), {"INFERENCE_PRECISION_HINT": "f16"}),
        (
            "openvino",
            ("int8-static", "f32", "cpu"),
            {"INFERENCE_PRECISION_HINT": "f32", "SNIPPETS_MODE": "DISABLE"},
        ),
        ("openvino", ("int8-static", "f16", "gpu"), {"INFERENCE_PRECISION_HINT": "f16"}),
    ],
)
def test_settings_pin_the_arithmetic(engine, arguments, settings):
    assert format_of(engine).engine_settings(*arguments) == settings


def test_importing_the_records_imports_no_toolchain():
    code = (
        "import sys; from edgekit_converters.formats import FORMATS, format_of; [format_of(one) for one in FORMATS];"
        "print(*{'tensorflow', 'torch', 'openvino', 'ai_edge_litert', 'nncf', 'numpy'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() in ("", "numpy")
