"""Keras models as people have them: both generations, every way to save, open sizes, custom layers, broken files."""

import json

import numpy as np
import pytest

from edgekit_converters.load import open_source
from edgekit_converters.records import InputShape
from edgekit_runtime.errors import SourceError

pytestmark = pytest.mark.needs_keras

IMAGE = np.random.default_rng(0).standard_normal((3, 8, 8, 3)).astype(np.float32)
VECTOR = np.random.default_rng(0).standard_normal((3, 4)).astype(np.float32)


def run(source, *batch):
    return open_source(source.request).run(list(batch))


@pytest.fixture(scope="module")
def net():
    """A Keras 3 model with random but not zero biases."""
    import keras
    from keras import layers

    keras.utils.set_random_seed(0)
    image = keras.Input((8, 8, 3), name="image")
    x = layers.Conv2D(4, 3, activation="relu", bias_initializer="random_normal")(image)
    return keras.Model(image, layers.Dense(5, activation="softmax", name="head")(layers.GlobalAveragePooling2D()(x)))


@pytest.mark.parametrize("name", ["net.keras", "net.h5", "exported", "saved"])
def test_every_way_to_save_a_keras_3_model(net, tmp_path, loaded, name):
    import tensorflow as tf

    path = tmp_path / name
    if name == "exported":
        net.export(path, verbose=False)
    elif name == "saved":
        tf.saved_model.save(net, str(path))
    else:
        net.save(path)
    source = loaded(path)
    assert source.framework == "keras"
    assert [(spec.shape, spec.dtype, spec.layout) for spec in source.inputs] == [((1, 8, 8, 3), "float32", "NHWC")]
    assert [spec.shape for spec in source.outputs] == [(1, 5)]
    assert np.allclose(run(source, IMAGE)[0], net(IMAGE).numpy(), atol=1e-6)


@pytest.fixture(scope="module")
def old_net():
    """A Keras-2 model with what Keras 3 refuses: grouped depthwise convolutions and slashes in names."""
    import tf_keras
    from tf_keras import layers

    tf_keras.utils.set_random_seed(0)
    image = tf_keras.Input((8, 8, 3), name="image")
    x = layers.DepthwiseConv2D(3, name="block/depthwise", bias_initializer="random_normal")(image)
    return tf_keras.Model(image, layers.Dense(5, name="head/scores")(layers.GlobalAveragePooling2D()(x)))


@pytest.mark.parametrize("name", ["old.h5", "old.keras", "old_saved"])
def test_keras_2_models_load_without_the_user_knowing(old_net, tmp_path, loaded, name):
    import h5py

    path = tmp_path / name
    old_net.save(path, save_format="tf" if name == "old_saved" else None)
    if name == "old.h5":
        with h5py.File(path, "r+") as file:
            config = json.loads(file.attrs["model_config"])
            config["config"]["layers"][1]["config"]["groups"] = 1
            file.attrs["model_config"] = json.dumps(config)
    source = loaded(path)
    assert np.allclose(run(source, IMAGE)[0], old_net(IMAGE).numpy(), atol=1e-6)
    assert source.notes == (() if name == "old_saved" else ("loaded with tf_keras: Keras 3 refuses this Keras-2 file",))


@pytest.mark.parametrize("name", ["gate.h5", "gate.keras"])
def test_what_keras_3_computes_otherwise_than_keras_2_is_as_it_was(tmp_path, loaded, name):
    import tf_keras
    from tf_keras import layers

    tf_keras.utils.set_random_seed(0)
    net = tf_keras.Sequential([layers.Input((4,), name="x"), layers.Dense(3, activation="hard_sigmoid")])
    net.save(tmp_path / name)
    source = loaded(tmp_path / name)
    assert np.allclose(run(source, VECTOR)[0], net(VECTOR).numpy(), atol=1e-6)
    assert any("hard_sigmoid differs" in note for note in source.notes)


def test_inputs_and_outputs_keep_names_and_order_in_dictionaries(tmp_path, loaded):
    import keras
    from keras import layers

    zeta, alpha = keras.Input((4,), name="zeta"), keras.Input((2,), name="alpha")
    both = layers.Concatenate()([zeta, alpha])
    outputs = {"late": layers.Dense(3, name="d1")(both), "early": layers.Dense(7, name="d2")(both)}
    model = keras.Model({"zeta": zeta, "alpha": alpha}, outputs)
    model.save(tmp_path / "both.keras")
    source = loaded(tmp_path / "both.keras")
    assert [(spec.name, spec.shape) for spec in source.inputs] == [("alpha", (1, 2)), ("zeta", (1, 4))]
    assert [(spec.name, spec.shape) for spec in source.outputs] == [("early", (1, 7)), ("late", (1, 3))]
    results = run(source, VECTOR[:, :2], VECTOR)
    expected = model({"zeta": VECTOR, "alpha": VECTOR[:, :2]})
    assert np.allclose(results[0], expected["early"].numpy(), atol=1e-6)
    assert np.allclose(results[1], expected["late"].numpy(), atol=1e-6)


