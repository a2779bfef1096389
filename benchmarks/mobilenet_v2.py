"""MobileNetV2 at 224 pixels with random weights: a model large enough to measure time and memory on."""

from __future__ import annotations

import keras
import numpy as np

NOISE_IMAGES = 4


def mobilenet_v2() -> keras.Model:
    """The same model each time, (1, 224, 224, 3) in -1..1 → logits of 1000 classes.

    Untrained, it finds every class equally likely: 0.001, of which int8's steps of 1/256 would leave 0. So no softmax.

    Fresh weights let activations fade to 1e-11 at the last layer, where every image gets the same answer and no
    quantizer has anything to do; so each normalisation takes the statistics of what noise sends through it.
    """
    keras.utils.set_random_seed(20)
    model = keras.applications.MobileNetV2(weights=None, classifier_activation=None)
    normalisations = [layer for layer in model.layers if isinstance(layer, keras.layers.BatchNormalization)]
    momenta = [layer.momentum for layer in normalisations]
    noise = np.random.default_rng(20).uniform(-1, 1, (NOISE_IMAGES, 224, 224, 3)).astype(np.float32)
    for layer in normalisations:
        layer.momentum = 0.0  # keep nothing of the statistics before this batch
    model(noise, training=True)
    for layer, momentum in zip(normalisations, momenta, strict=True):
        layer.momentum = momentum
    return model
