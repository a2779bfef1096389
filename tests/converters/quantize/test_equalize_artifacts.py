"""Cross-layer equalization of real artifacts: the same function in float, and a better one in int8."""

import numpy as np
import pytest

from edgekit_converters.artifact.open import OpenArtifact, bind
from edgekit_converters.recipe.recipe import Recipe

pytestmark = pytest.mark.needs_keras

ENGINES = ["litert", pytest.param("openvino", marks=pytest.mark.needs_openvino)]
SAME = 1e-5
SPREAD = 1000.0
GAIN_DB = 10.0


def separable(activation="relu"):
    """Return a conv, a depthwise conv, a gate of squeeze and excitation and a conv, their channels 1000:1 apart."""
    import keras
    from keras import layers

    keras.utils.set_random_seed(0)
    image = keras.Input((12, 12, 3))
    first = layers.Conv2D(16, 3, strides=2, padding="same", activation=activation, bias_initializer="random_normal")
    deep = layers.DepthwiseConv2D(3, padding="same", activation=activation, bias_initializer="random_normal")
    squeeze, gate = layers.Dense(8, activation="relu"), layers.Dense(16, activation="sigmoid")
    last = layers.Conv2D(8, 1, bias_initializer="random_normal")
    x = deep(first(image))
    squeezed = layers.GlobalAveragePooling2D(keepdims=True)(x)
    x = last(layers.Multiply()([x, gate(squeeze(squeezed))]))
    model = keras.Model(image, layers.Dense(10)(layers.GlobalAveragePooling2D()(x)))
    if activation == "relu":
        shuffle = np.random.default_rng(0).permutation
        _spread(first, [deep], shuffle(np.geomspace(1 / SPREAD, 1, 16)))
        _spread(deep, [squeeze, last], shuffle(np.geomspace(1 / SPREAD, 1, 16)))
    return model


def _spread(maker, takers, scales):
    """Scale the channels between layers, (channels,); the model computes the same."""
    kernel, bias = maker.get_weights()
    along = scales[:, np.newaxis] if kernel.shape[-1] == 1 else scales  # of a depthwise kernel: (rows, cols, c, 1)
    maker.set_weights([kernel * along, bias * scales])
    for taker in takers:
        kernel, *bias = taker.get_weights()
        taker.set_weights([kernel / scales[:, np.newaxis], *bias])


def samples(count=16):
    return np.random.default_rng(0).uniform(0, 1, (count, 12, 12, 3)).astype(np.float32)


def equalized(model, folder):
    """Return the equalized float artifact."""
    if model.artifact.engine == "litert":
        from edgekit_converters.quantize.equalize_tflite import equalize_file

        return bind("litert", "float32", (equalize_file(model.artifact.files[0], folder / "even.tflite"),))
    import openvino as ov

    from edgekit_converters.formats.openvino_model import write
    from edgekit_converters.quantize.equalize_ir import equalize_model

    even = ov.Core().read_model(model.artifact.files[0])
    equalize_model(even)
    return bind("openvino", "float32", write(even, folder))


def outputs(artifact):
    opened = OpenArtifact(artifact)
    results = np.concatenate([opened.run([sample[np.newaxis]])[0] for sample in samples()])
    opened.close()
    return results


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("activation", ["relu", "relu6", "hard_silu", None])
def test_the_float_model_computes_the_same(lowered_model, tmp_path, engine, activation):
    model = lowered_model(separable(activation), engine, samples())
    even, plain = outputs(equalized(model, tmp_path)), outputs(model.artifact)
    np.testing.assert_allclose(even, plain, rtol=0, atol=SAME * np.abs(plain).max())


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("scheme", ["int8-static", "int8-weights"])
def test_channels_that_differ_a_thousandfold_become_accurate(lowered_model, engine, scheme):
    model = lowered_model(separable(), engine, samples())
    plain, even = (model.snr_db(Recipe(scheme, corrections=names)) for names in ((), ("equalize",)))
    assert even > plain + GAIN_DB, (plain, even)


