"""A recipe all the way: from the names of a model's layers to a bundle that is nearer to the source."""

import json

import numpy as np
import pytest
from click.testing import CliRunner

import edgekit
import edgekit_runtime
from edgekit.cli import cli
from edgekit_converters.recipe.toml import parse
from edgekit_runtime.errors import PlanError

pytestmark = [pytest.mark.needs_keras, pytest.mark.needs_openvino]
PLAIN = 'scheme = "int8-static"\n'


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A net whose layer "wide" has weights far from the others, which 8 bits cannot tell apart, and samples."""
    import keras
    from keras import layers

    keras.utils.set_random_seed(0)
    image = keras.Input((8, 8, 3))
    x = layers.Flatten()(layers.Conv2D(8, 3, activation="relu", name="conv")(image))
    x = layers.Dense(16, activation="relu", name="wide")(x)
    model = keras.Model(image, layers.Dense(10, name="head", bias_initializer="random_normal")(x))
    kernel, bias = model.get_layer("wide").get_weights()
    kernel[0] *= 100
    model.get_layer("wide").set_weights([kernel, bias])
    folder = tmp_path_factory.mktemp("recipe")
    model.save(folder / "net.keras")
    np.save(folder / "samples.npy", np.random.default_rng(1).standard_normal((64, 8, 8, 3)).astype(np.float32))
    return folder


@pytest.fixture
def convert(folder, tmp_path):
    """Convert the net by a recipe; gives the parities by variant."""

    def run(recipe):
        (tmp_path / "r.toml").write_text(recipe)
        report = edgekit.convert(
            folder / "net.keras",
            tmp_path / "net.edgekit",
            device=["generic-arm64", "intel-cpu"],
            recipe=tmp_path / "r.toml",
            calibrate=folder / "samples.npy",
        )
        return {variant.name: variant.parity.snr_db for variant in report.variants}

    return run


def test_the_worst_layer_in_float_brings_both_formats_nearer_to_the_source(convert, folder, tmp_path):
    plain = convert(PLAIN)
    listed = CliRunner().invoke(cli, ["layers", str(folder / "net.keras"), "--json"]).stdout
    heaviest = max(json.loads(listed)["layers"], key=lambda layer: layer["parameters"])["name"]
    assert heaviest == "wide"
    recipe = f'{PLAIN}[[rule]]\nscheme = "float32"\nlayers = "{heaviest}"\n'
    kept = convert(recipe)
    assert kept.keys() == plain.keys() == {"litert-int8-static", "openvino-int8-static"}
    assert all(kept[name] > plain[name] + 3 for name in plain)
    with edgekit_runtime.open_bundle(tmp_path / "net.edgekit") as bundle:
        assert parse(bundle.manifest.recipe["recipes"]["litert-int8-static"]) == parse(recipe)


def test_a_rule_that_selects_nothing_leaves_nothing_behind(convert, tmp_path):
    with pytest.raises(PlanError, match="rule 1: layers: nothing is called 'weid'; did you mean wide"):
        convert(f'{PLAIN}[[rule]]\nscheme = "float32"\nlayers = ["weid"]\n')
    assert not (tmp_path / "net.edgekit").exists()


def test_an_h5_file_of_an_older_keras_has_layers_too(folder, tmp_path):
    import tf_keras

    image = tf_keras.Input((8, 8, 3))
    x = tf_keras.layers.Flatten()(tf_keras.layers.Conv2D(4, 3, activation="relu", name="conv")(image))
    tf_keras.Model(image, tf_keras.layers.Dense(3, name="head")(x)).save(tmp_path / "old.h5")
    (tmp_path / "r.toml").write_text(f'{PLAIN}[[rule]]\nscheme = "float32"\nlayers = "head"\n')
    common = {"device": "generic-arm64", "calibrate": folder / "samples.npy"}
    kept = edgekit.convert(tmp_path / "old.h5", tmp_path / "kept.edgekit", recipe=tmp_path / "r.toml", **common)
    plain = edgekit.convert(tmp_path / "old.h5", tmp_path / "plain.edgekit", quantize="int8-static", **common)
    assert kept.variants[0].parity.step == 0.0  # its last layer gives floats
    assert plain.variants[0].parity.step > 0.0
