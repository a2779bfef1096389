"""SmoothQuant of IR on a dense net some of whose activations are outliers in every sample."""

import numpy as np
import pytest

from edgekit_converters.recipe.recipe import Recipe

pytestmark = [pytest.mark.needs_keras, pytest.mark.needs_openvino]

GAIN_DB = 6.0


def outlying_channels():
    """Return dense layers after a layer normalization that makes two channels 100 times larger than the others."""
    import keras
    from keras import layers

    keras.utils.set_random_seed(0)
    tokens = keras.Input((16, 32))
    normalization = layers.LayerNormalization()
    x = layers.Dense(8)(normalization(tokens))
    gamma, beta = normalization.get_weights()
    gamma[[3, 20]] = 100
    normalization.set_weights([gamma, beta])
    model = keras.Model(tokens, x)
    kernel, bias = model.layers[-1].get_weights()
    kernel[[3, 20]] /= 100
    model.layers[-1].set_weights([kernel, bias])
    return model


def test_outliers_move_into_the_weights(lowered_model):
    samples = np.random.default_rng(0).standard_normal((32, 16, 32)).astype(np.float32)
    model = lowered_model(outlying_channels(), "openvino", samples)
    plain, smooth = (model.snr_db(Recipe("int8-static", corrections=names)) for names in ((), ("smooth",)))
    assert smooth > plain + GAIN_DB, (plain, smooth)