def test_an_open_size_is_asked_for_and_taken(tmp_path, loaded):
    import keras
    from keras import layers

    image = keras.Input((None, None, 3), name="image")
    keras.Model(image, layers.GlobalAveragePooling2D()(image)).save(tmp_path / "open.keras")
    with pytest.raises(SourceError, match="--input-shape image=1,N,N,3"):
        loaded(tmp_path / "open.keras")
    source = loaded(tmp_path / "open.keras", input_shapes=(InputShape((1, 9, 7, 3)),))
    assert source.inputs[0].shape == (1, 9, 7, 3)


def test_a_shape_for_no_input_is_refused(net, tmp_path, loaded):
    net.save(tmp_path / "net.keras")
    net.export(str(tmp_path / "net"))
    for name in ("net.keras", "net"):
        with pytest.raises(SourceError, match=r"no input 'foo'; there are \w+"):
            loaded(tmp_path / name, input_shapes=(InputShape((1, 8, 8, 3), "foo"),))


@pytest.mark.parametrize("dtype", ["int32", "int64"])
def test_integer_inputs_stay_integers(tmp_path, loaded, dtype):
    import keras
    from keras import layers

    ids = keras.Input((6,), dtype=dtype, name="ids")
    keras.Model(ids, layers.Flatten()(layers.Embedding(10, 2)(ids))).save(tmp_path / "ids.keras")
    assert loaded(tmp_path / "ids.keras").inputs[0].dtype == dtype


CUSTOM = """
import keras

class Doubled(keras.layers.Layer):
    def call(self, x):
        return 2 * x
"""


@pytest.fixture
def custom(tmp_path):
    """A model with a layer that ``layers.py`` defines, as .keras and .h5."""
    import keras

    definition = tmp_path / "layers.py"
    definition.write_text(CUSTOM)
    scope = {}
    exec(compile(CUSTOM, str(definition), "exec"), scope)
    x = keras.Input((4,))
    model = keras.Model(x, scope["Doubled"](name="twice")(x))
    for suffix in (".keras", ".h5"):
        model.save(tmp_path / f"custom{suffix}")
    return definition


@pytest.mark.parametrize("suffix", [".keras", ".h5"])
def test_a_custom_layer_is_named_and_can_be_passed(tmp_path, loaded, custom, suffix):
    path = tmp_path / f"custom{suffix}"
    with pytest.raises(SourceError, match=r"custom layer or function, 'Doubled'.*\n.*--custom-objects FILE.py"):
        loaded(path)
    source = loaded(path, custom_objects=custom)
    assert np.allclose(run(source, VECTOR)[0], 2 * VECTOR)
    assert source.notes == ("custom objects from layers.py",)
    other = tmp_path / "other.py"
    other.write_text("def unrelated(): pass\n")
    with pytest.raises(SourceError, match=r"'Doubled', that .*other.py does not define"):
        loaded(path, custom_objects=other)


@pytest.mark.parametrize("generation", ["keras", "tf_keras"])
@pytest.mark.parametrize("suffix", [".keras", ".h5"])
def test_code_in_a_lambda_layer_runs_only_when_allowed(tmp_path, loaded, generation, suffix):
    import importlib

    keras = importlib.import_module(generation)
    x = keras.Input((4,))
    doubled = eval("lambda t: 2 * t")
    keras.Model(x, keras.layers.Lambda(doubled, output_shape=(4,))(x)).save(tmp_path / f"model{suffix}")
    with pytest.raises(SourceError, match=r"Lambda layer or function, which is code .* --allow-pickle"):
        loaded(tmp_path / f"model{suffix}")
    source = loaded(tmp_path / f"model{suffix}", allow_pickle=True)
    assert np.allclose(run(source, VECTOR)[0], 2 * VECTOR)


def test_weights_are_not_a_model(net, tmp_path, loaded):
    net.save_weights(tmp_path / "net.weights.h5")
    with pytest.raises(SourceError, match=r"holds weights, not a model; .*FILE.py:function --weights net.weights.h5"):
        loaded(tmp_path / "net.weights.h5")


@pytest.mark.parametrize("name", ["garbage.keras", "garbage.h5"])
def test_garbage_is_not_a_model(tmp_path, loaded, name):
    (tmp_path / name).write_bytes(b"\0garbage" * 100)
    with pytest.raises(SourceError, match=f"{name}: not a model Keras can load"):
        loaded(tmp_path / name)
