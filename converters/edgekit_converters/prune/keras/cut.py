"""Cut a Keras model: build the same architecture with fewer channels, and copy the remaining weights."""

from __future__ import annotations

import contextlib
import functools
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import keras
import numpy as np
import tf_keras

from edgekit_converters.frameworks.keras_graph import is_followable, is_own, layers_of
from edgekit_converters.frameworks.loaded_model import LoadedModel
from edgekit_converters.load.keras_model import from_model, keras_errors
from edgekit_converters.prune.keras.analyze import ChannelAnalysis
from edgekit_converters.prune.keras.channels import Key, WeightAxis, weight_of
from edgekit_converters.records import ChannelCut, SourceRequest
from edgekit_runtime.errors import ConversionError

# config key of the number of channels on an axis of a weight, by layer, weight and axis
SIZES = {
    ("Dense", "kernel", 1): "units",
    **{(f"Conv{d}D", "kernel", -1): "filters" for d in (1, 2, 3)},
    **{(f"Conv{d}DTranspose", "kernel", -2): "filters" for d in (1, 2, 3)},
    **{(f"SeparableConv{d}D", "pointwise_kernel", -1): "filters" for d in (1, 2)},
    ("MultiHeadAttention", "_query_dense.kernel", 1): "num_heads",
    ("MultiHeadAttention", "_output_dense.kernel", 2): "output_shape",
}
# config keys of shapes whose last dimension is the size of that axis: tf_keras builds attention from its config
SHAPES = {
    ("_query_dense.kernel", 0): "query_shape",
    ("_key_dense.kernel", 0): "key_shape",
    ("_value_dense.kernel", 0): "value_shape",
}
# config keys of shapes that include a channel axis: 1 if they leave out the batch
OWN_SHAPES = {"target_shape": 1, "newshape": 0, "batch_shape": 0, "batch_input_shape": 0}

Edit = Callable[[dict[str, Any]], None]
Edits = dict[str, list[Edit]]  # by a layer's path of names


def removed_channels(found: ChannelAnalysis, cuts: Sequence[ChannelCut]) -> frozenset[int]:
    """Return the ids of the channels to remove; a second cut of a group indexes the channels that the first kept.

    Raises:
        ConversionError: a group does not exist, all its channels would be removed, or no channel would be removed.
    """
    left = dict(found.channels)
    for cut in cuts:
        roots = left.get(cut.group)
        if roots is None:
            raise _cut_error(cut.group, f"there is no such group of channels; there are {', '.join(found.channels)}")
        if not cut.kept:
            raise _cut_error(cut.group, f"none of its {len(roots)} channels would be kept", "keep some of its channels")
        if min(cut.kept) < 0 or max(cut.kept) >= len(roots):
            raise _cut_error(cut.group, f"it has {len(roots)} channels; {max(cut.kept)} is none of them")
        left[cut.group] = roots[list(cut.kept)]
    removed_ids = set(np.concatenate(list(found.channels.values())).tolist())
    removed_ids -= set(np.concatenate(list(left.values())).tolist())
    if not removed_ids:
        raise _cut_error("", "no channel would be removed: every channel is kept", "cut at least one")
    return frozenset(removed_ids)


def _cut_error(subject: str, message: str, advice: str = "") -> ConversionError:
    return ConversionError(message, stage="cut_channels", subject=subject, advice=advice)


def build_cut_model(
    live: LoadedModel, found: ChannelAnalysis, removed_ids: frozenset[int], request: SourceRequest
) -> Any:
    """Return a new model without the channels in ``removed_ids``; the original is not changed.

    Raises:
        SourceError: the smaller model cannot be built from the configs of its layers.
    """
    model, tracing = live.handle.model, found.tracing
    masks = {
        key: ~np.isin(tracing.partition.roots(weight_axis.ids), list(removed_ids))
        for key, weight_axis in tracing.weight_axes.items()
    }
    touched = {layer for (layer, _, _), mask in masks.items() if not mask.all()}
    edits: Edits = defaultdict(list)
    for name, layer in layers_of(model):
        if id(layer) in touched:
            edits[name] += [
                _size(weight_axis, masks[key])
                for key, weight_axis in tracing.weight_axes.items()
                if key[0] == id(layer)
            ]
    for one in tracing.resized:
        left = int(np.sum(~np.isin(tracing.partition.roots(one.ids), list(removed_ids))))
        if left < len(one.ids):
            edits[one.layer].append(functools.partial(_resize, axis=one.axis, size=left))
    config = model.get_config()
    _edit(config, model, edits)
    with keras_errors(request, "the smaller model cannot be built"), custom_objects(model):
        smaller = type(model).from_config(config)
        from_model(smaller, replace(request, weights=None))  # runs it once, which builds the layers that were not built
    _fill(model, smaller, tracing.weight_axes, masks)
    return smaller


def _size(weight_axis: WeightAxis, mask: np.ndarray) -> Edit:
    return functools.partial(_resize_axis, weight_axis=weight_axis, size=int(mask.sum()))


def _resize_axis(config: dict[str, Any], weight_axis: WeightAxis, size: int) -> None:
    key = SIZES.get((type(weight_axis.layer).__name__, weight_axis.weight, weight_axis.axis))
    if key:
        config[key] = size
    shape = SHAPES.get((weight_axis.weight, weight_axis.axis))
    if shape in config:
        config[shape] = (*tuple(config[shape])[:-1], size)


def _resize(config: dict[str, Any], axis: int, size: int) -> None:
    for key, first in OWN_SHAPES.items():
        shape = list(config.get(key) or ())
        if shape and shape[axis - first] not in (None, -1):  # -1: Keras infers the size
            shape[axis - first] = size
            config[key] = tuple(shape)


def _edit(config: dict[str, Any], model: Any, edits: Edits, prefix: str = "") -> None:
    """Change the configs of layers, also in nested models, and remove the sizes that they were built with."""
    nested = {layer.name: layer for layer in model.layers if is_followable(layer)}
    for entry in config["layers"]:
        name = entry["config"]["name"]
        entry.pop("build_config", None)
        if name in nested:
            entry["config"].pop("build_input_shape", None)
            _edit(entry["config"], nested[name], edits, f"{prefix}{name}/")
        for change in edits.get(f"{prefix}{name}", ()):
            change(entry["config"])


def _fill(model: Any, smaller: Any, weight_axes: Mapping[Key, WeightAxis], masks: Mapping[Key, np.ndarray]) -> None:
    """Copy the remaining weights to the smaller model."""
    cuts: dict[int, list[tuple[int, np.ndarray]]] = defaultdict(list)
    for key, weight_axis in weight_axes.items():
        cuts[id(weight_of(weight_axis.layer, weight_axis.weight))].append((weight_axis.axis, masks[key]))
    fresh = dict(layers_of(smaller))
    for name, layer in layers_of(model):
        for old, new in zip(layer.weights, fresh[name].weights, strict=True):
            array = old.numpy()
            for axis, mask in cuts[id(old)]:
                array = np.compress(mask, array, axis)
            new.assign(array)


def custom_objects(model: Any) -> contextlib.AbstractContextManager[Any]:
    """Return a context in which the model's own classes and functions are registered by name."""
    own = {type(layer).__name__: type(layer) for _, layer in layers_of(model)} | {type(model).__name__: type(model)}
    foreign = {name: kind for name, kind in own.items() if not is_own(kind)}
    generation = tf_keras if isinstance(model, tf_keras.Model) else keras
    scope: contextlib.AbstractContextManager[Any] = generation.utils.custom_object_scope(foreign)
    return scope
