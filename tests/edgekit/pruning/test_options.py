"""Options of pruning: wrong values are refused before anything starts, with the option's name."""

import re

import numpy as np
import pytest

from edgekit.cli.dry_run import describe, text
from edgekit.plan.option_declaration import build
from edgekit.plan.options import ConversionOptions, PruneOptions
from edgekit.plan.plan import plan_conversion
from edgekit.plan.plan_file import read_plan
from edgekit.pruning.command import plan_prune
from edgekit.pruning.options import (
    CALIBRATION_SAMPLES,
    calibration_data,
    measured_in,
)
from edgekit.pruning.options import plan_pruning as plan_pruning_of
from edgekit_converters.prune.channel_selection import Goal
from edgekit_runtime.errors import DataError, PlanError


def options_of(**values):
    return build(ConversionOptions, values)


def plan_pruning(options):
    return plan_pruning_of(options.pruning, options.training, options.data)


def with_calibration(options):
    return calibration_data(options.data, options.pruning, options.training)


@pytest.fixture
def model(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "net.keras").touch()
    (tmp_path / "net.tflite").touch()
    (tmp_path / "half.json").write_text("{")
    np.savez(tmp_path / "train.npz", x=np.zeros((2, 4)))
    return "net.keras"


def test_goals_are_fractions_left():
    assert plan_pruning(options_of(prune=0.3)).goal == Goal("channels", 0.7)
    assert plan_pruning(options_of(prune_to="latency=0.5")).goal == Goal("latency", 0.5)
    assert plan_pruning(options_of(prune_to="macs=.25")).goal == Goal("macs", 0.25)
    assert plan_pruning(options_of(evaluate="x.npz")) is None


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"prune": 1.0}, "--prune 1.0: expected the fraction of channels"),
        ({"prune": float("nan")}, "--prune nan"),
        ({"prune_to": "speed=0.5"}, "--prune-to speed=0.5: .*latency=0.5"),
        ({"prune_to": "channels=0.5"}, "--prune-to channels=0.5"),
        ({"prune_to": "macs=1.5"}, "--prune-to macs=1.5"),
        ({"prune_to": "macs"}, "--prune-to macs:"),
        ({"prune": 0.5, "prune_to": "macs=0.5"}, "both set a goal"),
        ({"prune": 0.5, "min_channel_ratio": 1.0}, "--min-channel-ratio 1.0: expected the fraction"),
        ({"prune": 0.5, "round_to": 0}, "--round-to 0"),
        ({"prune": 0.5, "rounds": 0}, "--rounds 0"),
        ({"prune": 0.5, "importance": "size"}, "--importance size: expected one of l1"),
        ({"prune": 0.5, "importance": "taylor"}, "--importance taylor .*--train"),
        ({"prune": 0.5, "latency_table": "half.json"}, "latency table goes with --prune-to latency"),
        ({"prune": 0.5, "epochs": 3}, "--epochs needs --train"),
        ({"exclude_layer": ("conv",)}, "--exclude-layer goes with --prune"),
        ({"sparsity": "1.5"}, "--sparsity 1.5: .*such as 0.8; or N:M"),
        ({"sparsity": 0.0}, "--sparsity 0.0"),
        ({"sparsity": "4:2"}, "--sparsity 4:2"),
        ({"sparsity": "0.8", "round_to": 8}, "--round-to goes with --prune R"),
        ({"sparsity": "0.8", "rounds": 2}, "--rounds goes with --prune R"),
        ({"sparsity": "0.8", "epochs": 3}, "--epochs needs --train"),
        ({"per_layer": True}, "--per-layer goes with --prune"),
        ({"write_latency_table": "t.json"}, "--write-latency-table goes with --prune"),
    ],
)
def test_contradicting_options_are_refused(options, message, model):
    with pytest.raises(PlanError, match=re.compile(message)):
        plan_pruning(options_of(model=model, **options))


def test_a_malformed_latency_table_is_refused(model):
    with pytest.raises(DataError, match=r"--latency-table half\.json: is no table"):
        plan_pruning(options_of(model=model, prune_to="latency=0.5", latency_table="half.json"))