def test_channels_of_a_flattened_image_are_equalized(lowered_model, tmp_path):
    import keras
    from keras import layers

    keras.utils.set_random_seed(0)
    image = keras.Input((12, 12, 3))
    first = layers.Conv2D(4, 3, strides=4, activation="relu", bias_initializer="random_normal")
    pooled = layers.MaxPooling2D(1)(first(image))
    head = layers.Dense(5)
    net = keras.Model(image, head(layers.ReLU()(layers.Flatten()(pooled))))
    scales = np.geomspace(1 / SPREAD, 1, 4)
    _spread(first, [], scales)
    kernel, bias = head.get_weights()  # (rows · columns · channels, 5)
    head.set_weights([kernel / np.tile(scales, len(kernel) // 4)[:, np.newaxis], bias])
    model = lowered_model(net, "litert", samples())
    even, plain = outputs(equalized(model, tmp_path)), outputs(model.artifact)
    np.testing.assert_allclose(even, plain, rtol=0, atol=SAME * np.abs(plain).max())
    snr_db = [model.snr_db(Recipe("int8-static", corrections=names)) for names in ((), ("equalize",))]
    assert snr_db[1] > snr_db[0] + GAIN_DB, snr_db


@pytest.mark.parametrize("engine", ENGINES)
def test_hard_swish_is_not_scaled_through(lowered_model, tmp_path, engine):
    model = lowered_model(separable("hard_silu"), engine, samples())
    even = equalized(model, tmp_path)
    before, after = (sorted(np.abs(kernels(artifact)).max(axis=(0, 1, 2))) for artifact in (model.artifact, even))
    np.testing.assert_array_equal(before, after)


@pytest.mark.parametrize("engine", ENGINES)
def test_relu6_that_never_clips_is_scaled_through(lowered_model, tmp_path, engine):
    net = separable("relu6")
    deep = net.layers[2]
    kernel, bias = deep.get_weights()
    small = np.arange(16) < 8
    deep.set_weights([np.where(small[:, np.newaxis], 0.01, 30.0) * kernel, np.zeros_like(bias)])
    model = lowered_model(net, engine, 6 * samples())
    even = equalized(model, tmp_path)
    plain = outputs(model.artifact)
    np.testing.assert_allclose(outputs(even), plain, rtol=0, atol=SAME * np.abs(plain).max())
    before, after = (np.abs(kernels(artifact)).max(axis=(0, 1, 2)) for artifact in (model.artifact, even))
    assert np.all(after[small] > 1.5 * before[small])
    np.testing.assert_array_equal(after[~small], before[~small])


def kernels(artifact):
    """Return the depthwise kernel, (1, rows, columns, channels)."""
    if artifact.engine == "openvino":
        import openvino as ov

        nodes = ov.Core().read_model(artifact.files[0]).get_ops()
        (kernel,) = (node.input_value(1).get_node() for node in nodes if node.get_type_name() == "GroupConvolution")
        return np.moveaxis(kernel.get_data()[:, 0], 0, -1)
    from ai_edge_litert.interpreter import Interpreter

    interpreter = Interpreter(str(artifact.files[0]), experimental_preserve_all_tensors=True)
    interpreter.allocate_tensors()
    (index,) = (one["index"] for one in interpreter.get_tensor_details() if list(one["shape"]) == [1, 3, 3, 16])
    return interpreter.get_tensor(index)


@pytest.mark.needs_openvino
@pytest.mark.parametrize("weights", [[(1, 6, 6), (6, 5)], [(6, 6, 6), (6, 6, 6)], [(6,), (4, 5)]])
def test_weights_that_are_no_matrix_are_not_scaled(weights):
    from edgekit_converters.quantize.equalize_ir import equalize_model

    random = np.random.default_rng(0)
    taken = random.standard_normal((6, 4, 6)).astype(np.float32)
    model = chain([random.lognormal(0, 2, shape) * random.choice([-1, 1], shape) for shape in weights], taken.shape)
    plain = computed(model, taken)
    equalize_model(model)
    np.testing.assert_allclose(computed(model, taken), plain, rtol=0, atol=SAME * np.abs(plain).max())


def chain(weights, shape):
    """Return an OpenVINO model that multiplies by one after the other, each followed by ReLU."""
    import openvino as ov
    from openvino import opset13

    taken = opset13.parameter(shape, np.float32)
    made = taken
    for array in weights:
        made = opset13.relu(opset13.matmul(made, opset13.constant(array.astype(np.float32)), False, False))
    return ov.Model([made], [taken], "chain")


def computed(model, taken):
    import openvino as ov

    return ov.Core().compile_model(model, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})([taken])[0]
