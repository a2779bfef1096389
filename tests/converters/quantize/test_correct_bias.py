"""Bias correction: mean inputs of a kernel, and int8 layers whose weights are all rounded to one side."""

from types import SimpleNamespace

import numpy as np
import pytest

from edgekit_converters.recipe.recipe import Recipe

GAIN_DB = 10.0


@pytest.mark.needs_litert
@pytest.mark.parametrize("stride", [1, 2, 3])
@pytest.mark.parametrize("dilation", [1, 2])
@pytest.mark.parametrize("same", [True, False])
def test_tap_means_give_the_mean_of_a_convolution(stride, dilation, same):
    from ai_edge_litert import schema_py_generated as schema

    from edgekit_converters.quantize.correct_bias import tap_means

    draw = np.random.default_rng(0).standard_normal
    taken, kernel = draw((1, 9, 8, 5)), draw((3, 2, 5))
    options = SimpleNamespace(
        strideH=stride,
        strideW=stride,
        dilationHFactor=dilation,
        dilationWFactor=dilation,
        padding=schema.Padding.SAME if same else schema.Padding.VALID,
    )
    means = tap_means(taken, kernel.shape[:2], options)
    expected = convolution(taken[0], kernel, stride, dilation, same).mean()
    assert np.sum(means * kernel) == pytest.approx(expected)


def convolution(taken, kernel, stride, dilation, same):
    """Compute a convolution position by position, as TensorFlow defines it."""
    rows, columns = taken.shape[:2]
    high, wide = ((size - 1) * dilation + 1 for size in kernel.shape[:2])
    counts = [
        -(-size // stride) if same else -(-(size - span + 1) // stride)
        for size, span in zip(taken.shape, (high, wide), strict=False)
    ]
    top = max((counts[0] - 1) * stride + high - rows, 0) // 2
    left = max((counts[1] - 1) * stride + wide - columns, 0) // 2
    sums = np.zeros(counts)
    for y, x in np.ndindex(*counts):
        for i, j in np.ndindex(*kernel.shape[:2]):
            row, column = y * stride + i * dilation - top * same, x * stride + j * dilation - left * same
            if 0 <= row < rows and 0 <= column < columns:
                sums[y, x] += taken[row, column] @ kernel[i, j]
    return sums


def rounded_to_one_side():
    """Return two dense layers whose small weights all lie at 0.4 steps of the great one, so that they become 0."""
    import keras
    from keras import layers

    keras.utils.set_random_seed(0)
    x = vector = keras.Input((64,))
    for width in (64, 8):
        x = layers.Dense(width, activation="relu" if width == 64 else None, bias_initializer="random_normal")(x)
    model = keras.Model(vector, x)
    for layer in model.layers[1:]:
        kernel, bias = layer.get_weights()
        kernel[:] = 0.4 / 127
        kernel[np.arange(kernel.shape[1]), np.arange(kernel.shape[1])] = 1.0
        layer.set_weights([kernel, bias])
    return model


@pytest.fixture
def one_sided(lowered_model):
    return lowered_model(
        rounded_to_one_side(), "litert", np.random.default_rng(0).uniform(0.5, 1, (64, 64)).astype(np.float32)
    )


@pytest.mark.needs_keras
@pytest.mark.parametrize("scheme", ["int8-static", "int16x8-static"])
@pytest.mark.parametrize("word", ["bias", "bias-fast"])
def test_weights_rounded_to_one_side(one_sided, scheme, word):
    plain, corrected = (one_sided.snr_db(Recipe(scheme, corrections=names)) for names in ((), (word,)))
    assert corrected > plain + GAIN_DB, (plain, corrected)


@pytest.mark.needs_keras
def test_the_float_file_is_not_changed(one_sided):
    before = one_sided.artifact.files[0].read_bytes()
    one_sided.quantized(Recipe("int8-static", corrections=("equalize", "bias")))
    assert one_sided.artifact.files[0].read_bytes() == before


@pytest.mark.needs_keras
def test_a_file_of_another_flatbuffer_writer_is_corrected(one_sided, tmp_path):
    from edgekit_converters.quantize.correct_bias import correct_bias

    plain = one_sided.quantized(Recipe("int8-static")).files[0].read_bytes()
    root, room = int.from_bytes(plain[:4], "little"), 64
    moved = (root + room).to_bytes(4, "little") + plain[4:8] + bytes(room) + plain[8:]  # all other offsets are relative
    made = []
    for name, content in (("as-written", plain), ("moved", moved)):
        path = tmp_path / f"{name}.tflite"
        path.write_bytes(content)
        correct_bias(one_sided.request(Recipe("int8-static", corrections=("bias",))), path, weights_only=False)
        made.append(path.read_bytes())
    assert made[0] == made[1] != plain
