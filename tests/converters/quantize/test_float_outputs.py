"""An output that is computed in float stays in float, beside an int8 output."""

import numpy as np
import pytest

from edgekit_converters.artifact.open import OpenArtifact
from edgekit_converters.quantize import quantize
from edgekit_converters.recipe.recipe import Recipe
from edgekit_converters.records import QuantizeRequest

pytestmark = pytest.mark.needs_keras


@pytest.fixture
def request_for(loaded, lowered, prepared, tmp_path):
    """A model of two dense outputs, the first scaled by 100; ``request_for(names)`` keeps nodes in float."""
    import keras
    from keras import layers

    keras.utils.set_random_seed(0)
    vector = keras.Input((8,))
    wide = layers.Dense(4)(vector) * 100.0
    keras.Model(vector, [wide, layers.Dense(3, activation="sigmoid")(vector)]).save(tmp_path / "net.keras")
    source = loaded(tmp_path / "net.keras")
    samples = np.random.default_rng(0).standard_normal((40, 8)).astype(np.float32)
    artifact, data = lowered(source, "litert"), prepared(source, samples)

    def make(*nodes):
        kept = tuple((name, "float32") for name in nodes)
        return QuantizeRequest(artifact, Recipe("int8-static"), source.inputs, data, kept), samples

    return make


def run(artifact, samples):
    opened = OpenArtifact(artifact)
    try:
        return [np.concatenate(column) for column in zip(*(opened.run([row[None]]) for row in samples), strict=True)]
    finally:
        opened.close()


def test_one_output_in_float_beside_one_in_int8(request_for, tmp_path):
    request, samples = request_for()
    name = request.artifact.outputs[0].name
    quantized, kept = tmp_path / "quantized", tmp_path / "kept"
    quantized.mkdir()
    kept.mkdir()
    plain = quantize(request, quantized)
    mixed = quantize(request_for(name)[0], kept)
    assert [bound.dtype for bound in plain.outputs] == ["int8", "int8"]
    assert [bound.dtype for bound in mixed.outputs] == ["float32", "int8"]
    assert mixed.outputs[1] == plain.outputs[1]
    reference, coarse, fine = (run(artifact, samples) for artifact in (request.artifact, plain, mixed))
    assert np.abs(fine[0] - reference[0]).mean() < np.abs(coarse[0] - reference[0]).mean()
    assert len(np.unique(coarse[0])) < 130 < len(np.unique(fine[0]))
    np.testing.assert_array_equal(fine[1], coarse[1])


def test_a_float_output_that_another_node_uses_in_int8(loaded, lowered, prepared, tmp_path):
    import keras
    from keras import layers

    keras.utils.set_random_seed(0)
    vector = keras.Input((8,))
    middle = layers.Dense(4)(layers.Dense(6)(vector))
    keras.Model(vector, [layers.Dense(3)(middle), middle]).save(tmp_path / "net.keras")
    source = loaded(tmp_path / "net.keras")
    samples = np.random.default_rng(0).standard_normal((40, 8)).astype(np.float32)
    artifact, data = lowered(source, "litert"), prepared(source, samples)
    kept = ((artifact.outputs[1].name, "float32"),)
    made = quantize(QuantizeRequest(artifact, Recipe("int8-static"), source.inputs, data, kept), tmp_path)
    assert [bound.dtype for bound in made.outputs] == ["int8", "float32"]
    for wanted, got in zip(run(artifact, samples), run(made, samples), strict=True):
        assert np.square(wanted - got).mean() < 1e-3 * np.square(wanted).mean()
