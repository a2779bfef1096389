"""Contracts of the table of frameworks: what each record names exists, and takes what the record says it takes."""

import dataclasses
import importlib
import inspect
import pkgutil
import subprocess
import sys

import pytest

from edgekit_converters.execution import toolchains
from edgekit_converters.formats import FORMATS, format_of
from edgekit_converters.frameworks import FRAMEWORKS, Framework, TrainableModels, framework, trainable_frameworks
from edgekit_converters.frameworks.loaders import LOADERS, frameworks_of

FUNCTIONS = {"wrapper": 2, "saver": 2, "student": 2, "attention_maps": 1}  # field: number of positional arguments
PRUNER = {"analyze": 1, "score": 3, "cut_channels": 3, "drop_branches": 3, "recalibrate": 3}
MARKS = {
    "keras": [pytest.mark.needs_keras],
    "torch": [pytest.mark.needs_torch],
    "tflite": [pytest.mark.needs_litert],
    "openvino": [pytest.mark.needs_openvino],
}
frameworks = pytest.mark.parametrize("name", [pytest.param(name, marks=MARKS[name]) for name in FRAMEWORKS])
trainable = pytest.mark.parametrize("name", [pytest.param(name, marks=MARKS[name]) for name in trainable_frameworks()])


def takes(function: object, count: int) -> bool:
    """Whether a function can be called with so many positional arguments."""
    try:
        inspect.signature(function).bind(*[None] * count)
    except TypeError:
        return False
    return True


@pytest.mark.parametrize("name", FRAMEWORKS)
def test_a_framework_is_filed_under_its_name(name):
    assert framework(name).name == name


def test_every_field_that_names_a_function_is_tested():
    named = {
        field.name
        for field in dataclasses.fields(TrainableModels)
        for found in trainable_frameworks().values()
        if isinstance(value := getattr(found, field.name), str) and ":" in value
    }
    assert named == set(FUNCTIONS)
    assert {field.name for field in dataclasses.fields(Framework)} == {"name", "loaders", "tracer", "trainable"}


@pytest.mark.parametrize(
    "kind",
    [pytest.param(kind, marks=[mark for name in frameworks_of(kind) for mark in MARKS[name]]) for kind in LOADERS],
)
def test_every_loader_takes_a_request(kind):
    assert takes(pkgutil.resolve_name(LOADERS[kind].function), 1)


@pytest.mark.parametrize("kind", LOADERS)
def test_every_kind_is_of_a_framework_and_has_a_toolchain(kind):
    assert set(frameworks_of(kind)) <= set(FRAMEWORKS)
    assert frameworks_of(kind)
    assert toolchains.toolchain(LOADERS[kind].toolchain)


@frameworks
def test_every_tracer_takes_a_model_and_inputs(name):
    assert takes(pkgutil.resolve_name(framework(name).tracer), 2)


@trainable
@pytest.mark.parametrize("field", FUNCTIONS)
def test_every_function_of_trainable_models_exists_and_takes_its_arguments(name, field):
    assert takes(pkgutil.resolve_name(getattr(trainable_frameworks()[name], field)), FUNCTIONS[field])


@trainable
@pytest.mark.parametrize("function", PRUNER)
def test_every_pruner_has_the_functions_of_the_stages(name, function):
    pruner = importlib.import_module(trainable_frameworks()[name].pruner)
    assert takes(getattr(pruner, function), PRUNER[function])


@pytest.mark.parametrize("name", FRAMEWORKS)
def test_every_framework_can_be_lowered_to_a_format(name):
    assert any(name in format_of(engine).lowerings for engine in FORMATS)


def test_python_code_may_build_a_model_of_every_trainable_framework():
    assert frameworks_of("python") == tuple(trainable_frameworks())
    assert LOADERS["python"].saved_suffixes == (".keras", ".h5", ".pt2")
    packages = {package for found in trainable_frameworks().values() for package in found.toolchain.packages}
    assert set(toolchains.toolchain("python").packages) == packages


def test_no_two_kinds_claim_a_suffix():
    suffixes = [suffix for loader in LOADERS.values() for suffix in loader.suffixes]
    assert len(suffixes) == len(set(suffixes))


def test_a_new_framework_is_one_line(monkeypatch):
    monkeypatch.setitem(FRAMEWORKS, "sklearn", f"{__name__}:SKLEARN")
    assert framework("sklearn") is SKLEARN
    assert "sklearn" in trainable_frameworks()


SKLEARN = Framework(
    name="sklearn",
    loaders={},
    tracer=framework("keras").tracer,
    trainable=dataclasses.replace(trainable_frameworks()["keras"], packages=("sklearn",)),
)


def test_reading_the_records_imports_no_framework():
    code = (
        "import sys; from edgekit_converters.frameworks.loaders import LOADERS;"
        "print(*{'tensorflow', 'keras', 'torch', 'openvino', 'ai_edge_litert'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == ""
