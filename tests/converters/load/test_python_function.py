"""``FILE.py:function``: the user's code builds the model, and its errors name the line."""

import sys

import numpy as np
import pytest

from edgekit_converters.frameworks.user_code import import_file
from edgekit_converters.load import open_source, reopen
from edgekit_converters.records import InputShape, SourceRequest
from edgekit_runtime.errors import SourceError

IMAGE = np.random.default_rng(0).standard_normal((1, 4)).astype(np.float32)


@pytest.fixture
def file(tmp_path):
    """Write the user's file under a name no other test has imported."""

    def write(text):
        path = tmp_path / f"user_{tmp_path.name}.py"
        path.write_text(text)
        return path

    path_before = list(sys.path)
    yield write
    sys.path[:] = path_before


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("def build():\n    return 3\n", r"py:build returned int; it must return a torch.nn.Module or a Keras model"),
        ("def build():\n    x = 1\n    raise ValueError('no luck')\n", r"py:3: ValueError: no luck"),
        ("x = 1 / 0\n", r"py:1: ZeroDivisionError"),
        ("import not_installed_anywhere\n", r"needs the module 'not_installed_anywhere', which is not installed"),
        ("def other(): pass\n", r"no function 'build' \(there is: other\)"),
    ],
)
def test_what_is_wrong_with_the_users_code_is_said(file, loaded, text, message):
    with pytest.raises(SourceError, match=message):
        loaded(file(text), function="build")


def test_a_missing_file(tmp_path):
    with pytest.raises(SourceError, match="no such file"):
        import_file(tmp_path / "none.py")


KERAS = """
import keras
import {helper}

def build():
    return keras.Sequential([keras.Input((4,)), keras.layers.Dense({helper}.WIDTH)])

def unbuilt():
    return keras.Sequential([keras.layers.Dense(3)])
"""


@pytest.fixture
def keras_file(file, tmp_path):
    helper = f"helper_{tmp_path.name}"
    (tmp_path / f"{helper}.py").write_text("WIDTH = 3\n")
    return file(KERAS.format(helper=helper))


@pytest.mark.needs_keras
def test_keras_weights_and_the_files_that_count(keras_file, tmp_path, loaded):
    fresh = loaded(keras_file, function="build")
    assert {path.name for path in fresh.code} == {keras_file.name, f"helper_{tmp_path.name}.py"}
    model = import_file(keras_file).build()
    model.save_weights(tmp_path / "some.weights.h5")
    source = loaded(keras_file, function="build", weights=tmp_path / "some.weights.h5")
    assert np.allclose(open_source(source.request).run([IMAGE])[0], model(IMAGE).numpy(), atol=1e-6)


@pytest.mark.needs_keras
def test_a_model_that_draws_its_weights_is_the_same_each_time(keras_file, loaded):
    results = []
    for _ in range(2):
        open_source.cache_clear()
        results.append(open_source(loaded(keras_file, function="build").request).run([IMAGE])[0])
    assert np.array_equal(*results)


@pytest.mark.needs_keras
def test_a_model_without_shapes_takes_what_is_said(keras_file, loaded):
    with pytest.raises(SourceError, match="does not describe its inputs"):
        loaded(keras_file, function="unbuilt")
    source = loaded(keras_file, function="unbuilt", input_shapes=(InputShape((1, 4)),))
    assert source.outputs[0].shape == (1, 3)


@pytest.mark.needs_keras
@pytest.mark.parametrize("kind", ["of another model", "garbage"])
def test_keras_weights_that_do_not_fit(keras_file, tmp_path, loaded, kind):
    import keras

    path = tmp_path / "other.weights.h5"
    if kind == "garbage":
        path.write_bytes(b"garbage" * 99)
    else:
        keras.Sequential([keras.Input((9,)), keras.layers.Dense(2)]).save_weights(path)
    with pytest.raises(SourceError, match=r"the weights in .*other.weights.h5 do not fit it"):
        loaded(keras_file, function="build", weights=path)


@pytest.mark.needs_keras
@pytest.mark.parametrize("package", ["keras", "tf_keras"])
def test_layers_without_names_have_the_same_ones_each_time(tmp_path, package):
    (tmp_path / "net.py").write_text(
        f"import {package} as keras\n\n"
        "def build():\n"
        "    image = keras.Input((4, 4, 3))\n"
        "    return keras.Model(image, keras.layers.Dense(2)(keras.layers.Dense(3)(keras.layers.Flatten()(image))))\n"
    )
    request = SourceRequest("python", tmp_path / "net.py", "build")
    first, second = ([layer.name for layer in reopen(request).handle.model.layers] for _ in range(2))
    assert first == second
