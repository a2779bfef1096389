"""Score the channels of a Keras model from its weights, and from their gradients if the importance needs them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import tensorflow as tf

from edgekit_converters.frameworks.loaded_model import LoadedModel
from edgekit_converters.prune import ScoreRequest
from edgekit_converters.prune.importance import WITH_GRADIENTS, WeightSums, score_channels
from edgekit_converters.prune.keras.analyze import ChannelAnalysis
from edgekit_converters.prune.keras.channels import Key, WeightAxis, weight_of
from edgekit_converters.prune.score_loss import ScoreLoss, batches, score_loss
from edgekit_converters.train.losses import TINY
from edgekit_runtime.errors import SourceError

AxisSums = tuple[np.ndarray, np.ndarray]  # sums of a weight axis' θ·∂L/∂θ and (∂L/∂θ)², each (batches, entries)


def channel_scores(live: LoadedModel, found: ChannelAnalysis, request: ScoreRequest) -> dict[str, np.ndarray]:
    """Return by group the importance of each channel, (width,) float64.

    Raises:
        DataError: the importance needs gradients but there are no data, or labels do not fit the model.
        SourceError: no channel passes a BatchNorm with a scale, which the importance is read from.
    """
    weight_axes = found.tracing.weight_axes.values()
    if request.importance == "batch-norm" and not any(_kind(weight_axis) == "scale" for weight_axis in weight_axes):
        raise SourceError(
            f"{live.handle.model.name}: no prunable channel passes through a BatchNormalization with a scale; "
            f"choose another importance, such as l2"
        )
    gradients = _gradients(live, found, request) if request.importance in WITH_GRADIENTS else {}
    return {
        name: score_channels(request.importance, list(_weight_sums(found, name, gradients)), (request.seed, name))
        for name in found.channels
    }


def _kind(weight_axis: WeightAxis) -> str:
    name = weight_axis.weight.rpartition(".")[2]
    return "kernel" if name.endswith("kernel") else "scale" if name == "gamma" else "other"


def _weight_sums(found: ChannelAnalysis, group: str, gradients: dict[Key, AxisSums]) -> Iterator[WeightSums]:
    roots = found.channels[group]
    for key, weight_axis in found.tracing.weight_axes.items():
        entries = found.tracing.partition.roots(weight_axis.ids)
        places = np.searchsorted(roots, entries)
        belongs = np.flatnonzero(np.isin(entries, roots))
        if not belongs.size:
            continue
        adding = np.zeros((len(entries), len(roots)))  # sums along the axis @ adding: sums of each channel
        adding[belongs, places[belongs]] = 1.0
        array = weight_of(weight_axis.layer, weight_axis.weight).numpy().astype(np.float64)
        rest = tuple(np.delete(np.arange(array.ndim), weight_axis.axis))
        along = gradients.get(key)
        yield WeightSums(
            weight_axis.role,
            _kind(weight_axis),
            np.abs(array).sum(axis=rest) @ adding,
            (array**2).sum(axis=rest) @ adding,
            along[0] @ adding if along else None,
            along[1] @ adding if along else None,
        )


def _gradients(live: LoadedModel, found: ChannelAnalysis, request: ScoreRequest) -> dict[Key, AxisSums]:
    """Return for each weight axis the sums of θ·∂L/∂θ and (∂L/∂θ)², batch by batch."""
    weight_axes = found.tracing.weight_axes
    weights = [_variable(weight_of(weight_axis.layer, weight_axis.weight)) for weight_axis in weight_axes.values()]
    loss = _loss(score_loss(live, request))

    @tf.function
    def sums(batch: list[Any], labels: Any) -> list[tuple[Any, Any]]:
        with tf.GradientTape(watch_accessed_variables=False) as tape:
            tape.watch(weights)  # frozen weights count, too
            value = loss(live.handle.serve(*batch)[0], batch[0], labels)
        gradients = tape.gradient(value, weights, unconnected_gradients=tf.UnconnectedGradients.ZERO)
        return [
            (_sum_along(weight_axis, weight * gradient), _sum_along(weight_axis, tf.square(gradient)))
            for weight_axis, weight, gradient in zip(weight_axes.values(), weights, gradients, strict=True)
        ]

    found_sums = [
        sums([tf.constant(array) for array in arrays], None if labels is None else tf.constant(labels))
        for arrays, labels in batches(request)
    ]
    return {
        key: (np.stack([one[place][0] for one in found_sums]), np.stack([one[place][1] for one in found_sums]))
        for place, key in enumerate(weight_axes)
    }


def _variable(weight: Any) -> Any:
    return weight if isinstance(weight, tf.Variable) else weight.value


def _sum_along(weight_axis: WeightAxis, values: Any) -> Any:
    values = tf.convert_to_tensor(values)
    return tf.reduce_sum(values, axis=np.delete(np.arange(len(values.shape)), weight_axis.axis).tolist())


def _loss(what: ScoreLoss) -> Callable[[Any, Any, Any], Any]:
    """Return the loss of the first output, as a function of output, input and labels, summed over samples."""

    def cross_entropy(output: Any, _: Any, given: Any) -> Any:
        logits = tf.math.log(tf.maximum(output, TINY)) if what.probabilities else output
        classes = tf.argmax(output, axis=1) if given is None else given
        return tf.reduce_sum(tf.nn.sparse_softmax_cross_entropy_with_logits(classes, logits))

    def squared(output: Any, taken: Any, given: Any) -> Any:
        target = what.target(taken, given)
        return tf.reduce_sum(tf.square(output if target is None else output - tf.cast(target, output.dtype)))

    return cross_entropy if what.kind == "classes" else squared
