"""Score the channels of a Keras model: sums over its weights, and over their gradients where they are wanted."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import tensorflow as tf

from edgekit_converters.frameworks.live_model import LoadedModel
from edgekit_converters.prune import ScoreRequest
from edgekit_converters.prune.importance import WITH_GRADIENTS, Member, rate
from edgekit_converters.prune.keras.analyze import Dissection
from edgekit_converters.prune.keras.channels import Key, Slot, weight_of
from edgekit_converters.prune.score_loss import ScoreLoss, batches, towards
from edgekit_converters.train.losses import TINY
from edgekit_runtime.errors import SourceError

Along = tuple[np.ndarray, np.ndarray]  # sums of a slot's θ·∂L/∂θ and (∂L/∂θ)², each (batches, entries)


def rated(live: LoadedModel, found: Dissection, request: ScoreRequest) -> dict[str, np.ndarray]:
    """Return by group what each of its channels is worth, (width,) float64.

    Raises:
        DataError: gradients are wanted of no data, or labels do not fit the model.
        SourceError: no channel passes a normalization whose scale could tell what it is worth.
    """
    slots = found.tracing.slots.values()
    if request.importance == "batch-norm" and not any(_kind(slot) == "scale" for slot in slots):
        raise SourceError(
            f"{live.handle.model.name}: no channels that can be cut pass a BatchNormalization with a scale; "
            f"choose another importance, such as l2"
        )
    gradients = _gradients(live, found, request) if request.importance in WITH_GRADIENTS else {}
    return {
        name: rate(request.importance, list(_members(found, name, gradients)), (request.seed, name))
        for name in found.channels
    }


def _kind(slot: Slot) -> str:
    name = slot.weight.rpartition(".")[2]
    return "kernel" if name.endswith("kernel") else "scale" if name == "gamma" else "other"


def _members(found: Dissection, group: str, gradients: dict[Key, Along]) -> Iterator[Member]:
    roots = found.channels[group]
    for key, slot in found.tracing.slots.items():
        entries = found.tracing.partition.roots(slot.ids)
        places = np.searchsorted(roots, entries)
        belongs = np.flatnonzero(np.isin(entries, roots))
        if not belongs.size:
            continue
        adding = np.zeros((len(entries), len(roots)))  # sums along the slot @ adding: sums of each channel
        adding[belongs, places[belongs]] = 1.0
        array = weight_of(slot.layer, slot.weight).numpy().astype(np.float64)
        rest = tuple(np.delete(np.arange(array.ndim), slot.axis))
        along = gradients.get(key)
        yield Member(
            slot.role,
            _kind(slot),
            np.abs(array).sum(axis=rest) @ adding,
            (array**2).sum(axis=rest) @ adding,
            along[0] @ adding if along else None,
            along[1] @ adding if along else None,
        )


def _gradients(live: LoadedModel, found: Dissection, request: ScoreRequest) -> dict[Key, Along]:
    """Return what the gradients of the loss are along each slot, batch by batch."""
    slots = found.tracing.slots
    weights = [_variable(weight_of(slot.layer, slot.weight)) for slot in slots.values()]
    loss = _loss(towards(live, request))

    @tf.function
    def sums(batch: list[Any], labels: Any) -> list[tuple[Any, Any]]:
        with tf.GradientTape(watch_accessed_variables=False) as tape:
            tape.watch(weights)  # frozen ones tell as much as others
            value = loss(live.handle.serve(*batch)[0], batch[0], labels)
        gradients = tape.gradient(value, weights, unconnected_gradients=tf.UnconnectedGradients.ZERO)
        return [
            (_along(slot, weight * gradient), _along(slot, tf.square(gradient)))
            for slot, weight, gradient in zip(slots.values(), weights, gradients, strict=True)
        ]

    found_sums = [
        sums([tf.constant(array) for array in arrays], None if labels is None else tf.constant(labels))
        for arrays, labels in batches(request)
    ]
    return {
        key: (np.stack([one[place][0] for one in found_sums]), np.stack([one[place][1] for one in found_sums]))
        for place, key in enumerate(slots)
    }


def _variable(weight: Any) -> Any:
    return weight if isinstance(weight, tf.Variable) else weight.value


def _along(slot: Slot, values: Any) -> Any:
    values = tf.convert_to_tensor(values)
    return tf.reduce_sum(values, axis=np.delete(np.arange(len(values.shape)), slot.axis).tolist())


def _loss(what: ScoreLoss) -> Callable[[Any, Any, Any], Any]:
    """Return the loss of the first output, as a function of output, input and labels; summed over samples."""

    def cross_entropy(output: Any, _: Any, given: Any) -> Any:
        logits = tf.math.log(tf.maximum(output, TINY)) if what.probabilities else output
        classes = tf.argmax(output, axis=1) if given is None else given
        return tf.reduce_sum(tf.nn.sparse_softmax_cross_entropy_with_logits(classes, logits))

    def squared(output: Any, taken: Any, given: Any) -> Any:
        aim = what.aim(taken, given)
        return tf.reduce_sum(tf.square(output if aim is None else output - tf.cast(aim, output.dtype)))

    return cross_entropy if what.kind == "classes" else squared
