"""PyTorch modules as students."""

from __future__ import annotations

import os
from collections.abc import Iterable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.nn import functional

from edgekit_converters.data.samples import Array
from edgekit_converters.foreign_errors import short_message
from edgekit_converters.frameworks.loaded_model import Arrays, LoadedModel
from edgekit_converters.frameworks.torch_calls import FORWARD_ERRORS
from edgekit_converters.load import reopen
from edgekit_converters.records import SourceRequest
from edgekit_converters.train import Settings
from edgekit_converters.train.batches import Batch
from edgekit_converters.train.losses import ATTENTION_WEIGHT, TINY, LossTarget, Objective, matching_maps
from edgekit_converters.train.student import Kernel, State
from edgekit_converters.train.torch import sparse_weights
from edgekit_converters.train.torch.attention_maps import AttentionMaps
from edgekit_converters.train.torch.fake_quantize import open_fake_quantizer
from edgekit_runtime.errors import SourceError

BATCH_NORMS = (torch.nn.BatchNorm1d, torch.nn.BatchNorm2d, torch.nn.BatchNorm3d)
MOMENTUM = 0.9  # of "sgd"


class TorchStudent:
    """A module in training mode, its optimizer and its loss."""

    def __init__(self, request: SourceRequest, settings: Settings) -> None:
        if request.kind == "torch_program":
            raise SourceError(
                f"{request.path}: an exported program is frozen as in use, its normalization and dropout too; to train "
                f"the module, give the function that builds it, and its weights: FILE.py:function --weights FILE.pth"
            )
        live = reopen(request)  # which leaves a core to the other branches
        self._threads = torch.get_num_threads()
        torch.set_num_threads(os.cpu_count() or 1)  # nothing runs beside a training
        self._request, self._settings, self._moved = request, settings, live.transposed
        self._module = module_of(live)
        self._fake_quantizer = open_fake_quantizer(live, settings)
        self._run = self._fake_quantizer.run if self._fake_quantizer else live.run
        parameters = list(self._module.parameters())
        self._trained = [one for one in parameters if one.requires_grad]
        if not self._trained:
            raise SourceError(
                f"{request.path}: no parameter of the module may be trained: each has requires_grad=False"
            )
        frozen = len(parameters) - len(self._trained)
        self.notes = (f"{frozen} of {len(parameters)} parameters stay as they are: requires_grad=False",) * bool(frozen)
        if any(len(shape.shape) == 4 for shape in live.inputs):
            self._module.to(memory_format=torch.channels_last)

    def set_objective(self, objective: Objective) -> None:
        """Set the objective, and create the optimizer."""
        self._objective = objective
        self._optimizer = _optimizer(self._settings.optimizer, self._trained)
        self._maps = AttentionMaps(self._module) if self._settings.attention_transfer else None

    def start_epoch(self, epoch: int) -> None:
        """Seed the random numbers of the module."""
        torch.manual_seed(self._settings.seed * 1_000_003 + epoch)

    def step(self, batch: Batch, learning_rate: float) -> float:
        """Train on a batch."""
        for group in self._optimizer.param_groups:
            group["lr"] = learning_rate
        self._module.train()
        self._optimizer.zero_grad(set_to_none=True)
        with self._precision():
            outputs = self._outputs(batch.inputs)
        loss = self._loss([one.float() for one in outputs], batch)
        loss.backward()
        self._optimizer.step()
        self._decay(learning_rate)
        return float(loss.detach())

    def run(self, inputs: Arrays) -> Arrays:
        """Return the outputs in inference mode."""
        self._module.eval()
        return self._run(inputs)

    def state(self) -> State:
        """Return weights, buffers and the optimizer's moments."""
        state = {f"weights/{name}": _array(value) for name, value in self._module.state_dict().items()}
        for index, moments in self._optimizer.state_dict()["state"].items():
            state |= {f"optimizer/{index}/{name}": _array(torch.as_tensor(value)) for name, value in moments.items()}
        return state | (self._fake_quantizer.state() if self._fake_quantizer else {})

    def restore(self, state: State) -> None:
        """Restore a state."""
        if self._fake_quantizer:
            state = self._fake_quantizer.restore(state)
        weights: dict[str, torch.Tensor] = {}
        moments: dict[int, dict[str, torch.Tensor]] = {}
        for name, array in state.items():
            part, _, rest = name.partition("/")
            value = torch.from_numpy(np.array(array))
            if part == "weights":
                weights[rest] = value
            else:
                index, _, moment = rest.partition("/")
                moments.setdefault(int(index), {})[moment] = _laid_out_as(self._trained[int(index)], value)
        self._module.load_state_dict(weights)
        if moments:
            groups = self._optimizer.state_dict()["param_groups"]
            self._optimizer.load_state_dict({"state": moments, "param_groups": groups})

    def kernels(self) -> list[Kernel]:
        """Return the weights of convolutions and linear layers, which share their memory with the module's."""
        return [one for one, _ in self._kernels()]

    def apply_masks(self, masks: dict[int, Array]) -> None:
        """Set to zero the weights outside of the masks."""
        parameters = [one for _, one in self._kernels()]
        with torch.no_grad():
            for place, mask in masks.items():
                parameters[place].masked_fill_(torch.from_numpy(~mask), 0.0)  # a product would leave -0

    def _kernels(self) -> list[tuple[Kernel, torch.nn.Parameter]]:
        return sparse_weights.kernels(self._module)

    def estimate_statistics(self, batches: Iterable[Arrays]) -> bool:
        """Average BatchNorm's statistics over batches; all else is in inference mode."""
        self._module.eval()
        norms = [one for one in self._module.modules() if isinstance(one, BATCH_NORMS) and one.track_running_stats]
        momenta = [norm.momentum for norm in norms]
        for norm in norms:
            norm.reset_running_stats()
            norm.momentum = None  # the plain average over all batches
            norm.train()
        with torch.no_grad():
            for batch in batches if norms else ():
                self._module(*self._tensors(batch))
        for norm, momentum in zip(norms, momenta, strict=True):
            norm.momentum = momentum
            norm.eval()
        return bool(norms)

    def save(self, folder: Path) -> SourceRequest:
        """Write the weights; the request's code builds the module that they are loaded into."""
        path = folder / "weights.pth"
        quantized = self._fake_quantizer.quantized_parameters() if self._fake_quantizer else {}
        state = self._module.state_dict() | quantized
        torch.save({name: value.contiguous() for name, value in state.items()}, path)
        return replace(self._request, weights=path)

    def close(self) -> None:
        """Restore the number of threads, and remove fake quantization."""
        if self._fake_quantizer:
            self._fake_quantizer.remove()
        torch.set_num_threads(self._threads)

    def _outputs(self, inputs: Arrays) -> list[torch.Tensor]:
        """Return the outputs of the module in training mode.

        Raises:
            SourceError: it fails, or its outputs differ from those in inference mode.
        """
        count, wanted = len(inputs[0]), len(self._objective.targets)
        why = "to be trained it has to take batches, and to give what it gives in use, without outputs beside"
        try:
            given = leaves(self._module(*self._tensors(inputs)))
        except FORWARD_ERRORS as error:
            failed = f"the module fails in training mode on {count} samples at once ({short_message(error)})"
            raise SourceError(f"{self._request.path}: {failed}: {why}") from error
        if len(given) != wanted or any(one.shape[:1] != (count,) for one in given):
            shapes = ", ".join(str(tuple(one.shape)) for one in given)
            raise SourceError(
                f"{self._request.path}: in training mode the module gives {shapes} for {count} samples, and {wanted} "
                f"output{'s' * (wanted > 1)} in use: {why}"
            )
        return given

    def _tensors(self, inputs: Arrays) -> list[torch.Tensor]:
        """Bring a batch to the module's layout; images keep their bytes, and only their strides are changed."""
        return [
            torch.from_numpy(np.moveaxis(array, -1, 1) if last else array)
            for array, last in zip(inputs, self._moved, strict=True)
        ]

    def _precision(self) -> AbstractContextManager[Any]:
        return torch.autocast("cpu", torch.bfloat16) if self._settings.mixed_precision else nullcontext()

    def _loss(self, outputs: list[torch.Tensor], batch: Batch) -> torch.Tensor:
        targets = None if batch.labels is None else torch.from_numpy(batch.labels)
        answers = [torch.from_numpy(one) for one in batch.answers] or [None] * len(outputs)
        loss = torch.zeros(())
        for target, output, answer in zip(self._objective.targets, outputs, answers, strict=True):
            loss = loss + self._output_loss(target, output, targets, answer)
        if self._maps:
            ours = self._maps.take()
            for one, place in matching_maps([tuple(one.shape[1:]) for one in ours], batch.attention_maps):
                theirs = torch.from_numpy(batch.attention_maps[place])
                loss = loss + ATTENTION_WEIGHT * functional.mse_loss(ours[one], theirs)
        return loss

    def _output_loss(
        self, target: LossTarget, output: torch.Tensor, labels: torch.Tensor | None, answer: torch.Tensor | None
    ) -> torch.Tensor:
        loss = torch.zeros(())
        given = torch.cat([1 - output, output], dim=1) if target.binary else output
        logits = torch.log(given.clamp_min(TINY)) if target.probabilities else given
        if target.label_weight and labels is not None:
            difference = functional.cross_entropy(logits, labels) if target.classes else _mean_squares(output, labels)
            loss = loss + target.label_weight * difference
        if target.teacher_weight and answer is not None:
            temperature = self._objective.temperature
            soft = functional.log_softmax(logits / temperature, dim=1) if target.classes else None
            difference = (
                _mean_squares(output, answer)
                if soft is None
                else temperature**2 * functional.kl_div(soft, answer, reduction="batchmean")
            )
            loss = loss + target.teacher_weight * difference
        return loss

    def _decay(self, learning_rate: float) -> None:
        """Shrink weights apart from their gradients (Loshchilov & Hutter, Decoupled Weight Decay, 2019)."""
        if self._settings.weight_decay:
            with torch.no_grad():
                for one in self._trained:
                    if one.ndim > 1:
                        one.mul_(1 - learning_rate * self._settings.weight_decay)


