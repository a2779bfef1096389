"""Attention maps of a Keras model of either generation: the strength of its features by position."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import tensorflow as tf

from edgekit_converters.frameworks.keras_graph import Call, is_followable, walk
from edgekit_converters.frameworks.loaded_model import Arrays, LoadedModel
from edgekit_runtime.errors import SourceError


def with_feature_outputs(model: Any) -> tuple[Any, int]:
    """Return a model that also gives features, and how many outputs are its own: of each size the last ones.

    Raises:
        SourceError: the layers of a subclassed model are not connected where they could be seen.
    """
    if not is_followable(model) or not getattr(model, "inputs", None):
        raise SourceError(
            f"{model.name}: the layers of a subclassed model are not accessible; leave out --attention-transfer"
        )
    found: dict[tuple[int, ...], Any] = {}

    def visit(call: Call, values: list[Any]) -> list[Any]:
        given = call.run(values)
        for one in given:
            if len(one.shape) == 4 and min(_size(call.layer, one)) > 1:
                found[_size(call.layer, one)] = one
        return given

    own = walk(model, model.inputs, visit)
    kind = framework_of(model).Model
    return kind(model.inputs, [*own, *(found[size] for size in sorted(found, reverse=True))]), len(own)


def attention_map(features: Any) -> Any:
    """(b, H, W, C) → (b, H, W), each sample's of length 1 (Zagoruyko & Komodakis, 2017, eq. 2)."""
    strength = tf.reduce_mean(tf.square(tf.cast(features, tf.float32)), axis=-1)
    return tf.math.l2_normalize(strength, axis=[1, 2], epsilon=1e-24)


def observe_attention_maps(live: LoadedModel) -> Callable[[Arrays], tuple[Arrays, Arrays]]:
    """Return a function that runs a batch and returns its outputs and its attention maps.

    Raises:
        SourceError: the model does not show its features.
    """
    if live.handle.model is None:
        raise SourceError("a SavedModel has no layer outputs; leave out --attention-transfer, or give the Keras model")
    model, own = with_feature_outputs(live.handle.model)
    compiled = tf.function(lambda *tensors: model(list(tensors), training=False))

    def run(batch: Arrays) -> tuple[Arrays, Arrays]:
        found = tf.nest.flatten(compiled(*map(tf.constant, batch)))
        return [one.numpy() for one in found[:own]], [attention_map(one).numpy() for one in found[own:]]

    return run


def _size(layer: Any, output: Any) -> tuple[int, ...]:
    """Height and width of features; (1, 1) where they are open, or come with the channels first."""
    height, width = output.shape[1], output.shape[2]
    if getattr(layer, "data_format", "channels_last") == "channels_first" or not (height and width):
        return (1, 1)
    return (int(height), int(width))


def framework_of(model: Any) -> Any:
    """Keras 3 or tf_keras: whichever the model is of."""
    if any(kind.__module__.split(".")[0] == "tf_keras" for kind in type(model).__mro__):
        import tf_keras

        return tf_keras
    import keras

    return keras
