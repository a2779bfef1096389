"""`--quantize auto` end to end: candidates of the real toolchains, the best in the bundle, and early ends."""

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
import zipfile

import numpy as np
import pytest
from click.testing import CliRunner

import edgekit
import edgekit_runtime
from edgekit.cli import cli
from edgekit_converters.recipe.toml import parse
from edgekit_runtime.errors import DataError, DiskFull, VerificationError

pytestmark = [pytest.mark.needs_keras, pytest.mark.needs_openvino]


@pytest.fixture
def convert_auto(demo, tmp_path):
    """Search for the best quantization of the digits model."""

    def run(**options):
        defaults = {
            "device": "raspberry-pi-5",
            "quantize": "auto",
            "scale": 1 / 256,
            "calibrate": demo / "calibration.npz",
            "samples": 64,
            "evaluate": demo / "test.npz",
        }
        values = {name: value for name, value in {**defaults, **options}.items() if value is not None}
        return edgekit.convert(demo / "digits.keras", tmp_path / "digits.edgekit", **values)

    return run


def test_both_formats_are_searched_and_the_best_of_each_is_in_the_bundle(convert_auto, tmp_path):
    report = convert_auto(device=["raspberry-pi-5", "intel-cpu"], max_drop=0.01, report=tmp_path / "report.json")
    trials = report.trials
    assert len(trials) >= 12
    assert {trial.engine for trial in trials} == {"litert", "openvino"}
    assert len(report.choices) == len(report.variants) == 2
    for variant in report.variants:
        fitting = [one for one in trials if one.engine == variant.engine and one.drop is not None and one.drop <= 0.01]
        fastest_ms = min(one.latency_ms for one in fitting if one.latency_ms)
        assert variant.latency_ms.p50 <= 1.03 * fastest_ms
        assert variant.drop <= 0.01
    assert json.loads((tmp_path / "report.json").read_text())["trials"][0]["recipe"] == "float32"
    with edgekit_runtime.load(tmp_path / "digits.edgekit") as model:
        assert model(np.zeros(model.inputs[0].shape, np.float32)).shape == (1, 10)


def test_by_size_an_integer_variant_is_selected_and_its_recipe_is_kept(convert_auto, tmp_path):
    report = convert_auto(objective="size")
    (variant,) = report.variants
    assert variant.size_bytes == min(one.size_bytes for one in report.trials if one.state == "measured")
    with edgekit_runtime.open_bundle(tmp_path / "digits.edgekit") as bundle:
        recipes = bundle.manifest.recipe["recipes"]
    assert all(parse(text).scheme == variant.scheme for text in recipes.values())


def test_without_labels_agreement_with_the_float_model_counts(convert_auto, demo, tmp_path):
    samples = np.load(demo / "calibration.npz")["x"]
    np.save(tmp_path / "unlabelled.npy", samples)
    report = convert_auto(calibrate=tmp_path / "unlabelled.npy", evaluate=None, objective="size")
    assert (report.source.metric, report.source.value) == ("agreement", 1.0)
    assert any(
        "has no labels, so candidates are compared by agreement with the float model" in note for note in report.notes
    )


def test_a_function_that_yields_in_order_of_class_and_a_metric_that_needs_all_classes(convert_auto, demo, tmp_path):
    own = tmp_path / "own.py"
    own.write_text(f"""
import numpy as np

def sorted_by_class():
    data = np.load({str(demo / "test.npz")!r})
    order = np.repeat(np.argsort(data["y"], kind="stable"), 2)  # more than a part
    yield from zip(data["x"][order], data["y"][order])

def least_recall(outputs, labels):
    (scores,) = outputs.values()
    hits = scores.argmax(axis=1) == labels
    return min(hits[labels == label].mean() for label in range(10))
""")
    report = convert_auto(
        evaluate=f"{own}:sorted_by_class", metric=f"{own}:least_recall", max_drop=0.02, objective="size"
    )
    assert report.source.metric == "own.py:least_recall"
    assert report.source.samples > 512
    assert report.variants[0].drop <= 0.02


def test_a_quantized_model_is_bundled_unchanged(convert_auto, demo, tmp_path):
    convert_auto(quantize="int8")
    with zipfile.ZipFile(tmp_path / "digits.edgekit") as bundle:
        (tmp_path / "int8.tflite").write_bytes(bundle.read("variants/litert-int8-static/model.tflite"))
    calibrate, evaluate = demo / "calibration.npz", demo / "test.npz"
    out = tmp_path / "again.edgekit"
    report = edgekit.convert(
        tmp_path / "int8.tflite", out, device="raspberry-pi-5", quantize="auto", calibrate=calibrate, evaluate=evaluate
    )
    assert [variant.scheme for variant in report.variants] == ["int8-static"]
    assert report.trials == ()
    assert any("is bundled unchanged: no search" in note for note in report.notes)


def test_when_nothing_fits_the_closest_are_named_and_no_bundle_is_written(convert_auto, tmp_path):
    with pytest.raises(
        VerificationError, match=r"no candidate fits the budgets of raspberry-pi-5 .*the closest are:\n  litert "
    ):
        convert_auto(max_size_mib=0.001)
    assert not (tmp_path / "digits.edgekit").exists()


