"""MobileNetV2 at 224 pixels with random weights: large enough to measure time and memory."""

from __future__ import annotations

from collections.abc import Callable

import keras
import numpy as np

NOISE_IMAGES = 4


def mobilenet_v2(classes: int = 1000) -> keras.Model:
    """The same model each time, (1, 224, 224, 3) in -1..1 → logits of so many classes.

    Untrained, it finds every class equally likely: 0.001, of which int8's steps of 1/256 would leave 0. So no softmax.

    Fresh weights let activations fade to 1e-11 at the last layer, where every image gets the same answer and no
    quantizer has anything to do; so each normalisation takes the statistics of what noise sends through it.
    """
    keras.utils.set_random_seed(20)
    model = keras.applications.MobileNetV2(weights=None, classes=classes, classifier_activation=None)
    normalisations = [layer for layer in model.layers if isinstance(layer, keras.layers.BatchNormalization)]
    momenta = [layer.momentum for layer in normalisations]
    noise = np.random.default_rng(20).uniform(-1, 1, (NOISE_IMAGES, 224, 224, 3)).astype(np.float32)
    for layer in normalisations:
        layer.momentum = 0.0  # keep nothing of the statistics before this batch
    model(noise, training=True)
    for layer, momentum in zip(normalisations, momenta, strict=True):
        layer.momentum = momentum
    return model


def of_100_classes() -> keras.Model:
    """Return the same body with a head for 100 classes, like a user's own."""
    return mobilenet_v2(100)


def of_100_classes_replaced_head() -> keras.Model:
    """Return the same with all weights of the head replaced, as after training from scratch on other data."""
    return _with_head(mobilenet_v2(100), lambda head, noise: noise)


def replaced_head() -> keras.Model:
    """Return 1000 classes with all weights of the head replaced."""
    return _with_head(mobilenet_v2(), lambda head, noise: noise)


def fine_tuned_head() -> keras.Model:
    """Return 1000 classes with each weight of the head changed by about 1 %, as after fine-tuning."""
    return _with_head(mobilenet_v2(), lambda head, noise: head + 0.01 * noise)


def _with_head(model: keras.Model, change: Callable[[np.ndarray, np.ndarray], np.ndarray]) -> keras.Model:
    """Change the last layer's weights, given noise as large as they are."""
    weights, bias = model.layers[-1].get_weights()
    noise = np.random.default_rng(21).normal(scale=weights.std(), size=weights.shape)
    model.layers[-1].set_weights([change(weights, noise).astype(np.float32), bias])
    return model
