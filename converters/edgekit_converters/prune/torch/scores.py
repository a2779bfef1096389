"""Score the channels of a PyTorch module from its weights, and from their gradients if the importance needs them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from edgekit_converters.frameworks.loaded_model import LoadedModel
from edgekit_converters.frameworks.torch_calls import input_tensors
from edgekit_converters.prune import ScoreRequest
from edgekit_converters.prune.importance import WITH_GRADIENTS, WeightSums, score_channels
from edgekit_converters.prune.score_loss import ScoreLoss, batches, score_loss
from edgekit_converters.prune.torch.channel_groups import ChannelGroup, ChannelGroups
from edgekit_converters.prune.torch.reconstruct import takes_batches
from edgekit_converters.prune.torch.union_find import Ids
from edgekit_converters.train.losses import TINY
from edgekit_runtime.errors import SourceError

Conv = nn.modules.conv._ConvNd
Norm = (nn.modules.batchnorm._BatchNorm, nn.modules.instancenorm._InstanceNorm, nn.GroupNorm)


@dataclass(frozen=True)
class ParameterSlice:
    """The axis of a parameter that holds channels of a layer."""

    parameter: nn.Parameter
    axis: int
    role: str  # as Member.role
    kind: str  # as Member.kind
    ids: Ids  # (size of the axis,): units


def channel_scores(
    live: LoadedModel, model: nn.Module, channel_groups: ChannelGroups, request: ScoreRequest
) -> dict[str, np.ndarray]:
    """Return by group the importance of each channel, (width,) float64; ``model`` is a copy of the module.

    Raises:
        DataError: gradients are wanted of no data, or labels do not fit the module.
        SourceError: no channel passes a BatchNorm with a scale, which the importance is read from.
    """
    slices = [
        one
        for (layer, side), ids in channel_groups.layer_roots().items()
        for one in _parameter_slices(model, layer, side, ids)
    ]
    cut = np.array([root for group in channel_groups.groups for root in group.roots])
    if request.importance == "batch-norm" and not any(
        one.kind == "scale" and np.isin(one.ids, cut).any() for one in slices
    ):
        raise SourceError(
            f"{live.handle.module._get_name()}: no prunable channel passes through a normalization with a scale; "
            f"choose another importance, such as l2"
        )
    gradients_by_slice = _gradients(live, model, slices, request) if request.importance in WITH_GRADIENTS else {}
    return {
        group.info.name: score_channels(
            request.importance, list(_weight_sums(group, slices, gradients_by_slice)), (request.seed, group.info.name)
        )
        for group in channel_groups.groups
    }


def _parameter_slices(model: nn.Module, layer: str, side: str, ids: Ids) -> Iterator[ParameterSlice]:
    if side.startswith("axis"):
        yield ParameterSlice(model.get_parameter(layer), int(side.removeprefix("axis ")), "passes", "other", ids)
        return
    module: Any = model.get_submodule(layer)
    grouped, turned = isinstance(module, Conv) and module.groups > 1, getattr(module, "transposed", False)
    if side == "in":
        if not grouped:
            yield ParameterSlice(module.weight, 0 if turned else 1, "consumes", "kernel", ids)
        return
    role = "passes" if side == "through" or grouped else "produces"
    kind = "scale" if isinstance(module, Norm) else "kernel" if side == "out" else "other"
    if module.weight is not None:
        yield ParameterSlice(module.weight, 1 if turned or isinstance(module, nn.Embedding) else 0, role, kind, ids)
    if getattr(module, "bias", None) is not None:
        yield ParameterSlice(module.bias, 0, role, "other", ids)


def _weight_sums(
    group: ChannelGroup,
    slices: list[ParameterSlice],
    gradients_by_slice: dict[int, list[tuple[np.ndarray, np.ndarray]]],
) -> Iterator[WeightSums]:
    order = {root: channel for channel, root in enumerate(group.roots)}
    for place, weight_slice in enumerate(slices):
        belongs = [(entry, order[root]) for entry, root in enumerate(weight_slice.ids.tolist()) if root in order]
        if not belongs:
            continue
        adding = np.zeros((len(weight_slice.ids), len(order)))  # sums along the axis @ adding: sums of each channel
        adding[tuple(np.array(belongs).T)] = 1.0
        sums = gradients_by_slice.get(place)
        yield WeightSums(
            weight_slice.role,
            weight_slice.kind,
            _sum_along(weight_slice, weight_slice.parameter.abs()) @ adding,
            _sum_along(weight_slice, weight_slice.parameter**2) @ adding,
            np.stack([one for one, _ in sums]) @ adding if sums else None,
            np.stack([one for _, one in sums]) @ adding if sums else None,
        )


def _sum_along(weight_slice: ParameterSlice, values: torch.Tensor) -> np.ndarray:
    """Return sums over all other axes, (size of the axis,) float64."""
    others = [axis for axis in range(values.dim()) if axis != weight_slice.axis]
    summed: np.ndarray = (values.sum(others) if others else values).detach().double().numpy()
    return summed


def _gradients(
    live: LoadedModel, model: nn.Module, slices: list[ParameterSlice], request: ScoreRequest
) -> dict[int, list[tuple[np.ndarray, np.ndarray]]]:
    """Return for each slice the sums of θ·∂L/∂θ and of (∂L/∂θ)² along its axis, by batch, each (size of the axis,)."""
    loss = _loss(score_loss(live, request))
    for one in model.parameters():
        one.requires_grad_(True)  # frozen ones tell as much as others
    found: dict[int, list[tuple[np.ndarray, np.ndarray]]] = {place: [] for place in range(len(slices))}
    together: bool | None = None
    for arrays, labels in batches(request):
        model.zero_grad()
        given = None if labels is None else torch.from_numpy(np.asarray(labels))
        batch = input_tensors(live, arrays)
        together = takes_batches(model, batch) if together is None else together
        size = len(batch[0]) if together else 1  # losses are added up in either case
        for start in range(0, len(batch[0]), size):
            rows = slice(start, start + size)
            _summed(model, tuple(one[rows] for one in batch), loss, None if given is None else given[rows]).backward()
        for place, weight_slice in enumerate(slices):
            gradient = (
                weight_slice.parameter.grad
                if weight_slice.parameter.grad is not None
                else torch.zeros_like(weight_slice.parameter)
            )
            found[place].append(
                (_sum_along(weight_slice, weight_slice.parameter * gradient), _sum_along(weight_slice, gradient**2))
            )
    return found


Loss = Callable[[torch.Tensor, torch.Tensor, torch.Tensor | None], torch.Tensor]


def _summed(model: nn.Module, batch: tuple[torch.Tensor, ...], loss: Loss, given: torch.Tensor | None) -> torch.Tensor:
    leaves = torch.utils._pytree.tree_leaves(model(*batch))
    output = next(leaf for leaf in leaves if isinstance(leaf, torch.Tensor))
    return loss(output, batch[0], given)


def _loss(what: ScoreLoss) -> Loss:
    """Return the loss of the first output, as a function of output, input and labels, summed over samples."""

    def cross_entropy(output: torch.Tensor, _: torch.Tensor, given: torch.Tensor | None) -> torch.Tensor:
        logits = output.clamp_min(TINY).log() if what.probabilities else output
        return functional.cross_entropy(logits, output.argmax(1) if given is None else given, reduction="sum")

    def squared(output: torch.Tensor, taken: torch.Tensor, given: torch.Tensor | None) -> torch.Tensor:
        target = what.target(taken, given)
        return (output if target is None else output - target.to(output.dtype)).square().sum()

    return cross_entropy if what.kind == "classes" else squared
