"""Correct a pruned PyTorch module with samples, without labels.

Least squares (He et al., Channel Pruning for Accelerating Very Deep Neural Networks, ICCV 2017, eq. 3): a layer that
reads fewer channels gets the weights W whose output comes closest to that of the original layer,
``min ‖Y - XW‖² + λ‖W - W₀‖²``. X are the remaining channels, Y the outputs of the original layer at the same positions,
and W₀ the present weights. Layers are solved in the order of execution, each on the outputs of the corrected layers
before it. After that, BatchNorm's statistics are estimated again as means and variances over all samples.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from edgekit_converters import data as dataset
from edgekit_converters.frameworks.loaded_model import LoadedModel
from edgekit_converters.frameworks.torch_calls import FORWARD_ERRORS, input_tensors
from edgekit_converters.prune import RecalibrateRequest
from edgekit_converters.prune.torch.channel_groups import ChannelGroups, positions
from edgekit_converters.prune.torch.stored_sizes import Tensors, output_mismatch, run

SAMPLES, VALUES = 256, 2**23  # that weights are solved on, at most: of samples, and of input values
ROWS = 8192  # places of a layer's output that its weights are solved on, at most
RIDGE = 1e-3  # λ, relative to the mean square of the layer's input
BATCH = 64

BatchNorm = nn.modules.batchnorm._BatchNorm
Conv = nn.modules.conv._ConvNd


@dataclass(frozen=True)
class OriginalModule:
    """The module before the cut, and the element sets that were removed from it."""

    model: nn.Module
    groups: ChannelGroups
    removed: set[int]


def reconstruct_weights(
    small: nn.Module, dense: OriginalModule, live: LoadedModel, request: RecalibrateRequest
) -> None:
    """Solve for the weights of each layer that reads fewer channels than in the original module."""
    batch = input_tensors(live, dataset.pick_samples(request.data, request.inputs, _count(live, request)))
    if not takes_batches(small, batch):
        return  # the equations need a batch
    wanted = _TargetOutputs()
    outs = {
        layer: positions(axis_ids, dense.removed)
        for (layer, side), axis_ids in dense.groups.layer_roots().items()
        if side == "out"
    }
    layers = [
        layer
        for (layer, side), axis_ids in dense.groups.layer_roots().items()
        if side == "in" and positions(axis_ids, dense.removed) and _solvable(small.get_submodule(layer))
    ]
    with _Hooks(layers, dense.model, wanted.note, after=True):
        run(dense.model, batch)
    for layer in layers:
        kept = np.delete(np.arange(wanted.rows[layer].shape[1]), outs.get(layer, []))
        wanted.rows[layer] = wanted.rows[layer][:, kept]
    with _Hooks(layers, small, wanted.solve, after=False):
        run(small, batch)


def update_batch_norm(small: nn.Module, live: LoadedModel, request: RecalibrateRequest) -> None:
    """Estimate BatchNorm's means and variances over all samples.

    Each layer sees the outputs of the pruned layers before it.
    """
    layers = [one for one in small.modules() if isinstance(one, BatchNorm) and one.running_mean is not None]
    if not layers:
        return
    sums = {layer: _Sums() for layer in layers}
    hooks = [layer.register_forward_pre_hook(lambda module, taken: sums[module].add(taken[0])) for layer in layers]
    first = input_tensors(live, dataset.pick_samples(request.data, request.inputs, 2))
    together = takes_batches(small, first)
    for layer in layers:
        sums[layer].clear()
        layer.train(together)  # normalizes by the batch's own statistics
    momenta = [layer.momentum for layer in layers]
    for layer in layers:
        layer.momentum = 0.0
    for batch in dataset.batches(request.data, request.inputs, BATCH if together else 1):
        if len(batch[0]) > 1 or not together:
            run(small, input_tensors(live, batch))
    for hook in hooks:
        hook.remove()
    for layer, momentum in zip(layers, momenta, strict=True):
        layer.momentum = momentum
        layer.eval()
        sums[layer].store(layer)


def takes_batches(model: nn.Module, batch: Tensors) -> bool:
    """Tell whether two samples in a batch give the same results as one by one: some modules fix their batch size."""
    pair = tuple(one[:2] for one in batch)
    if len(pair[0]) < 2:
        return False
    alone = [run(model, tuple(one[place : place + 1] for one in pair)) for place in range(2)]
    try:
        return output_mismatch([torch.cat(each) for each in zip(*alone, strict=True)], model, pair) is None
    except FORWARD_ERRORS:  # outputs without a batch
        return False


@dataclass
class _Sums:
    """Sums over all inputs of a normalization, by channel."""

    count: int = 0
    total: Any = 0.0
    squares: Any = 0.0

    def add(self, taken: torch.Tensor) -> None:
        others = [axis for axis in range(taken.dim()) if axis != 1]
        values = taken.detach().double()
        self.count += taken.numel() // taken.shape[1]
        self.total = self.total + values.sum(others)
        self.squares = self.squares + values.square().sum(others)

    def clear(self) -> None:
        self.count, self.total, self.squares = 0, 0.0, 0.0

    def store(self, layer: Any) -> None:
        if self.count < 2:
            return
        mean = self.total / self.count
        variance = (self.squares / self.count - mean.square()).clamp_min(0) * self.count / (self.count - 1)
        layer.running_mean.copy_(mean)
        layer.running_var.copy_(variance)


@dataclass
class _TargetOutputs:
    """Outputs of the original layers at some positions: layer -> (rows, outputs)."""

    rows: dict[str, np.ndarray] = field(default_factory=dict)

    def note(self, layer: str, module: Any, _: torch.Tensor, given: torch.Tensor) -> None:
        if layer not in self.rows:
            values = given if isinstance(module, nn.Linear) else given.movedim(1, -1)
            flat = values.reshape(-1, values.shape[-1])
            self.rows[layer] = flat[_places(len(flat))].double().numpy()

    def solve(self, layer: str, module: Any, taken: torch.Tensor, _: Any) -> None:
        wanted = self.rows.pop(layer, None)
        if wanted is None:  # the layer has run before
            return
        read = (_read_linear if isinstance(module, nn.Linear) else _read_convolution)(module, taken).double().numpy()
        weights = module.weight.detach().double().numpy()
        flat = weights.reshape(len(weights), -1).T  # (features, outputs)
        rest = wanted - read @ flat
        if module.bias is not None:
            read = np.concatenate([read, np.ones((len(read), 1))], axis=1)
            rest -= module.bias.detach().double().numpy()
        square = read.T @ read
        square[np.diag_indices_from(square)] += RIDGE * np.trace(square) / len(square)
        change = np.linalg.solve(square, read.T @ rest)
        with torch.no_grad():
            module.weight += torch.from_numpy(change[: len(flat)].T.reshape(weights.shape)).to(module.weight.dtype)
            if module.bias is not None:
                module.bias += torch.from_numpy(change[-1]).to(module.bias.dtype)


class _Hooks:
    """Calls ``hook(layer, module, input, output or None)`` when layers run, after or before."""

    def __init__(self, layers: list[str], model: nn.Module, hook: Any, *, after: bool) -> None:
        self._handles = []
        for layer in layers:
            module = model.get_submodule(layer)
            if after:
                handle = module.register_forward_hook(
                    lambda m, taken, given, path=layer: hook(path, m, taken[0], given)
                )
            else:
                handle = module.register_forward_pre_hook(lambda m, taken, path=layer: hook(path, m, taken[0], None))
            self._handles.append(handle)

    def __enter__(self) -> None:
        return None

    def __exit__(self, *_: object) -> None:
        for handle in self._handles:
            handle.remove()


def _solvable(module: Any) -> bool:
    return isinstance(module, nn.Linear) or (isinstance(module, Conv) and module.groups == 1 and not module.transposed)


def _count(live: LoadedModel, request: RecalibrateRequest) -> int:
    values = sum(int(np.prod(spec.shape)) for spec in live.inputs)
    return max(2, min(request.data.count, SAMPLES, VALUES // values))


def _places(count: int) -> np.ndarray:
    """Return some row indices, always the same for the same count."""
    if count <= ROWS:
        return np.arange(count)
    return np.sort(np.random.default_rng(count).choice(count, ROWS, replace=False))


def _read_linear(module: nn.Linear, taken: torch.Tensor) -> torch.Tensor:
    """Return the input of a linear layer, (rows, features)."""
    flat = taken.reshape(-1, taken.shape[-1])
    return flat[_places(len(flat))]


def _read_convolution(module: Any, taken: torch.Tensor) -> torch.Tensor:
    """Return the input patches of a convolution at some output positions.

    The shape is (rows, channels * kernel), in the order of the weights.
    """
    mode = "constant" if module.padding_mode == "zeros" else module.padding_mode
    padded = functional.pad(taken, module._reversed_padding_repeated_twice, mode=mode)
    reach = [d * (k - 1) + 1 for d, k in zip(module.dilation, module.kernel_size, strict=True)]
    sizes = [(n - r) // s + 1 for n, r, s in zip(padded.shape[2:], reach, module.stride, strict=True)]
    sample, *at = np.unravel_index(_places(len(taken) * int(np.prod(sizes))), (len(taken), *sizes))
    last = padded.movedim(1, -1)
    columns = [last[tuple(torch.from_numpy(one) for one in (sample, *where))] for where in _offsets(module, at)]
    return torch.stack(columns, dim=-1).reshape(len(sample), -1)


def _offsets(module: Any, at: list[np.ndarray]) -> Iterator[list[np.ndarray]]:
    """Yield the input positions that each entry of a kernel reads."""
    for entry in itertools.product(*(range(size) for size in module.kernel_size)):
        yield [
            place * stride + step * dilation
            for place, stride, step, dilation in zip(at, module.stride, entry, module.dilation, strict=True)
        ]
