"""Correct a pruned Keras model with samples: run it layer by layer beside the original, and correct each layer.

BatchNorm's statistics become the mean and variance of the layer's current inputs. The weights of convolutions and dense
layers are solved by least squares, so that their outputs come closest to those of the original. Each layer sees the
outputs of the corrected layers before it. A layer that is called several times is not changed.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import tensorflow as tf

from edgekit_converters import data as dataset
from edgekit_converters.frameworks.keras_graph import Call, walk
from edgekit_converters.frameworks.loaded_model import LoadedModel
from edgekit_converters.progress import report_progress
from edgekit_converters.prune import RecalibrateRequest
from edgekit_converters.prune.keras import analyze
from edgekit_converters.prune.keras.cut import removed_channels
from edgekit_converters.prune.keras.least_squares import solve_weights

SAMPLES = 512  # at most; fewer if they would not fit into MEMORY
MEMORY = 2**30  # bytes, about, of the layer outputs of all samples
AT_ONCE = 6  # tensors of the largest size held at one time, about: input, output and a shortcut of two models
BATCH = 32
ROWS = 8192  # output positions that the weights of a layer are solved on, at most
PATCHES = 2**26  # bytes, about, of the kernel input patches read in one step
SOLVED_LAYERS = ("Dense", "Conv1D", "Conv2D")


@dataclass(frozen=True)
class _Pair:
    """A tensor in both models, batch by batch: pruned and original; the latter is empty without an original model."""

    ours: list[Any]
    theirs: list[Any]


@dataclass(frozen=True)
class _Original:
    """The calls of the original model, and which outputs of its layers remain."""

    calls: dict[str, list[Call]]  # by name, in order
    kept: dict[str, np.ndarray]  # layer: mask over its outputs


def recalibrate_model(live: LoadedModel, request: RecalibrateRequest, dense: LoadedModel | None) -> None:
    """Correct the weights and statistics of ``live`` in place.

    Args:
        live: the pruned model.
        request: the samples, and the cuts from ``dense`` to ``live``.
        dense: the model before the cuts; if None, only BatchNorm is corrected.
    """
    model = live.handle.model
    calls, largest = _calls(live)
    times = Counter(name for name, ones in calls.items() for _ in ones)
    todo = sum(times.values())
    beside = _original(dense, request) if dense else _Original({}, {})
    done: Counter[str] = Counter()

    def visit(call: Call, values: list[_Pair]) -> list[_Pair]:
        report_progress(sum(done.values()), todo)
        theirs = beside.calls[call.name][done[call.name]] if dense else None
        given = _run(theirs, [value.theirs for value in values]) if theirs else []
        if times[call.name] == 1:
            _repair(call, values, theirs, beside.kept.get(call.name))
        done[call.name] += 1
        ours = _run(call, [value.ours for value in values])
        return [_Pair(list(one), list(other)) for one, other in _by_output(ours, given)]

    count = int(np.clip(MEMORY // (AT_ONCE * largest), BATCH, SAMPLES))
    walk(model, [_Pair(batches, batches) for batches in _batches(request, count)], visit)


def _batches(request: RecalibrateRequest, count: int) -> list[list[Any]]:
    arrays = dataset.pick_samples(request.data, request.inputs, count)
    return [[tf.constant(array[start : start + BATCH]) for start in range(0, len(array), BATCH)] for array in arrays]


def _run(call: Call, taken: list[list[Any]]) -> list[list[Any]]:
    return [call.run(batch) for batch in zip(*taken, strict=True)]


def _by_output(ours: list[list[Any]], theirs: list[list[Any]]) -> Iterator[tuple[Sequence[Any], Sequence[Any]]]:
    """Turn outputs listed by batch into batches listed by output."""
    columns = list(zip(*ours, strict=True))
    return zip(columns, zip(*theirs, strict=True) if theirs else [()] * len(columns), strict=True)


def _calls(live: LoadedModel) -> tuple[dict[str, list[Call]], int]:
    """Return the calls of a model by name, and the bytes of the largest tensor that they compute for a sample."""
    calls: dict[str, list[Call]] = defaultdict(list)
    sizes = [1]

    def visit(call: Call, values: list[Any]) -> list[Any]:
        calls[call.name].append(call)
        given = call.run(values)
        sizes.extend(int(np.prod(one.shape)) * 4 for one in given)
        return given

    walk(live.handle.model, [tf.zeros(spec.shape, spec.dtype) for spec in live.inputs], visit)
    return calls, max(sizes)


def _original(dense: LoadedModel, request: RecalibrateRequest) -> _Original:
    found = analyze.analyze_model(dense)
    removed_ids = list(removed_channels(found, request.cuts))
    kept = {
        found.name(weight_axis): ~np.isin(found.tracing.partition.roots(weight_axis.ids), removed_ids)
        for weight_axis in found.tracing.weight_axes.values()
        if weight_axis.role == "produces" and weight_axis.weight == "kernel"
    }
    return _Original(_calls(dense)[0], kept)


def _repair(call: Call, values: list[_Pair], theirs: Call | None, kept: np.ndarray | None) -> None:
    if call.kind == "BatchNormalization":
        _update_batch_norm(call.layer, values[0].ours)
    elif theirs is not None and kept is not None and call.kind in SOLVED_LAYERS and _is_plain(call.layer):
        _reconstruct(call.layer, theirs.layer, values[0], kept)


def _update_batch_norm(layer: Any, batches: list[Any]) -> None:
    axis = int(np.atleast_1d(layer.axis)[0]) % len(batches[0].shape)
    others = [place for place in range(len(batches[0].shape)) if place != axis]
    count = sum(int(tf.size(one)) // one.shape[axis] for one in batches)
    mean = sum(tf.reduce_sum(tf.cast(one, tf.float64), others) for one in batches) / count
    squares = sum(tf.reduce_sum(tf.square(tf.cast(one, tf.float64)), others) for one in batches) / count
    if count > 1:
        layer.moving_mean.assign(mean.numpy())
        layer.moving_variance.assign(np.maximum(squares.numpy() - mean.numpy() ** 2, 0.0))


def _is_plain(layer: Any) -> bool:
    return getattr(layer, "groups", 1) == 1 and getattr(layer, "padding", "same") in ("same", "valid")


def _reconstruct(layer: Any, dense: Any, pair: _Pair, kept: np.ndarray) -> None:
    """Solve for the weights and bias of a layer, on some positions of its output."""
    wanted, read = [], []
    count = sum(len(one) for one in pair.ours)
    for ours, theirs in _parts(pair, layer.kernel.shape):
        flat = _linear(dense, theirs)
        rows = _places(len(flat), -(-ROWS * len(ours) // count))
        wanted.append(flat[rows][:, kept])
        read.append(_patches(layer, ours)[rows])
    features = np.concatenate(read)
    kernel = layer.kernel.numpy()
    weights = kernel.reshape(-1, kernel.shape[-1]).astype(np.float64)
    if layer.use_bias:
        features = np.concatenate([features, np.ones((len(features), 1))], axis=1)
        weights = np.concatenate([weights, layer.bias.numpy()[None]])
    better = solve_weights(features, np.concatenate(wanted), weights)
    layer.kernel.assign(better[: kernel.size // kernel.shape[-1]].reshape(kernel.shape))
    if layer.use_bias:
        layer.bias.assign(better[-1])


def _parts(pair: _Pair, kernel: Sequence[int]) -> Iterator[tuple[Any, Any]]:
    """Yield a few samples at a time, because the patches of many need too much memory."""
    for ours, theirs in zip(pair.ours, pair.theirs, strict=True):
        values = int(np.prod(ours.shape[1:])) * int(np.prod(kernel[:-2]))
        step = max(1, PATCHES // (4 * values))
        for start in range(0, len(ours), step):
            yield ours[start : start + step], theirs[start : start + step]


def _linear(layer: Any, tensor: Any) -> np.ndarray:
    """Return the output of a layer before its activation, (positions, outputs)."""
    activation, layer.activation = layer.activation, None
    try:
        given = layer(tensor).numpy()
    finally:
        layer.activation = activation
    return np.asarray(given.reshape(-1, given.shape[-1]))


def _patches(layer: Any, tensor: Any) -> np.ndarray:
    """Return the input patch of a layer's kernel at each output position, (positions, features)."""
    if not hasattr(layer, "kernel_size"):
        return np.asarray(tensor.numpy().reshape(-1, tensor.shape[-1]))
    if len(tensor.shape) == 3:  # one dimension, as an image of one row
        tensor = tensor[:, None]
    sizes, strides, rates = (
        [1, *(1,) * (2 - len(value)), *value, 1] for value in (layer.kernel_size, layer.strides, layer.dilation_rate)
    )
    patches = tf.image.extract_patches(tensor, sizes, strides, rates, layer.padding.upper())
    return np.asarray(patches.numpy().reshape(-1, patches.shape[-1]))


def _places(count: int, wanted: int) -> np.ndarray:
    """Return at most ``wanted`` row indices, the same for the same count."""
    if count <= wanted:
        return np.arange(count)
    return np.sort(np.random.default_rng(count).choice(count, wanted, replace=False))
