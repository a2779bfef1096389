"""``.tflite`` as a source: its scheme is read off its tensors, and its real numbers are what the application sees."""

import numpy as np
import pytest

from edgekit_converters.load import open_source
from edgekit_runtime.errors import SourceError

pytestmark = [pytest.mark.needs_keras]

X = np.random.default_rng(0).standard_normal((16, 24)).astype(np.float32)


@pytest.fixture(scope="module")
def net():
    import keras
    from keras import layers

    keras.utils.set_random_seed(0)
    x = keras.Input((24,))
    return keras.Model(x, layers.Dense(8)(layers.Dense(48, activation="relu")(x)))


@pytest.fixture
def tflite(net, tmp_path):
    """The net as TensorFlow's own converter makes it."""
    import tensorflow as tf

    def write(**settings):
        converter = tf.lite.TFLiteConverter.from_keras_model(net)
        for name, value in settings.items():
            setattr(converter, name, value)
        path = tmp_path / "model.tflite"
        path.write_bytes(converter.convert())
        return path

    return write


def static(tf, kind):
    operators = [tf.lite.OpsSet.TFLITE_BUILTINS_INT8]
    if kind == "int16x8":
        operators = [tf.lite.OpsSet.EXPERIMENTAL_TFLITE_BUILTINS_ACTIVATIONS_INT16_WEIGHTS_INT8]
    settings = {
        "representative_dataset": lambda: ([row[None]] for row in X),
        "optimizations": [tf.lite.Optimize.DEFAULT],
    }
    if kind == "uint8":
        settings |= {"inference_input_type": tf.uint8, "inference_output_type": tf.uint8}
    return settings | {"target_spec": tf.lite.TargetSpec(supported_ops=operators)}


@pytest.mark.parametrize(
    ("kind", "scheme"), [("int8", "int8-static"), ("uint8", "int8-static"), ("int16x8", "int16x8-static")]
)
def test_a_static_model_takes_and_gives_real_numbers(net, tflite, loaded, kind, scheme):
    import tensorflow as tf

    source = loaded(tflite(**static(tf, kind)))
    assert source.scheme == scheme
    assert source.quantized
    assert {spec.dtype for spec in (*source.inputs, *source.outputs)} == {"float32"}
    assert np.allclose(open_source(source.request).run([X])[0], net(X).numpy(), atol=0.1)


def test_float_dynamic_and_half(tflite, loaded):
    import tensorflow as tf

    assert loaded(tflite()).scheme == "float32"
    open_source.cache_clear()
    assert loaded(tflite(optimizations=[tf.lite.Optimize.DEFAULT])).scheme == "int8-dynamic"
    half = tf.lite.TargetSpec(supported_types=[tf.float16])
    open_source.cache_clear()
    assert loaded(tflite(optimizations=[tf.lite.Optimize.DEFAULT], target_spec=half)).scheme == "float16"


@pytest.mark.parametrize("scheme", ["int8-weights", "int8-dynamic", "float16"])
def test_what_edgekit_itself_makes_is_recognised(tflite, loaded, lowered, tmp_path, scheme):
    from edgekit_converters.quantize import quantize
    from edgekit_converters.recipe.recipe import Recipe
    from edgekit_converters.records import QuantizeRequest

    source = loaded(tflite())
    (tmp_path / "again").mkdir()
    made = quantize(QuantizeRequest(lowered(source, "litert"), Recipe(scheme), source.inputs), tmp_path / "again")
    assert loaded(made.files[0]).scheme == scheme


@pytest.mark.needs_openvino
def test_ir_of_a_quantized_file_keeps_its_scales(tflite, loaded, lowered, compared):
    import tensorflow as tf

    source = loaded(tflite(**static(tf, "uint8")))
    artifact = lowered(source, "openvino")
    assert artifact.inputs[0].dtype == "uint8"
    assert artifact.inputs[0].scale == pytest.approx(lowered(source, "litert").inputs[0].scale)
    assert compared(source, artifact).worst.snr_db > 20


def test_garbage_is_not_a_model(tmp_path, loaded):
    (tmp_path / "garbage.tflite").write_bytes(b"garbage" * 100)
    with pytest.raises(SourceError, match=r"LiteRT cannot read it .*not a valid Flatbuffer"):
        loaded(tmp_path / "garbage.tflite")


@pytest.mark.needs_data
@pytest.mark.parametrize(
    ("model", "operator"),
    [("model_invoking_error", "fake-op-double"), ("mobilenet_v1_0.25_128_quant_edgetpu", "edgetpu-custom-op")],
)
def test_a_vendors_operator_is_named(shared_data, loaded, model, operator):
    with pytest.raises(SourceError, match=rf"has the custom operator '{operator}', which only its vendor's delegate"):
        loaded(shared_data / "coral" / "models" / f"{model}.tflite")


@pytest.mark.needs_data
@pytest.mark.parametrize(
    ("model", "scheme"),
    [
        ("mlperf_tiny/image_classification/pretrainedResnet_quant", "int8-static"),
        ("mlperf_tiny/keyword_spotting/kws_ref_model_float32", "int8-dynamic"),  # float in name only
        ("coral/models/mobilenet_v1_0.25_128_quant", "int8-static"),
        ("mlperf_tiny/anomaly_detection/ad01_fp32", "float32"),
    ],
)
def test_the_scheme_of_real_models(shared_data, loaded, model, scheme):
    assert loaded(shared_data / f"{model}.tflite").scheme == scheme
