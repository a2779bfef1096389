"""A detector, trained here: its boxes and scores survive int8 in both formats, without anything said about it."""

import sys

import numpy as np
import pytest

import edgekit
import edgekit_runtime
from edgekit_runtime.format.manifest import JoinedBinding

pytestmark = [pytest.mark.needs_keras, pytest.mark.needs_openvino]

ONE_POINT = 0.01


@pytest.fixture(scope="module")
def folder(tmp_path_factory, repository):
    """Weights after a few seconds of training, and scenes."""
    folder = tmp_path_factory.mktemp("detector")
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(repository)
        from benchmarks.models import detector

        detector.trained(steps=150, batch=24, count=800).save_weights(folder / "trained.weights.h5")
        images, objects = detector.scenes(300, seed=1)
        np.save(folder / "train.npy", detector.scenes(100, seed=2)[0])
        np.savez(folder / "test.npz", x=images, y=objects)
        yield folder
        del sys.modules["benchmarks.models.detector"]


@pytest.fixture(scope="module")
def convert(folder, repository, _own_cache):
    model = repository / "benchmarks/models/detector.py"

    def run(name, **options):
        return edgekit.convert(
            f"{model}:detector",
            folder / f"{name}.edgekit",
            weights=folder / "trained.weights.h5",
            quantize="int8-static",
            calibrate=folder / "train.npy",
            evaluate=folder / "test.npz",
            metric=f"{model}:mean_precision",
            **options,
        )

    return run


@pytest.fixture(scope="module")
def made(convert):
    return convert("made", max_drop=ONE_POINT)


def test_it_loses_less_than_one_point(made):
    assert made.source.value > 0.3
    assert {variant.name for variant in made.variants} == {"litert-int8-static", "openvino-int8-static"}
    assert all(variant.drop <= ONE_POINT for variant in made.variants)
    assert [(found.engine, found.kind) for found in made.findings] == [
        (engine, kind) for engine in ("litert", "openvino") for kind in ("wide-concat", "softmax-expectation")
    ]


def test_without_remedies_it_loses_much_more_and_is_told_why(made, convert):
    plain = convert("plain", device="generic-arm64", remedies=False)
    (variant,) = plain.variants
    assert variant.drop > 5 * ONE_POINT
    assert {found.remedy for found in plain.findings} == {"nothing: --no-auto-fix"}


def test_the_application_sees_one_output_in_every_variant(folder, made):
    image = np.load(folder / "test.npz")["x"][:1]
    results = []
    for variant in made.variants:
        with edgekit_runtime.load(made.bundle.path, require=variant.name, check="always") as model:
            assert [(spec.name, spec.shape) for spec in model.outputs] == [("detections", (1, 64, 6))]
            results.append(model(image))
    assert [(array.shape, array.dtype) for array in results] == [((1, 64, 6), np.float32)] * 2
    np.testing.assert_allclose(results[0][..., 4:], results[1][..., 4:], atol=0.1)
    with edgekit_runtime.open_bundle(made.bundle.path) as bundle:
        tflite, ir = (variant.outputs[0] for variant in bundle.manifest.variants)
        assert isinstance(tflite, JoinedBinding)
        assert isinstance(ir, JoinedBinding)
        assert [part.dtype for part in tflite.parts] == ["float32", "int8"]
        assert {part.dtype for part in ir.parts} == {"float32"}
        for variant in bundle.manifest.variants:
            ((*of_boxes, of_scores),) = variant.golden.max_abs
            assert of_scores < 0.1 < min(of_boxes)  # pixels and probabilities


def test_parts_are_joined_in_a_child_process_and_for_several_threads_too(folder, made):
    images = np.load(folder / "test.npz")["x"][:4, None]
    with edgekit_runtime.load(made.bundle.path, require="litert-int8-static", concurrency=2) as model:
        expected = [model(image) for image in images]
        np.testing.assert_array_equal(list(model.stream(images)), expected)
    with edgekit_runtime.load(made.bundle.path, require="litert-int8-static", isolate=True) as model:
        np.testing.assert_array_equal([model(image) for image in images], expected)