def module_of(live: LoadedModel) -> torch.nn.Module:
    """Return the user's own module in an open source."""
    module: torch.nn.Module = live.handle.module
    return module


def leaves(result: Any) -> list[torch.Tensor]:
    """Return the tensors in a module's result, in order."""
    return [leaf for leaf in torch.utils._pytree.tree_leaves(result) if isinstance(leaf, torch.Tensor)]


def _optimizer(name: str, parameters: list[torch.Tensor]) -> torch.optim.Optimizer:
    if name == "adam":
        return torch.optim.Adam(parameters, fused=True)
    if name == "rmsprop":
        return torch.optim.RMSprop(parameters, alpha=0.9)
    return torch.optim.SGD(parameters, momentum=MOMENTUM, nesterov=True, fused=True)


def _laid_out_as(parameter: torch.Tensor, value: torch.Tensor) -> torch.Tensor:
    """Give a moment the strides of its parameter: a fused optimizer goes through the memory of both side by side."""
    return torch.empty_like(parameter).copy_(value) if value.shape == parameter.shape else value


def _mean_squares(ours: torch.Tensor, theirs: torch.Tensor) -> torch.Tensor:
    return functional.mse_loss(ours, theirs.to(ours.dtype))


def _array(value: torch.Tensor) -> Array:
    return np.array(value.detach().numpy())
