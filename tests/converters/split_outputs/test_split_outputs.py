"""A split output, joined again, is the same output; and each part has its own scale."""

from dataclasses import replace

import numpy as np
import pytest

from edgekit_converters.artifact.open import OpenArtifact, bind
from edgekit_converters.examine import examine
from edgekit_converters.quantize import quantize
from edgekit_converters.recipe.recipe import Recipe
from edgekit_converters.records import ExamineRequest, QuantizeRequest, Split, SplitOutputsRequest
from edgekit_converters.split_outputs import split_outputs
from edgekit_converters.verify.acceptance import check_parity
from edgekit_converters.verify.parity import parity_of
from edgekit_runtime.errors import VerificationError
from edgekit_runtime.format.manifest import JoinedBinding, TensorBinding

pytestmark = pytest.mark.needs_keras
ENGINES = ["litert", pytest.param("openvino", marks=pytest.mark.needs_openvino)]


@pytest.fixture
def source(loaded, tmp_path):
    """Three outputs; the second concatenates a wide and a narrow range."""
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


@pytest.mark.parametrize("engine", ENGINES)
def test_the_joined_output_is_bit_identical(source, samples, lowered, tmp_path, engine):
    artifact = lowered(source, engine)
    made = split_outputs(SplitOutputsRequest(artifact, (Split(1, 2),)), tmp_path)
    assert [type(bound) for bound in made.outputs] == [TensorBinding, JoinedBinding, TensorBinding]
    assert made.outputs[1].axis == 2
    assert sorted(part.index for bound in made.outputs for part in bound.parts) == [0, 1, 2, 3]
    whole, again = outputs_of(artifact, samples), outputs_of(made, samples)
    assert [array.shape for array in again] == [(40, 2), (40, 4, 5), (40, 3)]
    for one, other in zip(whole, again, strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.mark.needs_openvino
def test_in_ir_scores_are_compared_separately_within_int8_steps(source, samples, lowered, prepared, compared, tmp_path):
    artifact, data = lowered(source, "openvino"), prepared(source, samples)
    examined = examine(ExamineRequest(artifact, source.inputs, data), tmp_path)
    (found,) = examined.splits
    assert (found.output, found.axis) == (1, 2)
    assert found.part_ranges[0] > 100
    assert 0.5 < found.part_ranges[1] <= 1
    for name in ("split", "quantized"):
        (tmp_path / name).mkdir()
    parts = split_outputs(SplitOutputsRequest(artifact, examined.splits), tmp_path / "split")
    made = quantize(QuantizeRequest(parts, Recipe("int8-static"), source.inputs, data), tmp_path / "quantized")
    assert made.outputs[1] == parts.outputs[1]
    comparison = compared(source, made, data)
    check_parity(made, comparison, stage="quantize")
    steps = [(one.part, one.step) for one in comparison.parity if one.part is not None]
    assert steps == [(part, pytest.approx(span / 255)) for part, span in enumerate(found.part_ranges)]
    assert [one.step for one in compared(source, parts, data).parity] == [0.0] * 4  # float has no such excuse
    faulty = replace(made, files=with_a_third_of(made, 2, tmp_path))
    broken = compared(source, faulty, data)
    with pytest.raises(VerificationError, match=r"output '\w+', part 1 has 3\.\d dB"):
        check_parity(faulty, broken, stage="quantize")
    reference = np.load(broken.computed[1].with_name("output-1.npy"))
    assert parity_of("y", reference, np.load(broken.computed[1])).snr_db > 30  # as one array the boxes drown it


@pytest.mark.needs_openvino
def test_in_ir_the_remaining_nodes_keep_their_names(tmp_path):
    import openvino as ov
    from openvino import opset13 as op

    from edgekit_converters.formats.openvino_model import write

    x = op.parameter([1, 4, 8], name="x")
    joined = op.concat([op.multiply(x, np.float32(100)), op.sigmoid(x)], 1)
    model = ov.Model([op.result(joined), op.result(op.tanh(op.add(x, np.float32(2))))], [x], "net")
    (tmp_path / "cut").mkdir()
    artifact = bind("openvino", "float32", write(model, tmp_path))
    made = split_outputs(SplitOutputsRequest(artifact, (Split(0, 1),)), tmp_path / "cut")
    assert [len(bound.parts) for bound in made.outputs] == [2, 1]
    whole, cut = (names_in(one) for one in (artifact, made))
    (gone,) = (name for name in whole if name not in cut)
    assert whole.pop(gone) == "Concat"
    assert cut == whole


def names_in(artifact):
    """The operations of an IR: their types, by name."""
    import openvino as ov

    operations = ov.Core().read_model(artifact.files[0]).get_ops()
    return {one.get_friendly_name(): one.get_type_name() for one in operations if one.get_type_name() != "Result"}


def with_a_third_of(artifact, place, folder):
    """Write an IR with one result divided by three; return its files."""
    import openvino as ov
    from openvino import opset13

    model = ov.Core().read_model(artifact.files[0])
    entrance = model.outputs[place].get_node().input(0)
    entrance.replace_source_output(opset13.multiply(entrance.get_source_output(), np.float32(1 / 3)).output(0))
    ov.save_model(model, folder / "faulty.xml", compress_to_fp16=False)
    return (folder / "faulty.xml", folder / "faulty.bin")


def test_a_part_name_too_long_for_a_manifest_is_shortened(loaded, lowered, tmp_path):
    import keras
    from keras import layers

    vector = keras.Input((8,))
    parts = [layers.Dense(size, activation="sigmoid", name=str(size) * 300)(vector) for size in (3, 4)]
    keras.Model(vector, layers.Concatenate()(parts)).save(tmp_path / "long.keras")
    made = split_outputs(
        SplitOutputsRequest(lowered(loaded(tmp_path / "long.keras"), "litert"), (Split(0, 1),)), tmp_path
    )
    assert [len(part.name) for part in made.outputs[0].parts] == [256, 256]


def test_each_part_is_quantized_and_verified_by_its_own_range(source, samples, lowered, prepared, compared, tmp_path):
    artifact, data = lowered(source, "litert"), prepared(source, samples)
    examined = examine(ExamineRequest(artifact, source.inputs, data), tmp_path)
    assert examined.splits == (Split(1, 2),)
    (tmp_path / "split").mkdir()
    made = {
        "cut": split_outputs(SplitOutputsRequest(artifact, examined.splits), tmp_path / "split"),
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
