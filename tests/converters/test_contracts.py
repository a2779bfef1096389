"""Contracts of the tables that docs/layout.md tells to extend: a new row is tested by being there.

Formats, frameworks, engines, package formats and commands have their contracts beside their own tests.
"""

import dataclasses
import importlib
import inspect
import re
import typing
from pathlib import Path

import numpy as np
import pytest

from edgekit_converters.data import READERS
from edgekit_converters.execution import toolchains
from edgekit_converters.execution.stage import Stage
from edgekit_converters.formats import format_of
from edgekit_converters.prune import IMPORTANCES
from edgekit_converters.prune.importance import WITH_GRADIENTS, WeightSums, score_channels
from edgekit_converters.recipe.schemes import SCHEMES
from edgekit_converters.train.fake_quantize import ARITHMETICS, FIXED_RANGES, FUSES_INTO, Role
from edgekit_converters.verify.metrics import METRICS

REPOSITORY = Path(__file__).parents[2]
SOURCES = REPOSITORY / "converters"
FLOAT_SCHEMES = {"float32", "float16"}
DATA = ("images", "samples.npz", "samples.npy", "code.py:function")  # a line a kind of data that a user may name


def stages() -> dict[str, Stage]:
    """Return every stage that the converters declare, by the name of its constant."""
    found = {}
    for path in sorted(SOURCES.rglob("*.py")):
        for name in re.findall(r"^([A-Z_]+) = Stage\(", path.read_text(encoding="utf-8"), re.MULTILINE):
            module = ".".join(path.relative_to(SOURCES).with_suffix("").parts).removesuffix(".__init__")
            assert name not in found, f"two stages are called {name}"
            found[name] = getattr(importlib.import_module(module), name)
    return found


STAGES = stages()


@pytest.mark.parametrize("name", STAGES)
def test_a_stage_takes_a_frozen_record_and_a_folder_and_returns_a_record(name):
    stage = STAGES[name]
    hints = typing.get_type_hints(stage.function)
    request, folder = (hints[parameter] for parameter in inspect.signature(stage.function).parameters)
    assert stage.name == name.lower()
    assert folder is Path
    assert dataclasses.is_dataclass(request) and request.__dataclass_params__.frozen
    assert hints["return"] is not type(None)


def test_stages_are_found():
    assert {"LOAD", "LOWER", "QUANTIZE", "COMPARE", "EVALUATE", "TRAIN", "CUT_CHANNELS"} <= set(STAGES)


@pytest.mark.parametrize("importance", IMPORTANCES)
def test_an_importance_scores_each_channel_from_the_sums_of_its_weights(importance):
    draw = np.random.default_rng(0)
    gradients = {"products": draw.normal(size=(4, 6)), "gradients": draw.random((4, 6))}
    weights = [
        WeightSums(role, kind, draw.random(6), draw.random(6), **(gradients if importance in WITH_GRADIENTS else {}))
        for role, kind in (("produces", "kernel"), ("produces", "other"), ("passes", "scale"), ("consumes", "kernel"))
    ]
    scores = score_channels(importance, weights)
    assert scores.shape == (6,) and scores.dtype == np.float64
    assert np.isfinite(scores).all() and (scores >= 0).all()
    assert len(set(scores)) == 6


@pytest.mark.parametrize("data", DATA)
def test_each_kind_of_data_has_one_reader(data, tmp_path):
    (tmp_path / "images").mkdir()
    reading = [accepts for accepts, reads, _ in READERS if reads(str(tmp_path / data))]
    assert len(reading) == 1


def test_every_reader_has_a_kind_of_data_here(tmp_path):
    (tmp_path / "images").mkdir()
    assert all(any(reads(str(tmp_path / data)) for data in DATA) for _, reads, _ in READERS)


def test_a_model_can_be_trained_for_every_scheme_of_integers():
    assert set(ARITHMETICS) == set(SCHEMES) - FLOAT_SCHEMES


@pytest.mark.parametrize("scheme", ARITHMETICS)
def test_an_arithmetic_has_the_bits_of_its_scheme(scheme):
    arithmetic = ARITHMETICS[scheme]
    assert f"int{arithmetic.weight_bits}" in scheme or scheme == "int16x8-static"
    assert bool(arithmetic.activation_bits) == scheme.endswith("-static")


def test_roles_of_operators_are_used():
    assert set(FUSES_INTO) | set(FIXED_RANGES) <= set(Role)
    assert all(low < high for low, high in FIXED_RANGES.values())


@pytest.mark.parametrize(
    "framework",
    [pytest.param("keras", marks=pytest.mark.needs_keras), pytest.param("torch", marks=pytest.mark.needs_torch)],
)
def test_each_framework_names_operators_of_most_roles(framework):
    """The other roles are those of values that no operator gives, or of all operators that are not named."""
    operators = importlib.import_module(f"edgekit_converters.train.{framework}.operator_roles")
    named = {*operators.ROLES.values(), *(getattr(operators, "ACTIVATIONS", {}).values())}
    assert set(Role) - named <= {Role.INPUT, Role.CONSTANT, Role.OTHER}


@pytest.mark.parametrize("name", METRICS)
def test_a_metric_is_filed_under_its_name(name):
    assert METRICS[name].name == name


@pytest.mark.needs_litert
def test_the_tflite_quantizer_has_a_recipe_for_each_scheme_of_its_format():
    from edgekit_converters.quantize.tflite_rules import FLOAT_OPERATORS, RECIPES

    assert set(RECIPES) == set(format_of("litert").schemes)
    assert set(FLOAT_OPERATORS) <= set(RECIPES)


@pytest.mark.needs_openvino
def test_the_ir_quantizer_has_a_mode_for_each_scheme_of_weights_alone():
    from edgekit_converters.quantize.ir_rules import WEIGHTS

    assert set(WEIGHTS) <= set(format_of("openvino").schemes)
    assert {scheme for scheme in format_of("openvino").schemes if scheme.endswith("-weights")} <= set(WEIGHTS)


@pytest.mark.needs_torch
def test_rules_of_pytorch_are_of_its_operators():
    import torch

    from edgekit_converters.prune.torch.propagation_rules import RULES

    assert [name for name in RULES if not hasattr(torch.ops.aten, name)] == ["getitem"]  # Python's, of a tuple
    assert all(len(inspect.signature(rule).parameters) == 2 for rule in RULES.values())


@pytest.mark.needs_keras
def test_rules_of_keras_take_a_call_of_a_layer():
    from edgekit_converters.prune.keras.propagation_rules import RULES

    assert all(len(inspect.signature(rule).parameters) == 1 for rule in RULES.values())


def test_every_toolchain_says_what_to_install():
    for stage in ("keras", "torch", "litert", "openvino"):
        assert toolchains.toolchain(stage).packages


def test_every_table_that_the_layout_names_is_named_by_a_test():
    page = (REPOSITORY / "docs/layout.md").read_text(encoding="utf-8")
    table = page.partition("## What a change costs")[2].partition("\n## ")[0]
    tests = "\n".join(path.read_text(encoding="utf-8") for path in sorted((REPOSITORY / "tests").rglob("test_*.py")))
    named = set(re.findall(r"`([A-Z_]+S)`", table))
    assert {name for name in named if not re.search(rf"\b{name}\b", tests)} == set()