def test_too_few_samples_are_refused(convert_auto, demo, tmp_path):
    few = np.load(demo / "test.npz")
    np.savez(tmp_path / "few.npz", x=few["x"][:40], y=few["y"][:40])
    with pytest.raises(DataError, match="40 samples are too few to tell which candidate is better"):
        convert_auto(evaluate=tmp_path / "few.npz")


def test_after_the_time_limit_the_best_so_far_is_selected(convert_auto):
    report = convert_auto(budget_minutes=1e-6, cache=False)
    assert [trial.state for trial in report.trials] == ["measured"] + ["skipped"] * (len(report.trials) - 1)
    assert [variant.scheme for variant in report.variants] == ["float32"]


@pytest.mark.needs_rich
def test_ctrl_c_selects_the_best_so_far(demo, tmp_path):
    command = [sys.executable, "-m", "edgekit", "convert", demo / "digits.keras", "-o", tmp_path / "digits.edgekit"]
    command += ["-d", "raspberry-pi-5", "-q", "auto", "--scale", "0.00390625", "--no-cache", "--json"]
    command += ["--calibrate", demo / "calibration.npz", "--evaluate", demo / "test.npz"]
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    environment = os.environ | {"TMPDIR": str(scratch)}
    process = subprocess.Popen(
        list(map(str, command)), env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline and not list(scratch.glob("edgekit-*/quantize-*")):
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=120)
    assert process.returncode == 0, err
    report = json.loads(out)
    assert any(trial["state"] == "skipped" for trial in report["trials"])
    assert any("ended early: interrupted" in note for note in report["notes"])
    assert not list(scratch.iterdir())


def test_wrong_requests_are_refused_at_once(demo):
    for extra, message in (
        (["-q", "auto", "-q", "int8"], "give no other scheme"),
        (["-q", "int8", "--objective", "size"], "--objective goes with --quantize auto"),
        (["-q", "auto", "--max-latency-ms", "0"], "expected a number above 0"),
        (["-q", "auto"], "needs calibration data"),
    ):
        calibrate = ["--calibrate", str(demo / "calibration.npz")] if extra != ["-q", "auto"] else []
        done = CliRunner().invoke(cli, ["convert", str(demo / "digits.keras"), *extra, *calibrate])
        assert done.exception is not None
        assert message in str(done.exception)


@pytest.mark.parametrize("small_disk", [700], indirect=True)
def test_a_full_disk_ends_the_search_and_is_the_error(convert_auto, small_disk, tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(small_disk))
    with pytest.raises(DiskFull) as caught:
        convert_auto(cache=False)
    assert caught.value.exit_code == 4
    assert str(small_disk) in str(caught.value) and "TMPDIR" in caught.value.advice
    assert not (tmp_path / "digits.edgekit").exists()
    assert list(small_disk.iterdir()) == []


def test_several_inputs_and_outputs_an_own_metric_and_a_device_without_integers(repository, tmp_path):
    import keras
    from keras import layers

    keras.utils.set_random_seed(0)
    image, facts = keras.Input((6, 6, 3), name="image"), keras.Input((4,), name="facts")
    x = layers.Concatenate()([layers.Flatten()(layers.Conv2D(4, 3)(image)), layers.Dense(4)(facts)])
    outputs = [layers.Dense(3, activation="softmax", name="kind")(x), layers.Dense(2, name="place")(x)]
    keras.Model([image, facts], outputs).save(tmp_path / "net.keras")
    rng = np.random.default_rng(0)
    samples = {"image": rng.standard_normal((60, 6, 6, 3)), "facts": rng.standard_normal((60, 4))}
    np.savez(tmp_path / "data.npz", y=rng.integers(0, 3, 60), **{k: v.astype(np.float32) for k, v in samples.items()})
    (tmp_path / "own.py").write_text(
        "def score(outputs, labels):\n"
        "    kind, place = outputs.values()\n"
        "    return float((kind.argmax(1) == labels).mean() + 0 * place.mean())\n"
    )
    board = (repository / "devices" / "edgekit_devices" / "generic-arm64.toml").read_text()
    lines = [line for line in board.splitlines() if not line.startswith(("name", "schemes"))]
    (tmp_path / "float.toml").write_text("\n".join(['name = "float"', 'schemes = ["float16", "float32"]', *lines]))
    report = edgekit.convert(
        tmp_path / "net.keras",
        tmp_path / "net.edgekit",
        device=tmp_path / "float.toml",
        quantize="auto",
        calibrate=tmp_path / "data.npz",
        evaluate=tmp_path / "data.npz",
        metric=f"{tmp_path / 'own.py'}:score",
    )
    assert [(trial.recipe, trial.state) for trial in report.trials] == [
        ("float32", "measured"),
        ("float16", "measured"),
    ]
    assert report.source.metric == "own.py:score"
    assert report.trials[0].error is None  # one number for the whole set has none
    with edgekit_runtime.load(tmp_path / "net.edgekit", check="always") as model:
        assert [spec.name for spec in model.inputs] == ["image", "facts"]
