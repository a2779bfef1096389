"""Cut a PyTorch module, and prove that what is left computes what it should.

Forward passes hold numbers of channels (``x.view(-1, self.hidden)``): where one does, the attribute that holds it is
looked for and set. Whether a cut is right is not believed but tried, before it is offered: a module without some
channels has to give what the whole module gives when no layer reads those channels.
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
from edgekit_converters.prune.torch.channel_groups import ChannelGroup, ChannelGroups, places
from edgekit_converters.prune.torch.channels import Site
from edgekit_converters.prune.torch.layer_surgery import blank_inputs, cut_layer
from edgekit_converters.prune.torch.union_find import Ids

CLOSE = 1e-4  # of the largest output: float32 sums in another order
TRIES = 64  # combinations of attributes

Tensors = tuple[torch.Tensor, ...]


@dataclass(frozen=True)
class ReplacedParameter:
    """An attribute that holds a number of channels."""

    owner: str  # path of the module
    attribute: str
    place: int | None  # in a tuple or list
    ids: tuple[int, ...]  # units whose number it is

    def __str__(self) -> str:
        place = "" if self.place is None else f"[{self.place}]"
        return f"{self.owner}.{self.attribute}{place}".lstrip(".")


def carve(model: nn.Module, seams: ChannelGroups, gone: set[int], held: Sequence[ReplacedParameter] = ()) -> None:
    """Take units out of a module, and set the attributes that hold their number."""
    for (layer, side), line in seams.lines().items():
        out = places(line, gone)
        if out:
            cut_layer(model, layer, side, out)
    for one in held:
        _set(model.get_submodule(one.owner), one, sum(unit not in gone for unit in one.ids))


def held_numbers(
    model: nn.Module, seams: ChannelGroups, inputs: Tensors
) -> tuple[ChannelGroups, tuple[ReplacedParameter, ...]]:
    """Return the groups that can really be cut, and the attributes to set then.

    Each group whose number of channels may be held somewhere is tried by itself, then all together; every other
    channel goes.
    """
    found: dict[str, tuple[ReplacedParameter, ...]] = {}
    refused: dict[str, str] = {}
    for seam in seams.seams:
        if any(set(seam.units) & set(_units(seams, site)) for site in seams.followed.sites):
            _try(model, seams, seam, inputs, found, refused)
    left = seams.without(refused)
    together = _every_other(left.seams)
    if left.seams and (why := difference(model, left, together, _flat(found), inputs)):
        refused = {
            s.group.name: why for s in left.seams if difference(model, left, _every_other([s]), _flat(found), inputs)
        }
        left = left.without(refused or {seam.group.name: why for seam in left.seams})
    names = {seam.group.name for seam in left.seams}
    return left, _flat({name: held for name, held in found.items() if name in names})


def difference(
    model: nn.Module, seams: ChannelGroups, gone: set[int], held: Sequence[ReplacedParameter], inputs: Tensors
) -> str | None:
    """Say why a module without some units is not what it should be; None when it is.

    It should give what the whole one gives whose layers read nothing of these units.
    """
    blank = copy.deepcopy(model)
    for (layer, side), line in seams.lines().items():
        if side == "in" and (out := places(line, gone)):
            blank_inputs(blank, layer, out)
    small = copy.deepcopy(model)
    carve(small, seams, gone, held)
    return unequal(run(blank, inputs), small, inputs)


def run(model: nn.Module, inputs: Tensors) -> list[torch.Tensor]:
    """Return a module's outputs."""
    with torch.no_grad():
        leaves = torch.utils._pytree.tree_leaves(model(*inputs))
    return [leaf for leaf in leaves if isinstance(leaf, torch.Tensor)]


def unequal(wanted: list[torch.Tensor], model: nn.Module, inputs: Tensors) -> str | None:
    """Say how far a module is from giving what is wanted; None when it gives that."""
    try:
        got = run(model, inputs)
    except FORWARD_ERRORS as error:
        return f"its forward pass holds their number ({short_message(error)})"
    for one, other in zip(wanted, got, strict=True):
        if one.shape != other.shape:
            return f"an output would change from {tuple(one.shape)} to {tuple(other.shape)}"
        limit = CLOSE * max(1e-6, float(one.abs().max())) if one.is_floating_point() else 0.0
        if not bool(((one - other).abs() <= limit).all()) and bool(one.isfinite().all()):
            return "its forward pass depends on their number in a way that is not followed"
    return None


def _try(
    model: nn.Module,
    seams: ChannelGroups,
    seam: ChannelGroup,
    inputs: Tensors,
    found: dict[str, tuple[ReplacedParameter, ...]],
    refused: dict[str, str],
) -> None:
    """Try a group by itself, first without setting anything, then with all candidates, then with fewer of them."""
    gone = _every_other([seam])
    candidates = list(_candidates(model, seams, seam))
    combinations = (
        chosen
        for size in (0, *range(len(candidates), 0, -1))
        for chosen in itertools.combinations(candidates, size)
        if len({(one.owner, one.attribute, one.place) for one in chosen}) == size
    )
    why = None
    for chosen in itertools.islice(combinations, TRIES):
        problem = difference(model, seams, gone, chosen, inputs)
        if problem is None:
            found[seam.group.name] = chosen
            return
        why = why or problem
    tried = f", and setting {', '.join(map(str, candidates))} does not help" if candidates else ""
    refused[seam.group.name] = f"{why}{tried}"


def _candidates(model: nn.Module, seams: ChannelGroups, seam: ChannelGroup) -> Iterator[ReplacedParameter]:
    """The attributes that hold a number which cutting a group changes, in modules whose forward pass may read it."""
    seen = set()
    for site in seams.followed.sites:
        units = _units(seams, site)
        if not set(seam.units) & set(units):
            continue
        for attribute, place, value in _numbers(model.get_submodule(site.owner)):
            held = ReplacedParameter(site.owner, attribute, place, units)
            key = (site.owner, attribute, place, tuple(sorted(units)))
            if value == len(units) and key not in seen:
                seen.add(key)
                yield held


def _numbers(module: nn.Module) -> Iterator[tuple[str, int | None, int]]:
    for name, value in vars(module).items():
        if type(value) is int:
            yield name, None, value
        elif isinstance(value, (tuple, list)):
            yield from ((name, place, one) for place, one in enumerate(value) if type(one) is int)


def _set(module: nn.Module, held: ReplacedParameter, value: int) -> None:
    if held.place is None:
        setattr(module, held.attribute, value)
        return
    values: Any = list(getattr(module, held.attribute))
    values[held.place] = value
    setattr(module, held.attribute, type(getattr(module, held.attribute))(values))


def _units(seams: ChannelGroups, site: Site) -> tuple[int, ...]:
    line: Ids = seams.followed.units.roots(np.asarray(site.ids))
    return tuple(line.tolist())


def _every_other(seams: Sequence[ChannelGroup]) -> set[int]:
    return {unit for seam in seams for unit in seam.units[1::2]}


def _flat(found: dict[str, tuple[ReplacedParameter, ...]]) -> tuple[ReplacedParameter, ...]:
    return tuple(dict.fromkeys(held for one in found.values() for held in one))
