"""Cut a PyTorch module, and check the result by running it.

A forward pass may use a number of channels (``x.view(-1, self.hidden)``). The attribute that stores it is found by
trial and set after a cut. Every group is tried before it is offered: a module without some channels must compute the
same as the original module in which no layer reads these channels.
"""

from __future__ import annotations

import copy
import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import nn

from edgekit_converters.foreign_errors import short_message
from edgekit_converters.frameworks.torch_calls import FORWARD_ERRORS
from edgekit_converters.prune.torch.channel_groups import ChannelGroup, ChannelGroups, positions
from edgekit_converters.prune.torch.channels import SizeUse
from edgekit_converters.prune.torch.layer_surgery import cut_layer, zero_inputs
from edgekit_converters.prune.torch.union_find import Ids

CLOSE = 1e-4  # of the largest output: float32 sums in another order
TRIES = 64  # combinations of attributes

Tensors = tuple[torch.Tensor, ...]


@dataclass(frozen=True)
class StoredSize:
    """An attribute of a module that stores a number of channels."""

    owner: str  # path of the module
    attribute: str
    place: int | None  # in a tuple or list
    ids: tuple[int, ...]  # units whose number it is

    def __str__(self) -> str:
        place = "" if self.place is None else f"[{self.place}]"
        return f"{self.owner}.{self.attribute}{place}".lstrip(".")


def slice_weights(
    model: nn.Module, channel_groups: ChannelGroups, removed: set[int], stored_sizes: Sequence[StoredSize] = ()
) -> None:
    """Slice the removed channels out of all weights, and set the attributes that store their number."""
    for (layer, side), axis_ids in channel_groups.layer_roots().items():
        out = positions(axis_ids, removed)
        if out:
            cut_layer(model, layer, side, out)
    for one in stored_sizes:
        _set(model.get_submodule(one.owner), one, sum(root not in removed for root in one.ids))


def find_stored_sizes(
    model: nn.Module, channel_groups: ChannelGroups, inputs: Tensors
) -> tuple[ChannelGroups, tuple[StoredSize, ...]]:
    """Return the groups that can be cut, and the attributes to set after a cut.

    Each group whose size may be stored somewhere is tried alone, then all groups together, with every other channel
    removed.
    """
    found: dict[str, tuple[StoredSize, ...]] = {}
    refused: dict[str, str] = {}
    for group in channel_groups.groups:
        if any(set(group.roots) & set(_units(channel_groups, use)) for use in channel_groups.channel_map.size_uses):
            _try_group(model, channel_groups, group, inputs, found, refused)
    left = channel_groups.without(refused)
    together = _every_other(left.groups)
    if left.groups and (why := find_mismatch(model, left, together, _flat(found), inputs)):
        refused = {
            s.info.name: why for s in left.groups if find_mismatch(model, left, _every_other([s]), _flat(found), inputs)
        }
        left = left.without(refused or {group.info.name: why for group in left.groups})
    names = {group.info.name for group in left.groups}
    return left, _flat({name: stored_sizes for name, stored_sizes in found.items() if name in names})


def find_mismatch(
    model: nn.Module,
    channel_groups: ChannelGroups,
    removed: set[int],
    stored_sizes: Sequence[StoredSize],
    inputs: Tensors,
) -> str | None:
    """Return why a pruned module computes something wrong; None if it is correct.

    It must compute the same as the original module whose layers do not read the removed channels.
    """
    zeroed = copy.deepcopy(model)
    for (layer, side), axis_ids in channel_groups.layer_roots().items():
        if side == "in" and (out := positions(axis_ids, removed)):
            zero_inputs(zeroed, layer, out)
    small = copy.deepcopy(model)
    slice_weights(small, channel_groups, removed, stored_sizes)
    return output_mismatch(run(zeroed, inputs), small, inputs)


