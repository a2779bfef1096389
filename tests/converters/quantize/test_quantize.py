"""Every scheme of every engine on a convolutional and a dense net: accurate, smaller, and bound as before."""

import numpy as np
import pytest

from edgekit_converters.formats import engines_for_scheme
from edgekit_converters.quantize import quantize
from edgekit_converters.recipe.recipe import Recipe
from edgekit_converters.recipe.schemes import SCHEMES
from edgekit_converters.records import InputShape, QuantizeRequest
from edgekit_converters.verify.acceptance import check_parity
from edgekit_runtime.errors import CalibrationError, UnsupportedOperator

pytestmark = pytest.mark.needs_keras

QUANTIZED = [
    pytest.param(engine, name, marks=pytest.mark.needs_openvino if engine == "openvino" else ())
    for name in SCHEMES
    for engine in engines_for_scheme(name)
    if name != "float32"
]
# well-behaved nets keep more than any scheme's floor; a regression of calibration shows here
FLOOR_DB, FLOOR_4_BITS_DB = 30.0, 15.0


def convolutional(keras, layers):
    image = keras.Input((12, 12, 3))
    x = layers.Conv2D(16, 3, activation="relu", bias_initializer="random_normal")(image)
    x = layers.DepthwiseConv2D(3, bias_initializer="random_normal")(x)
    x = layers.GlobalAveragePooling2D()(layers.Conv2D(32, 1, activation="relu")(x))
    return keras.Model(image, layers.Dense(10, activation="softmax")(x))


def dense(keras, layers):
    x = vector = keras.Input((32,))
    for width in (64, 64):
        x = layers.Dense(width, activation="relu", bias_initializer="random_normal")(x)
    return keras.Model(vector, layers.Dense(10, bias_initializer="random_normal")(x))


@pytest.fixture(scope="module", params=[convolutional, dense], ids=lambda build: build.__name__)
def file(request, tmp_path_factory):
    import keras
    from keras import layers

    keras.utils.set_random_seed(0)
    path = tmp_path_factory.mktemp("models") / "net.keras"
    request.param(keras, layers).save(path)
    return path


@pytest.fixture
def request_for(loaded, lowered, prepared):
    """A source, and the request to quantize its artifact for an engine, with 32 samples if needed."""

    def make(path, engine, scheme, *, calibrated=True):
        source = loaded(path)
        data = None
        if calibrated and SCHEMES[scheme].calibrated:
            generator = np.random.default_rng(1)
            data = prepared(source, generator.standard_normal((32, *source.inputs[0].shape[1:])).astype(np.float32))
        return source, QuantizeRequest(lowered(source, engine), Recipe(scheme), source.inputs, data)

    return make


@pytest.mark.parametrize(("engine", "scheme"), QUANTIZED)
def test_every_scheme(file, request_for, compared, tmp_path, engine, scheme):
    source, request = request_for(file, engine, scheme)
    artifact = quantize(request, tmp_path)
    assert (artifact.engine, artifact.scheme) == (engine, scheme)
    weights = artifact.files[-1]  # model.tflite, or the IR's model.bin
    assert weights.stat().st_size < request.artifact.files[-1].stat().st_size
    comparison = compared(source, artifact, request.calibration)
    check_parity(artifact, comparison, stage="quantize")
    assert comparison.worst.snr_db > (FLOOR_4_BITS_DB if scheme == "int4-weights" else FLOOR_DB)


@pytest.mark.parametrize("engine", ["litert", pytest.param("openvino", marks=pytest.mark.needs_openvino)])
def test_a_static_scheme_without_data_is_refused(file, request_for, tmp_path, engine):
    _, request = request_for(file, engine, "int8-static", calibrated=False)
    with pytest.raises(CalibrationError, match=r"int8-static needs calibration data\n--calibrate DATA"):
        quantize(request, tmp_path)


def test_a_thousand_classes_of_similar_probability_are_not_all_zero(request_for, compared, tmp_path):
    import keras
    from keras import layers

    keras.utils.set_random_seed(0)
    x = keras.Input((32,))
    keras.Model(x, layers.Dense(1000, activation="softmax")(x)).save(tmp_path / "wide.keras")
    source, request = request_for(tmp_path / "wide.keras", "litert", "int8-static")
    assert compared(source, quantize(request, tmp_path), request.calibration).worst.snr_db > FLOOR_DB


@pytest.mark.parametrize("layer", ["LSTM", "GRU"])
def test_static_schemes_refuse_loops(request_for, tmp_path, layer):
    import keras

    series = keras.Input((5, 3))
    keras.Model(series, getattr(keras.layers, layer)(4)(series)).save(tmp_path / "loop.keras")
    _, request = request_for(tmp_path / "loop.keras", "litert", "int8-static")
    with pytest.raises(UnsupportedOperator, match=r"loops and branches .*LSTM(.|\n)*--quantize int8-dynamic"):
        quantize(request, tmp_path)


def test_each_of_two_inputs_is_calibrated_with_its_own_samples(loaded, lowered, prepared, compared, tmp_path):
    import keras
    from keras import layers

    keras.utils.set_random_seed(0)
    zeta, alpha = keras.Input((8,), name="zeta"), keras.Input((8,), name="alpha")
    keras.Model([zeta, alpha], layers.Dense(4)(layers.Dense(16)(zeta) + layers.Dense(16)(alpha))).save(
        tmp_path / "two.keras"
    )
    source = loaded(tmp_path / "two.keras")
    generator = np.random.default_rng(0)
    wide, narrow = generator.standard_normal((32, 8)) * 100, generator.standard_normal((32, 8))
    data = prepared(source, wide.astype(np.float32), narrow.astype(np.float32))
    artifact = quantize(
        QuantizeRequest(lowered(source, "litert"), Recipe("int8-static"), source.inputs, data), tmp_path
    )
    assert artifact.inputs[0].scale > 50 * artifact.inputs[1].scale
    assert compared(source, artifact, data).worst.snr_db > FLOOR_DB


@pytest.mark.needs_torch
def test_token_ids_of_pytorch_are_calibrated_in_the_artifacts_dtype(loaded, lowered, prepared, compared, tmp_path):
    path = tmp_path / f"tokens_{tmp_path.name}.py"
    path.write_text(
        "import torch\n"
        "class Tokens(torch.nn.Module):\n"
        "    def __init__(self):\n"
        "        super().__init__()\n"
        "        torch.manual_seed(0)\n"
        "        self.table, self.head = torch.nn.Embedding(10, 16), torch.nn.Linear(16, 4)\n"
        "    def forward(self, ids):\n"
        "        return self.head(self.table(ids).mean(1))\n"
    )
    source = loaded(path, function="Tokens", input_shapes=(InputShape((1, 6), "ids", "int64"),))
    data = prepared(source, np.random.default_rng(0).integers(0, 10, (32, 6)))
    request = QuantizeRequest(lowered(source, "litert"), Recipe("int8-static"), source.inputs, data)
    assert request.artifact.inputs[0].dtype == "int32"  # of litert-torch, where the module takes int64
    assert compared(source, quantize(request, tmp_path), data).worst.snr_db > FLOOR_DB
