"""Keras models of both generations as students, on TensorFlow: a step is one compiled function."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import tensorflow as tf

from edgekit_converters.data.samples import Array
from edgekit_converters.frameworks.loaded_model import Arrays
from edgekit_converters.load import reopen
from edgekit_converters.records import SourceRequest
from edgekit_converters.train import Settings
from edgekit_converters.train.batches import Batch
from edgekit_converters.train.keras import sparse_weights
from edgekit_converters.train.keras.attention_maps import attention_map, framework_of, with_feature_outputs
from edgekit_converters.train.keras.fake_quantize import open_fake_quantizer
from edgekit_converters.train.losses import ATTENTION_WEIGHT, TINY, LossTarget, Objective, matching_maps
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
        self._fake_quantizer = open_fake_quantizer(live, settings)
        self._run = self._fake_quantizer.run if self._fake_quantizer else live.run
        self._keras = framework_of(self._model)
        self._trained = list(self._model.trainable_variables)
        if not self._trained:
            raise SourceError(f"{request.path}: no weight of the model may be trained: its layers are not trainable")
        frozen = len([one for one in self._layers() if one.weights and not one.trainable])
        self.notes = (f"{frozen} layers stay as they are: trainable=False",) * bool(frozen)
        self.notes += self._fake_quantizer.notes if self._fake_quantizer else ()

    def set_objective(self, objective: Objective) -> None:
        """Set the objective, and create the optimizer."""
        self._objective = objective
        self._optimizer = _optimizer(self._keras, self._settings)
        self._optimizer.build(self._trained)
        self._observed_model, self._output_count = (
            with_feature_outputs(self._model)
            if self._settings.attention_transfer
            else (self._model, len(objective.targets))
        )
        tf.config.optimizer.set_experimental_options({BFLOAT16: self._settings.mixed_precision})
        self._compiled = tf.function(self._step)

    def start_epoch(self, epoch: int) -> None:
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
            [tf.constant(one) for one in batch.attention_maps],
        )
        return float(loss)

    def run(self, inputs: Arrays) -> Arrays:
        """Return the outputs in inference mode."""
        return self._run(inputs)

    def state(self) -> State:
        """Return weights, statistics, seeds and the optimizer's variables, in their order."""
        state = {f"weights/{index}": one.numpy() for index, one in enumerate(self._model.variables)}
        state |= {f"optimizer/{index}": one.numpy() for index, one in enumerate(self._optimizer_variables())}
        return state | (self._fake_quantizer.state() if self._fake_quantizer else {})

    def restore(self, state: State) -> None:
        """Restore a state."""
        places = {"weights": list(self._model.variables), "optimizer": self._optimizer_variables()}
        if self._fake_quantizer:
            state = self._fake_quantizer.restore(state)
        for name, array in state.items():
            part, _, index = name.partition("/")
            places[part][int(index)].assign(array)

    def kernels(self) -> list[Kernel]:
        """Return the weights of convolutions and dense layers."""
        return [one for one, _ in self._kernels()]

    def apply_masks(self, masks: dict[int, Array]) -> None:
        """Set to zero the weights outside of the masks."""
        variables = [one for _, one in self._kernels()]
        for place, mask in masks.items():
            variables[place].assign(tf.where(mask, _variable(variables[place]), 0.0))  # a product would leave -0

    def _kernels(self) -> list[tuple[Kernel, Any]]:
        return sparse_weights.kernels(self._layers())

    def estimate_statistics(self, batches: Iterable[Arrays]) -> bool:
        """Average BatchNorm's statistics over batches."""
        norms = [one for one in self._layers() if type(one).__name__ == "BatchNormalization" and one.trainable]
        momenta = [norm.momentum for norm in norms]
        for place, batch in enumerate(batches if norms else ()):
            for norm in norms:
                norm.momentum = place / (place + 1)  # the plain average over all batches
            with self._quantized_weights():
                self._call(self._model, [tf.constant(one) for one in batch])
        for norm, momentum in zip(norms, momenta, strict=True):
            norm.momentum = momentum
        return bool(norms)

    def save(self, folder: Path) -> SourceRequest:
        """Write the model as its source was: a file, or weights for the function that builds it."""
        with self._quantized_weights():
            if self._request.function:
                path = folder / ("model.h5" if self._keras.__name__ == "tf_keras" else "model.weights.h5")
                self._model.save_weights(path)
                return replace(self._request, weights=path)
            path = folder / ("model.h5" if self._keras.__name__ == "tf_keras" else "model.keras")
            self._model.save(path)
            return replace(self._request, path=path)

    def close(self) -> None:
        """Restore the options of the process."""
        tf.config.optimizer.set_experimental_options({BFLOAT16: False})

    def _layers(self) -> list[Any]:
        """Return all layers, also those of nested models."""
        return list(self._model._flatten_layers(include_self=False, recursive=True))

    def _optimizer_variables(self) -> list[Any]:
        variables = self._optimizer.variables
        return list(variables() if callable(variables) and not isinstance(variables, list) else variables)

    def _call(self, model: Any, tensors: list[Any]) -> list[Any]:
        """Run a model in training mode."""
        if self._fake_quantizer and self._fake_quantizer.follows:
            return self._fake_quantizer.call(model, tensors, "train")
        structure = getattr(self._model, "input", None)
        taken = tensors if len(tensors) > 1 else tensors[0]
        if structure is not None and model is self._model:
            taken = tf.nest.pack_sequence_as(structure, tensors)
        return list(tf.nest.flatten(model(taken, training=True)))

    def _step(self, inputs: list[Any], labels: Any, answers: list[Any], attention_maps: list[Any]) -> Any:
        with tf.GradientTape() as tape, self._quantized_weights():
            found = self._call(self._observed_model, inputs)
            loss = self._loss(found[: self._output_count], labels, answers)
            loss += ATTENTION_WEIGHT * self._attention_loss(found[self._output_count :], attention_maps)
            for added in self._model.losses:  # what its layers regularize
                loss += tf.cast(added, tf.float32)
        gradients = tape.gradient(loss, [_variable(one) for one in self._trained])
        self._optimizer.apply_gradients(
            [pair for pair in zip(gradients, self._trained, strict=True) if pair[0] is not None]
        )
        self._decay()
        return loss

    def _quantized_weights(self) -> AbstractContextManager[None]:
        """Return a context with fake-quantized weights, if there is fake quantization."""
        return self._fake_quantizer.quantized_weights() if self._fake_quantizer else nullcontext()

    def _loss(self, outputs: list[Any], labels: Any, answers: list[Any]) -> Any:
        loss = tf.zeros(())
        for index, (target, output) in enumerate(zip(self._objective.targets, outputs, strict=True)):
            answer = answers[index] if answers else None
            loss += self._output_loss(target, tf.cast(output, tf.float32), labels, answer)
        return loss

    def _output_loss(self, target: LossTarget, output: Any, labels: Any, answer: Any) -> Any:
        loss = tf.zeros(())
        given = tf.concat([1 - output, output], axis=1) if target.binary else output
        logits = tf.math.log(tf.maximum(given, TINY)) if target.probabilities else given
        if target.label_weight and labels is not None:
            if target.classes:
                difference = tf.reduce_mean(tf.nn.sparse_softmax_cross_entropy_with_logits(labels, logits))
            else:
                difference = _mean_squares(output, labels)
            loss += target.label_weight * difference
        if target.teacher_weight and answer is not None:
            difference = self._divergence(logits, answer) if target.classes else _mean_squares(output, answer)
            loss += target.teacher_weight * difference
        return loss

    def _divergence(self, logits: Any, soft: Any) -> Any:
        """T² KL(soft || softmax(logits / T)), averaged over samples."""
        temperature = self._objective.temperature
        ours = tf.nn.log_softmax(logits / temperature)
        return temperature**2 * tf.reduce_mean(tf.reduce_sum(tf.math.xlogy(soft, soft) - soft * ours, axis=-1))

    def _attention_loss(self, features: list[Any], attention_maps: list[Any]) -> Any:
        loss = tf.zeros(())
        if features:
            for one, place in matching_maps([tuple(feature.shape[1:3]) for feature in features], attention_maps):
                loss += _mean_squares(attention_map(features[one]), attention_maps[place])
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


def _mean_squares(ours: Any, theirs: Any) -> Any:
    return tf.reduce_mean(tf.math.squared_difference(ours, tf.cast(theirs, tf.float32)))
