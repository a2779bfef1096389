"""Bad input from the command line: one message that says what, where and what next; the right code; nothing left."""

import subprocess
import sys

import numpy as np
import pytest

keras, torch = pytest.mark.needs_keras, pytest.mark.needs_torch

CODE = """
import numpy as np


def beta():
    import keras
    import tensorflow as tf

    class Beta(keras.layers.Layer):
        def call(self, x):
            half = tf.nn.sigmoid(x)
            return tf.math.betainc(half, half, half)

    x = keras.Input((4,))
    return keras.Model(x, Beta(name="beta_head")(keras.layers.Dense(4)(x)))


def not_a_number():
    import keras

    model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(2)])
    model.set_weights([np.full((4, 2), np.nan), np.zeros(2)])
    return model


def raises():
    raise RuntimeError("no such checkpoint")
"""


@pytest.fixture
def convert(tmp_path, monkeypatch):
    """Run the command in a folder of its own; gives its exit code and what it said."""
    (tmp_path / "net.py").write_text(CODE)
    before = sorted(tmp_path.iterdir())

    def run(*arguments):
        command = [sys.executable, "-m", "edgekit", "convert", *arguments, "-d", "raspberry-pi-5"]
        command += ["-o", "out.edgekit", "--report", "out.json"]
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
        assert "Traceback" not in done.stderr
        assert done.stdout == ""
        assert sorted(path for path in tmp_path.iterdir() if path.name not in given) == before
        return done.returncode, done.stderr

    given = {"__pycache__"}
    run.give = lambda name: given.add(name) or tmp_path / name
    return run


def test_a_missing_file(convert):
    assert convert("none.h5") == (3, "error: none.h5: no such file or folder\n")


@keras
@pytest.mark.parametrize(
    ("function", "code", "said"),
    [
        ("beta", 4, "lower (litert): TFLite has no builtin operator for Betainc in layer 'beta_head'"),
        ("not_a_number", 3, "the model itself computes NaN or infinity in output 'output'; check its weights"),
        ("raises", 3, "net.py:27: RuntimeError: no such checkpoint"),
    ],
)
def test_what_the_users_code_brings(convert, function, code, said):
    returned, message = convert(f"net.py:{function}")
    assert said in message
    assert returned == code


@keras
def test_garbage(convert):
    convert.give("garbage.keras").write_bytes(b"\0garbage" * 64)
    code, message = convert("garbage.keras")
    assert code == 3
    assert "garbage.keras: not a model Keras can load" in message


@keras
def test_a_drop_that_so_few_samples_cannot_tell(convert, demo):
    samples = np.load(demo / "test.npz")
    np.savez(convert.give("few.npz"), x=samples["x"][:49], y=samples["y"][:49])
    code, message = convert(str(demo / "digits.keras"), "--evaluate", "few.npz", "--max-drop", "0.01")
    assert code == 3
    assert "few.npz: 49 samples are too few to tell whether --max-drop 0.01 holds; give at least 50" in message


@torch
def test_weights_given_as_the_model(convert):
    import torch as framework

    framework.save({"w": framework.zeros(3)}, convert.give("weights.pth"))
    code, message = convert("weights.pth")
    assert code == 3
    assert "holds weights, not a model; give the function that builds the model" in message


@keras
def test_calibration_data_of_another_shape(convert, demo):
    np.save(convert.give("data.npy"), np.random.default_rng(0).random((32, 5), dtype=np.float32))
    code, message = convert(str(demo / "digits.keras"), "-q", "int8", "--calibrate", "data.npy")
    assert code == 3
    assert "data.npy: sample 0: the sample is 5" in message
