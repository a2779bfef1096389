"""A Keras model all the way: converted once, judged from every side, and run by the runtime."""

import json

import numpy as np
import pytest

import edgekit
import edgekit_runtime
from edgekit_runtime.errors import VerificationError

pytestmark = [pytest.mark.needs_keras, pytest.mark.needs_openvino]

DEVICES = ["generic-arm64", "intel-cpu"]
SCHEMES = ["float32", "int8-static"]
VARIANTS = [f"{engine}-{scheme}" for engine in ("litert", "openvino") for scheme in SCHEMES]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A convolutional net of 6 classes, and images that it labels itself, the closest calls first."""
    import keras
    from keras import layers

    keras.utils.set_random_seed(1)
    image = keras.Input((16, 16, 3), name="image")
    x = layers.Conv2D(12, 3, strides=2, use_bias=False)(image)
    x = layers.ReLU()(layers.BatchNormalization(beta_initializer="random_normal")(x))
    x = layers.DepthwiseConv2D(3, bias_initializer="random_normal")(x)
    x = layers.Flatten()(layers.Conv2D(8, 1, activation="relu")(x))
    model = keras.Model(image, layers.Dense(6, name="scores", activation="softmax")(x))

    folder = tmp_path_factory.mktemp("keras")
    model.save(folder / "net.keras")
    images = np.random.default_rng(0).integers(0, 256, (2000, 16, 16, 3), dtype=np.uint8)
    scores = model.predict(images / np.float32(255), verbose=0)
    best = np.sort(scores, axis=1)
    order = np.argsort(best[:, -1] - best[:, -2])
    labels = scores.argmax(axis=1)
    np.savez(folder / "train.npz", x=images[order[-100:]], y=labels[order[-100:]])
    np.savez(folder / "test.npz", x=images[order[1000:1200]], y=labels[order[1000:1200]])
    np.savez(folder / "close.npz", x=images[order[:200]], y=labels[order[:200]])
    np.save(folder / "expected.npy", scores[order[1000:1200]])
    return folder


def convert(folder, bundle, **options):
    options = {"device": DEVICES, "quantize": SCHEMES, "calibrate": folder / "train.npz", "scale": 1 / 255} | options
    return edgekit.convert(folder / "net.keras", folder / f"{bundle}.edgekit", **options)


@pytest.fixture(scope="module")
def made(folder, _own_cache):
    return convert(folder, "net", evaluate=folder / "test.npz", report=folder / "report.json", max_drop=0.05)


def test_a_metric_of_the_users_own(folder, made):
    code = "def share(outputs, labels):\n    return (outputs['scores'].argmax(axis=1) == labels).mean() / 2\n"
    (folder / "own.py").write_text(code)
    report = convert(folder, "own", evaluate=folder / "test.npz", metric=folder / "own.py:share", name="net")
    assert (report.source.metric, report.source.value, report.source.accuracy) == ("own.py:share", 0.5, None)
    halves = {variant.name: variant.accuracy / 2 for variant in made.variants}
    assert {variant.name: variant.value for variant in report.variants} == pytest.approx(halves)


def test_the_report_tells_every_variant(folder, made):
    report = json.loads((folder / "report.json").read_text())
    assert report["source"]["accuracy"] == 1.0  # it labelled the images itself
    assert sorted(variant["name"] for variant in report["variants"]) == sorted(VARIANTS)
    for variant in report["variants"]:
        assert variant["accuracy"] >= 0.95
        assert variant["drop"] == pytest.approx(1 - variant["accuracy"])
        assert variant["parity"]["snr_db"] > (60 if variant["scheme"] == "float32" else 25)
        assert 0 < variant["latency_ms"]["p50"] <= variant["latency_ms"]["p90"]
    sizes = {variant["name"]: variant["size_bytes"] for variant in report["variants"]}
    assert sizes["litert-int8-static"] < sizes["litert-float32"]
    stages = {stage["stage"] for stage in report["stages"]}
    assert {"load", "probe", "prepare", "lower", "quantize", "compare", "evaluate", "measure"} <= stages
    assert {"tensorflow", "ai-edge-quantizer", "nncf", "openvino"} <= set(report["versions"])


@pytest.mark.needs_jsonschema
def test_the_report_fits_its_schema(folder, made, repository):
    import jsonschema

    schema = json.loads((repository / "docs" / "report.schema.json").read_text())
    jsonschema.validate(json.loads((folder / "report.json").read_text()), schema)


@pytest.mark.parametrize("variant", VARIANTS)
def test_the_runtime_runs_raw_images_in_every_variant(folder, made, variant):
    images, expected = np.load(folder / "test.npz")["x"][:16], np.load(folder / "expected.npy")[:16]
    with edgekit_runtime.load(folder / "net.edgekit", require=variant) as model:
        results = np.concatenate([model(image[None], raw=True) for image in images])
    tolerance = 1e-4 if variant.endswith("float32") else 0.05
    assert np.abs(results - expected).max() < tolerance


def test_the_same_request_gives_the_same_bytes(folder, made):
    again = convert(folder, "again", evaluate=folder / "test.npz", max_drop=0.05, name="net", cache=False)
    assert not any(stage.cached for stage in again.stages)
    assert (folder / "again.edgekit").read_bytes() == (folder / "net.edgekit").read_bytes()


def test_a_drop_above_the_limit_leaves_no_bundle(folder, made):
    with pytest.raises(VerificationError, match=r"the drop is over --max-drop 0.0 .*litert int8-static") as no:
        convert(folder, "worse", evaluate=folder / "close.npz", max_drop=0.0)
    assert no.value.exit_code == 5
    assert not (folder / "worse.edgekit").exists()


def test_a_live_model_is_converted_like_its_file(folder, made):
    import keras

    model = keras.models.load_model(folder / "net.keras")
    report = edgekit.convert(model, folder / "live.edgekit", device="intel-cpu", quantize="float32")
    assert [variant.name for variant in report.variants] == ["openvino-float32"]
    x = np.random.default_rng(3).random((1, 16, 16, 3), dtype=np.float32)
    with edgekit_runtime.load(folder / "live.edgekit") as loaded:
        assert np.allclose(loaded(x), model(x).numpy(), atol=1e-5)


def test_calibration_stops_when_ranges_have_settled(folder):
    images = np.random.default_rng(1).integers(0, 256, (320, 16, 16, 3), dtype=np.uint8)
    np.save(folder / "many.npy", images)
    whole = convert(folder, "whole", calibrate=folder / "many.npy", quantize="int8-static", name="net")
    assert (whole.coverage.samples, whole.coverage.settled) == (320, 80)
    report = convert(folder, "auto", calibrate=folder / "many.npy", quantize="int8-static", name="net", samples="auto")
    assert (report.coverage.samples, report.coverage.settled) == (80, 80)
    assert "80 of 320 samples taken: --samples auto" in " ".join(report.notes)
    with (
        edgekit_runtime.open_bundle(folder / "whole.edgekit") as all_of_them,
        edgekit_runtime.open_bundle(folder / "auto.edgekit") as some,
    ):
        assert all_of_them.manifest.calibration["samples"] == 320
        assert some.manifest.calibration["samples"] == 80
        assert some.manifest.calibration["sha256"] != all_of_them.manifest.calibration["sha256"]
    assert convert(folder, "float", quantize="float32", name="net").coverage is None
