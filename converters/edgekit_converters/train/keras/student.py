"""Keras models of both generations as students, on TensorFlow: a step is one compiled function."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import tensorflow as tf

from edgekit_converters.data.samples import Array
from edgekit_converters.frameworks.live_model import Arrays
from edgekit_converters.load import reopen
from edgekit_converters.records import SourceRequest
from edgekit_converters.train import Settings
from edgekit_converters.train.batches import Batch
from edgekit_converters.train.keras import sparse_weights
from edgekit_converters.train.keras.attention_maps import attention, framework_of, with_features
from edgekit_converters.train.keras.fake_quantize import fake_quantized
from edgekit_converters.train.losses import HINT_WEIGHT, TINY, LossTarget, Objective, matched
from edgekit_converters.train.student import Kernel, State
from edgekit_runtime.errors import SourceError

MOMENTUM = 0.9  # of "sgd"
BFLOAT16 = "auto_mixed_precision_onednn_bfloat16"  # TensorFlow's graph rewriter for CPUs


class KerasStudent:
    """A model in training mode, its optimizer and its loss."""

    def __init__(self, request: SourceRequest, settings: Settings) -> None:
        self._request, self._settings = request, settings
        live = reopen(request)
        self._model = live.handle.model
        if self._model is None:
            raise SourceError(f"{request.path}: a SavedModel can only be run; give the .keras or .h5 file to train it")
        self._imitated = fake_quantized(live, settings)
        self._run = self._imitated.run if self._imitated else live.run
        self._keras = framework_of(self._model)
        self._trained = list(self._model.trainable_variables)
        if not self._trained:
            raise SourceError(f"{request.path}: no weight of the model may be trained: its layers are not trainable")
        frozen = len([one for one in self._layers() if one.weights and not one.trainable])
        self.notes = (f"{frozen} layers stay as they are: trainable=False",) * bool(frozen)
        self.notes += self._imitated.notes if self._imitated else ()

    def aim(self, objective: Objective) -> None:
        """Get ready to be trained towards an objective."""
        self._objective = objective
        self._optimizer = _optimizer(self._keras, self._settings)
        self._optimizer.build(self._trained)
        self._viewed, self._own = (
            with_features(self._model) if self._settings.hints else (self._model, len(objective.aims))
        )
        tf.config.optimizer.set_experimental_options({BFLOAT16: self._settings.mixed_precision})
        self._compiled = tf.function(self._step)

    def begin(self, epoch: int) -> None:
        """Seed what is random in the model.

        Keras 3 keeps the seeds of its layers as variables, which are part of the state. Those of tf_keras are in the
        compiled function: one that was made in another epoch would draw other numbers.
        """
        tf.random.set_seed(self._settings.seed * 1_000_003 + epoch)
        if self._keras.__name__ == "tf_keras" and any(hasattr(one, "_random_generator") for one in self._layers()):
            self._compiled = tf.function(self._step)

    def step(self, batch: Batch, learning_rate: float) -> float:
        """Train on a batch."""
        self._optimizer.learning_rate = learning_rate
        labels = None if batch.labels is None else tf.constant(batch.labels)
        loss = self._compiled(
            [tf.constant(one) for one in batch.inputs],
            labels,
            [tf.constant(one) for one in batch.answers],
            [tf.constant(one) for one in batch.hints],
        )
        return float(loss)

    def run(self, inputs: Arrays) -> Arrays:
        """What it gives in use."""
        return self._run(inputs)

    def state(self) -> State:
        """Weights, statistics and seeds, and the optimizer's variables, in their order."""
        state = {f"weights/{index}": one.numpy() for index, one in enumerate(self._model.variables)}
        state |= {f"optimizer/{index}": one.numpy() for index, one in enumerate(self._moments())}
        return state | (self._imitated.state() if self._imitated else {})

    def restore(self, state: State) -> None:
        """Take over a state."""
        places = {"weights": list(self._model.variables), "optimizer": self._moments()}
        if self._imitated:
            state = self._imitated.restore(state)
        for name, array in state.items():
            part, _, index = name.partition("/")
            places[part][int(index)].assign(array)

    def kernels(self) -> list[Kernel]:
        """The weights of convolutions and dense layers."""
        return [one for one, _ in self._kernels()]

    def hold(self, masks: dict[int, Array]) -> None:
        """Set to zero what masks leave out."""
        variables = [one for _, one in self._kernels()]
        for place, mask in masks.items():
            variables[place].assign(tf.where(mask, _variable(variables[place]), 0.0))  # a product would leave -0

    def _kernels(self) -> list[tuple[Kernel, Any]]:
        return sparse_weights.kernels(self._layers())

    def estimate_statistics(self, batches: Iterable[Arrays]) -> bool:
        """Average BatchNorm's statistics anew, over batches."""
        norms = [one for one in self._layers() if type(one).__name__ == "BatchNormalization" and one.trainable]
        momenta = [norm.momentum for norm in norms]
        for place, batch in enumerate(batches if norms else ()):
            for norm in norms:
                norm.momentum = place / (place + 1)  # the plain average over all batches
            with self._arithmetic():
                self._call(self._model, [tf.constant(one) for one in batch])
        for norm, momentum in zip(norms, momenta, strict=True):
            norm.momentum = momentum
        return bool(norms)

    def save(self, folder: Path) -> SourceRequest:
        """Write the model as it came: a file, or weights for the function that builds it."""
        with self._arithmetic():
            if self._request.function:
                path = folder / ("model.h5" if self._keras.__name__ == "tf_keras" else "model.weights.h5")
                self._model.save_weights(path)
                return replace(self._request, weights=path)
            path = folder / ("model.h5" if self._keras.__name__ == "tf_keras" else "model.keras")
            self._model.save(path)
            return replace(self._request, path=path)

    def close(self) -> None:
        """Switch off what was switched on for the process."""
        tf.config.optimizer.set_experimental_options({BFLOAT16: False})

    def _layers(self) -> list[Any]:
        """All layers, those of nested models too."""
        return list(self._model._flatten_layers(include_self=False, recursive=True))

    def _moments(self) -> list[Any]:
        variables = self._optimizer.variables
        return list(variables() if callable(variables) and not isinstance(variables, list) else variables)

    def _call(self, model: Any, tensors: list[Any]) -> list[Any]:
        """Run a model as in training."""
        if self._imitated and self._imitated.follows:
            return self._imitated.call(model, tensors, "train")
        structure = getattr(self._model, "input", None)
        taken = tensors if len(tensors) > 1 else tensors[0]
        if structure is not None and model is self._model:
            taken = tf.nest.pack_sequence_as(structure, tensors)
        return list(tf.nest.flatten(model(taken, training=True)))

    def _step(self, inputs: list[Any], labels: Any, answers: list[Any], hints: list[Any]) -> Any:
        with tf.GradientTape() as tape, self._arithmetic():
            found = self._call(self._viewed, inputs)
            loss = self._loss(found[: self._own], labels, answers)
            loss += HINT_WEIGHT * self._hint_loss(found[self._own :], hints)
            for added in self._model.losses:  # what its layers regularize
                loss += tf.cast(added, tf.float32)
        gradients = tape.gradient(loss, [_variable(one) for one in self._trained])
        self._optimizer.apply_gradients(
            [pair for pair in zip(gradients, self._trained, strict=True) if pair[0] is not None]
        )
        self._decay()
        return loss

    def _arithmetic(self) -> AbstractContextManager[None]:
        """Weights are meanwhile what the imitated arithmetic makes of them."""
        return self._imitated.rounded_weights() if self._imitated else nullcontext()

    def _loss(self, outputs: list[Any], labels: Any, answers: list[Any]) -> Any:
        loss = tf.zeros(())
        for index, (aim, output) in enumerate(zip(self._objective.aims, outputs, strict=True)):
            answer = answers[index] if answers else None
            loss += self._one_loss(aim, tf.cast(output, tf.float32), labels, answer)
        return loss

    def _one_loss(self, aim: LossTarget, output: Any, labels: Any, answer: Any) -> Any:
        loss = tf.zeros(())
        given = tf.concat([1 - output, output], axis=1) if aim.single else output
        logits = tf.math.log(tf.maximum(given, TINY)) if aim.probabilities else given
        if aim.label_weight and labels is not None:
            if aim.classes:
                apart = tf.reduce_mean(tf.nn.sparse_softmax_cross_entropy_with_logits(labels, logits))
            else:
                apart = _squares(output, labels)
            loss += aim.label_weight * apart
        if aim.teacher_weight and answer is not None:
            apart = self._divergence(logits, answer) if aim.classes else _squares(output, answer)
            loss += aim.teacher_weight * apart
        return loss

    def _divergence(self, logits: Any, soft: Any) -> Any:
        """T² KL(soft || softmax(logits / T)), averaged over samples."""
        degrees = self._objective.temperature
        ours = tf.nn.log_softmax(logits / degrees)
        return degrees**2 * tf.reduce_mean(tf.reduce_sum(tf.math.xlogy(soft, soft) - soft * ours, axis=-1))

    def _hint_loss(self, features: list[Any], hints: list[Any]) -> Any:
        loss = tf.zeros(())
        if features:
            for one, place in matched([tuple(feature.shape[1:3]) for feature in features], hints):
                loss += _squares(attention(features[one]), hints[place])
        return loss

    def _decay(self) -> None:
        """Shrink weights apart from their gradients (Loshchilov & Hutter, Decoupled Weight Decay, 2019)."""
        if self._settings.weight_decay:
            for one in self._trained:
                if len(one.shape) > 1:
                    kept = 1 - tf.cast(self._optimizer.learning_rate, tf.float32) * self._settings.weight_decay
                    one.assign(one * kept)


def _optimizer(keras: Any, settings: Settings) -> Any:
    """The optimizer; the rate of every step is set before it."""
    if settings.optimizer == "adam":
        return keras.optimizers.Adam(settings.learning_rate, epsilon=1e-8)  # PyTorch's, and that of the paper
    if settings.optimizer == "rmsprop":
        return keras.optimizers.RMSprop(settings.learning_rate, rho=0.9)
    return keras.optimizers.SGD(settings.learning_rate, momentum=MOMENTUM, nesterov=True)


def _variable(one: Any) -> Any:
    """TensorFlow's own variable, which Keras 3 wraps."""
    return one if isinstance(one, tf.Variable) else one.value


def _squares(ours: Any, theirs: Any) -> Any:
    return tf.reduce_mean(tf.math.squared_difference(ours, tf.cast(theirs, tf.float32)))
