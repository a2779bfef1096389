"""Real models that nobody here made, on real data: what they cost, and that the runtime agrees."""

import numpy as np
import pytest

import edgekit
import edgekit_runtime

pytestmark = [pytest.mark.needs_data, pytest.mark.needs_keras, pytest.mark.needs_openvino]

BOTH = {"device": ["generic-arm64", "intel-cpu"], "quantize": ["float32", "int8-static"]}
SAMPLES = 500  # of the test sets; all of them are for the benchmarks


def by_name(report):
    return {variant.name: variant for variant in report.variants}


def test_resnet_8_keeps_its_accuracy(shared_data, tmp_path):
    cifar = np.load(shared_data / "cifar10" / "test.npz")
    np.savez(tmp_path / "test.npz", x=cifar["x"][:SAMPLES], y=cifar["y"][:SAMPLES])
    classification = shared_data / "mlperf_tiny" / "image_classification"
    report = edgekit.convert(
        classification / "pretrainedResnet.h5",
        tmp_path / "resnet8.edgekit",
        calibrate=shared_data / "cifar10" / "calibration.npz",
        evaluate=tmp_path / "test.npz",
        max_drop=0.02,
        **BOTH,
    )
    variants = by_name(report)
    assert 0.7 < report.source.accuracy < 0.8
    assert variants["litert-float32"].accuracy == variants["openvino-float32"].accuracy == report.source.accuracy
    reference_bytes = (classification / "pretrainedResnet_quant.tflite").stat().st_size
    assert variants["litert-int8-static"].size_bytes <= 1.05 * reference_bytes
    for name in variants:
        with edgekit_runtime.load(tmp_path / "resnet8.edgekit", require=name) as model:
            classes = [int(model(image[None], raw=True).argmax()) for image in cifar["x"][:SAMPLES]]
        assert np.mean(classes == cifar["y"][:SAMPLES]) == pytest.approx(variants[name].accuracy, abs=0.005)


def test_the_autoencoder_tells_its_error_before_and_after(shared_data, tmp_path):
    generator = np.random.default_rng(0)
    spectra = np.cumsum(generator.standard_normal((200, 640)), axis=1).astype(np.float32) / 5 - 20
    np.save(tmp_path / "spectra.npy", spectra)
    report = edgekit.convert(
        shared_data / "mlperf_tiny" / "anomaly_detection" / "ad01.h5",
        tmp_path / "ad01.edgekit",
        calibrate=tmp_path / "spectra.npy",
        evaluate=tmp_path / "spectra.npy",
        **BOTH,
    )
    assert report.source.metric == "reconstruction_error"
    assert report.source.accuracy is None
    for name, variant in by_name(report).items():
        assert variant.drop == pytest.approx(variant.value - report.source.value)
        assert abs(variant.drop) < (1e-3 if name.endswith("float32") else 0.03) * report.source.value
        assert variant.parity.snr_db > (60 if name.endswith("float32") else 25)


def test_a_saved_model_of_keyword_spotting(shared_data, tmp_path):
    spoken = np.load(shared_data / "kws01" / "kws01_mfcc_int8.npz")
    features = (spoken["features"].astype(np.float32) - 83) * np.float32(0.5847)
    for name, part in (("calibration", slice(200)), ("test", slice(200, 1000))):
        np.savez(tmp_path / f"{name}.npz", x=features[part], y=spoken["labels"][part])
    report = edgekit.convert(
        shared_data / "mlperf_tiny" / "keyword_spotting" / "kws_ref_model",
        tmp_path / "kws.edgekit",
        calibrate=tmp_path / "calibration.npz",
        evaluate=tmp_path / "test.npz",
        max_drop=0.02,
        **BOTH,
    )
    assert report.source.accuracy > 0.9
    assert by_name(report)["litert-float32"].size_bytes < 110_000  # 24,908 weights of 4 bytes, each kept once


@pytest.mark.parametrize(
    ("model", "schemes"),
    [
        ("mlperf_tiny/anomaly_detection/ad01_int8", {"litert-int8-static", "openvino-int8-static"}),
        ("coral/models/mobilenet_v1_0.25_128_quant", {"litert-int8-static", "openvino-int8-static"}),
        ("mlperf_tiny/keyword_spotting/kws_ref_model_float32", {"litert-int8-dynamic"}),
    ],
)
def test_what_comes_quantized_is_bundled_as_what_it_is(shared_data, tmp_path, model, schemes):
    file = shared_data / f"{model}.tflite"
    report = edgekit.convert(file, tmp_path / "model.edgekit")
    assert set(by_name(report)) == schemes
    assert by_name(report)[min(schemes)].size_bytes == file.stat().st_size
    assert by_name(report)[min(schemes)].parity.snr_db == 150.0
    assert any("bundled unchanged" in note for note in report.notes)
    with edgekit_runtime.load(tmp_path / "model.edgekit", require="litert") as loaded:
        x = np.zeros(loaded.inputs[0].shape, np.float32)
        assert loaded(x).dtype == np.float32


@pytest.mark.parametrize("engine", ["litert", "openvino"])
def test_a_float_tflite_without_a_signature_is_quantized(shared_data, tmp_path, engine):
    report = edgekit.convert(
        shared_data / "mlperf_tiny" / "image_classification" / "pretrainedResnet.tflite",
        tmp_path / "resnet8.edgekit",
        device="raspberry-pi-5" if engine == "litert" else "intel-cpu",
        quantize="int8",
        calibrate=shared_data / "cifar10" / "calibration.npz",
    )
    assert [variant.name for variant in report.variants] == [f"{engine}-int8-static"]
