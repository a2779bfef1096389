"""Remedies on real artifacts: int8 with the nodes and splits of an examination is near the float artifact."""

import numpy as np
import pytest

from edgekit_converters.artifact.open import OpenArtifact
from edgekit_converters.examine import examine
from edgekit_converters.quantize import quantize
from edgekit_converters.recipe.recipe import Recipe
from edgekit_converters.records import Examination, ExamineRequest, QuantizeRequest, SplitOutputsRequest
from edgekit_converters.split_outputs import split_outputs

pytestmark = pytest.mark.needs_keras

ENGINES = ["litert", pytest.param("openvino", marks=pytest.mark.needs_openvino)]


def padded(keras, layers, image):
    """Maximum pooling over a border of -1e9."""
    x = layers.Conv2D(8, 3, padding="same")(image)
    x = layers.MaxPooling2D(3, 2)(keras.ops.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)), constant_values=-1e9))
    return layers.Dense(10)(layers.Flatten()(layers.Conv2D(8, 3, activation="relu")(x)))


def turned(keras, layers, image):
    """Boxes beside scores, followed by a transpose as the last node."""
    x = layers.Conv2D(8, 3, 4, padding="same", activation="relu")(image)
    boxes = layers.Reshape((16, 4))(layers.Conv2D(4, 1)(x)) * 300.0 + 100
    scores = layers.Reshape((16, 2))(layers.Conv2D(2, 1, activation="sigmoid")(x))
    return keras.ops.transpose(layers.Concatenate(axis=2)([boxes, scores]), (0, 2, 1))


def anchored(keras, layers, image):
    """Boxes from anchors, without a distribution, beside scores."""
    x = layers.Conv2D(8, 3, 4, padding="same", activation="relu")(image)
    raw = keras.ops.sigmoid(layers.Reshape((16, 4))(layers.Conv2D(4, 1)(x)))
    xy = (raw[..., :2] * 2 - 0.5) * 160 + np.arange(32, dtype=np.float32).reshape(1, 16, 2) * 10
    scores = layers.Reshape((16, 2))(layers.Conv2D(2, 1, activation="sigmoid")(x))
    return layers.Concatenate(axis=2)([xy, keras.ops.square(raw[..., 2:] * 2) * 60, scores])


def normalized(keras, layers, image):
    """A normalization of values with one channel far larger than the others."""
    x = layers.Conv2D(8, 3, kernel_initializer="glorot_normal")(image) * np.float32([20] + [1] * 7)
    return layers.Dense(10)(layers.Flatten()(layers.LayerNormalization(axis=(1, 2))(x)))


@pytest.fixture
def made(loaded, lowered, prepared, tmp_path):
    """Float outputs, and int8 outputs with remedies and without, on the calibration samples."""
    import keras
    from keras import layers

    def run(build, engine):
        keras.utils.set_random_seed(0)
        image = keras.Input((16, 16, 3))
        keras.Model(image, build(keras, layers, image)).save(tmp_path / "net.keras")
        source = loaded(tmp_path / "net.keras")
        samples = np.random.default_rng(0).standard_normal((40, 16, 16, 3)).astype(np.float32)
        artifact, data = lowered(source, engine), prepared(source, samples)
        examined = examine(ExamineRequest(artifact, source.inputs, data), tmp_path)
        results = [outputs_of(artifact, samples)]
        for name, remedies in (("with", examined), ("without", Examination())):
            folder = tmp_path / name
            (folder / "split").mkdir(parents=True)
            taken = artifact
            if remedies.splits:
                taken = split_outputs(SplitOutputsRequest(artifact, remedies.splits), folder / "split")
            request = QuantizeRequest(taken, Recipe("int8-static"), source.inputs, data, remedies.nodes)
            results.append(lambda request=request, folder=folder: outputs_of(quantize(request, folder), samples))
        return results

    return run


def outputs_of(artifact, samples):
    opened = OpenArtifact(artifact)
    try:
        return np.concatenate([opened.run([row[None]])[0] for row in samples])
    finally:
        opened.close()


@pytest.mark.parametrize("engine", ENGINES)
def test_a_far_pad(made, engine):
    reference, remedied, _ = made(padded, engine)
    assert np.abs(remedied() - reference).mean() < 0.05 * reference.std()


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize(("build", "axis", "share"), [(turned, 1, 1.0), (anchored, 2, 0.96)])
def test_boxes_beside_scores(made, engine, build, axis, share):
    reference, remedied, plain = made(build, engine)
    errors = [np.abs(np.moveaxis(result() - reference, axis, -1)) for result in (remedied, plain)]
    boxes, scores = ([error[..., part].mean() for error in errors] for part in (slice(4), slice(4, None)))
    assert scores[0] < 0.01
    assert boxes[0] <= share * boxes[1]  # the lowering folds one into a convolution, which has weights
    assert (scores[1] > 0.2) == (engine == "litert")  # IR has no scale for an output


def test_a_normalization(made):
    reference, remedied, plain = made(normalized, "litert")
    errors = [np.square(result() - reference).mean() for result in (remedied, plain)]
    assert errors[0] < 0.5 * errors[1]
