"""An output cut into its parts is, joined again, the same output; and each part gets a scale of its own."""

from dataclasses import replace

import numpy as np
import pytest

from edgekit_converters.artifact import OpenArtifact
from edgekit_converters.examine import examine
from edgekit_converters.quantize import quantize
from edgekit_converters.recipe import Recipe
from edgekit_converters.records import ExamineRequest, QuantizeRequest, Split, SplitRequest
from edgekit_converters.split import split
from edgekit_converters.verify.parity import parity_of
from edgekit_converters.verify.verdict import check_parity
from edgekit_runtime.errors import VerificationError
from edgekit_runtime.manifest import JoinedBinding, TensorBinding

pytestmark = pytest.mark.needs_keras


@pytest.fixture
def source(loaded, tmp_path):
    """Three outputs; the second is wide numbers beside narrow ones."""
    import keras
    from keras import layers

    keras.utils.set_random_seed(0)
    vector = keras.Input((8,))
    wide = layers.Reshape((4, 3))(layers.Dense(12, kernel_initializer=keras.initializers.RandomNormal(0, 100))(vector))
    narrow = layers.Reshape((4, 2))(layers.Dense(8, activation="sigmoid")(vector))
    joined = layers.Concatenate(axis=2)([wide, narrow])
    keras.Model(vector, [layers.Dense(2)(vector), joined, layers.Dense(3)(vector)]).save(tmp_path / "net.keras")
    return loaded(tmp_path / "net.keras")


@pytest.fixture
def samples():
    return np.random.default_rng(0).standard_normal((40, 8)).astype(np.float32)


def outputs_of(artifact, samples):
    opened = OpenArtifact(artifact)
    try:
        rows = [opened.run([samples[i : i + 1]]) for i in range(len(samples))]
    finally:
        opened.close()
    return [np.concatenate(column) for column in zip(*rows, strict=True)]


def test_the_joined_output_is_the_same_to_the_bit(source, samples, lowered, tmp_path):
    artifact = lowered(source, "litert")
    made = split(SplitRequest(artifact, (Split(1, 2),)), tmp_path)
    assert [type(bound) for bound in made.outputs] == [TensorBinding, JoinedBinding, TensorBinding]
    assert made.outputs[1].axis == 2
    assert sorted(part.index for bound in made.outputs for part in bound.parts) == [0, 1, 2, 3]
    whole, again = outputs_of(artifact, samples), outputs_of(made, samples)
    assert [array.shape for array in again] == [(40, 2), (40, 4, 5), (40, 3)]
    for one, other in zip(whole, again, strict=True):
        np.testing.assert_array_equal(one, other)


def test_a_part_may_have_a_longer_name_than_a_manifest_takes(loaded, lowered, tmp_path):
    import keras
    from keras import layers

    vector = keras.Input((8,))
    parts = [layers.Dense(size, activation="sigmoid", name=str(size) * 300)(vector) for size in (3, 4)]
    keras.Model(vector, layers.Concatenate()(parts)).save(tmp_path / "long.keras")
    made = split(SplitRequest(lowered(loaded(tmp_path / "long.keras"), "litert"), (Split(0, 1),)), tmp_path)
    assert [len(part.name) for part in made.outputs[0].parts] == [256, 256]


def test_each_part_is_quantized_by_its_own_range_and_held_to_it(source, samples, lowered, prepared, compared, tmp_path):
    artifact, data = lowered(source, "litert"), prepared(source, samples)
    examined = examine(ExamineRequest(artifact, source.inputs, data), tmp_path)
    assert examined.splits == (Split(1, 2),)
    (tmp_path / "split").mkdir()
    made = {
        "cut": split(SplitRequest(artifact, examined.splits), tmp_path / "split"),
        "whole": artifact,
    }
    errors = {}
    reference = outputs_of(artifact, samples)[1]
    for name, one in made.items():
        (tmp_path / name).mkdir()
        request = QuantizeRequest(one, Recipe("int8-static"), source.inputs, data)
        quantized = quantize(request, tmp_path / name)
        assert len(quantized.outputs) == 3
        errors[name] = np.abs(outputs_of(quantized, samples)[1] - reference)[..., 3:].max()
        if name == "cut":
            cut = quantized
            wide, narrow = quantized.outputs[1].parts
            assert (wide.dtype, narrow.dtype, narrow.scale) == ("int8", "int8", 1 / 256)
            assert wide.scale > 1
    assert errors["cut"] < 0.02
    assert errors["whole"] > 0.3
    check_parity(cut, compared(source, cut, data), stage="quantize")
    broken = replace(narrow, scale=narrow.scale / 3)  # the scores a third of what they are
    bound = JoinedBinding(2, (wide, broken))
    faulty = replace(cut, outputs=(cut.outputs[0], bound, cut.outputs[2]))
    with pytest.raises(VerificationError, match=r"output '\w+', part 1 has 3\.\d dB"):
        check_parity(faulty, compared(source, faulty, data), stage="quantize")
    whole = parity_of("y", reference, outputs_of(faulty, samples)[1])
    assert whole.snr_db > 30  # as one array the boxes drown it