def test_a_command_without_a_goal_is_refused(model):
    with pytest.raises(PlanError, match=r"give a goal: --prune 0\.5"):
        plan_prune(build(PruneOptions, {"model": model}))
    with pytest.raises(PlanError, match="this command already reads"):
        plan_prune(build(PruneOptions, {"model": model, "prune": 0.5, "output": model}))


def test_quantization_aware_training_needs_no_goal(model, tmp_path):
    data = str(tmp_path / "train.npz")
    np.savez(data, x=np.zeros((2, 4)))
    made = plan_pruning(options_of(model=model, train=data, quantize_aware="int8"))
    assert (made.goal, made.sparsity, str(made)) == (None, None, "--quantize-aware int8-static")
    assert str(plan_pruning(options_of(model=model, train=data, quantize_aware="w4", prune=0.5))).endswith(
        "int4-weights"
    )
    with pytest.raises(PlanError, match=r"--train goes with .*--quantize-aware SCHEME: there is nothing to recover"):
        plan_pruning(options_of(model=model, train=data))
    assert with_calibration(options_of(model=model, train=data, quantize_aware="int8")).calibrate == data
    lines = text(describe(plan_conversion(options_of(model=model)), made)).splitlines()
    assert f"train      --quantize-aware int8-static, trained on {data} for 10 epochs" in lines
    pruned = plan_pruning(options_of(model=model, sparsity="0.5"))
    assert "prune      --sparsity 0.5" in text(describe(plan_conversion(options_of(model=model)), pruned)).splitlines()


def test_training_data_calibrate_without_calibration_data(model):
    given = options_of(model=model, prune=0.5, train="train.npz")
    assert with_calibration(given).calibrate == "train.npz"
    assert with_calibration(given).samples == CALIBRATION_SAMPLES
    assert with_calibration(options_of(model=model, prune=0.5, train="a", calibrate="b", samples=7)).calibrate == "b"
    assert with_calibration(options_of(model=model, train="train.npz")).calibrate is None


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, ("litert", "float32")),
        ({"calibrate": "train.npz"}, ("litert", "int8-static")),
        ({"calibrate": "train.npz", "device": ("intel-cpu",)}, ("openvino", "int8-static")),
        ({"calibrate": "train.npz", "quantize": ("auto",)}, ("litert", "int8-static")),
        ({"quantize": ("float16", "float32")}, ("litert", "float16")),
    ],
)
def test_latency_is_measured_in_the_engine_of_the_first_device(options, expected, model):
    plan = plan_conversion(options_of(model=model, **options))
    assert measured_in(plan.targets, calibrated=plan.data.calibrate is not None) == expected


def test_a_plan_file_has_a_pruning_table(tmp_path, model):
    (tmp_path / "plan.toml").write_text(
        'model = "net.keras"\n[pruning]\nprune_to = "size=0.5"\nexclude_layer = "stem*"\nrounds = 2\nper_layer = true\n'
    )
    pruning = plan_pruning(options_of(**read_plan(tmp_path / "plan.toml")))
    assert (pruning.goal, pruning.rounds) == (Goal("size", 0.5), 2)
    assert (pruning.limits.keep, pruning.limits.per_layer) == (("stem*",), True)


def test_sparsity_goes_with_or_without_pruning_and_into_the_training(model):
    alone = plan_pruning(options_of(model=model, sparsity="2:4", exclude_layer=("conv*",), train="train.npz"))
    assert (alone.goal, str(alone)) == (None, "--sparsity 2:4")
    assert (alone.training.settings.sparsity, alone.training.settings.keep) == ("2:4", ("conv*",))
    both = plan_pruning(options_of(model=model, sparsity=0.8, prune=0.5))
    assert (both.goal, both.sparsity, str(both)) == (Goal("channels", 0.5), "0.8", "--prune 0.5 --sparsity 0.8")
    assert with_calibration(options_of(model=model, sparsity=0.8, train="train.npz")).calibrate == "train.npz"


@pytest.mark.parametrize("value", ["0.8", '"2:4"'])
def test_a_plan_file_may_give_sparsity_as_a_number_or_as_a_pattern(model, tmp_path, value):
    (tmp_path / "plan.toml").write_text(f"[pruning]\nsparsity = {value}\n")
    assert plan_pruning(options_of(model=model, **read_plan(tmp_path / "plan.toml"))).sparsity == value.strip('"')