def run(model: nn.Module, inputs: Tensors) -> list[torch.Tensor]:
    """Return the outputs of a module."""
    with torch.no_grad():
        leaves = torch.utils._pytree.tree_leaves(model(*inputs))
    return [leaf for leaf in leaves if isinstance(leaf, torch.Tensor)]


def output_mismatch(wanted: list[torch.Tensor], model: nn.Module, inputs: Tensors) -> str | None:
    """Return how the outputs of a module differ from the expected ones; None if they are equal."""
    try:
        got = run(model, inputs)
    except FORWARD_ERRORS as error:
        return f"its forward pass stores their number ({short_message(error)})"
    for one, other in zip(wanted, got, strict=True):
        if one.shape != other.shape:
            return f"an output shape would change from {tuple(one.shape)} to {tuple(other.shape)}"
        limit = CLOSE * max(1e-6, float(one.abs().max())) if one.is_floating_point() else 0.0
        if not bool(((one - other).abs() <= limit).all()) and bool(one.isfinite().all()):
            return "its forward pass depends on their number in an unsupported way"
    return None


def _try_group(
    model: nn.Module,
    channel_groups: ChannelGroups,
    group: ChannelGroup,
    inputs: Tensors,
    found: dict[str, tuple[StoredSize, ...]],
    refused: dict[str, str],
) -> None:
    """Try a group alone: first without setting attributes, then with all candidates, then with fewer of them."""
    removed = _every_other([group])
    candidates = list(_candidates(model, channel_groups, group))
    combinations = (
        chosen
        for size in (0, *range(len(candidates), 0, -1))
        for chosen in itertools.combinations(candidates, size)
        if len({(one.owner, one.attribute, one.place) for one in chosen}) == size
    )
    why = None
    for chosen in itertools.islice(combinations, TRIES):
        problem = find_mismatch(model, channel_groups, removed, chosen, inputs)
        if problem is None:
            found[group.info.name] = chosen
            return
        why = why or problem
    tried = f", and setting {', '.join(map(str, candidates))} does not help" if candidates else ""
    refused[group.info.name] = f"{why}{tried}"


def _candidates(model: nn.Module, channel_groups: ChannelGroups, group: ChannelGroup) -> Iterator[StoredSize]:
    """Yield the attributes that store a number which a cut of the group changes, in modules that may read them."""
    seen = set()
    for use in channel_groups.channel_map.size_uses:
        roots = _units(channel_groups, use)
        if not set(group.roots) & set(roots):
            continue
        for attribute, place, value in _integers(model.get_submodule(use.owner)):
            stored_sizes = StoredSize(use.owner, attribute, place, roots)
            key = (use.owner, attribute, place, tuple(sorted(roots)))
            if value == len(roots) and key not in seen:
                seen.add(key)
                yield stored_sizes


def _integers(module: nn.Module) -> Iterator[tuple[str, int | None, int]]:
    for name, value in vars(module).items():
        if type(value) is int:
            yield name, None, value
        elif isinstance(value, (tuple, list)):
            yield from ((name, place, one) for place, one in enumerate(value) if type(one) is int)


def _set(module: nn.Module, stored_sizes: StoredSize, value: int) -> None:
    if stored_sizes.place is None:
        setattr(module, stored_sizes.attribute, value)
        return
    values: Any = list(getattr(module, stored_sizes.attribute))
    values[stored_sizes.place] = value
    setattr(module, stored_sizes.attribute, type(getattr(module, stored_sizes.attribute))(values))


def _units(channel_groups: ChannelGroups, use: SizeUse) -> tuple[int, ...]:
    axis_ids: Ids = channel_groups.channel_map.union_find.roots(np.asarray(use.ids))
    return tuple(axis_ids.tolist())


def _every_other(channel_groups: Sequence[ChannelGroup]) -> set[int]:
    return {root for group in channel_groups for root in group.roots[1::2]}


def _flat(found: dict[str, tuple[StoredSize, ...]]) -> tuple[StoredSize, ...]:
    return tuple(dict.fromkeys(stored_sizes for one in found.values() for stored_sizes in one))
