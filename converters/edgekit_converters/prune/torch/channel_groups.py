"""Sort the element sets of a PyTorch module into channel groups."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np
from torch import nn

from edgekit_converters.prune import Channels, Group
from edgekit_converters.prune.torch.channels import ChannelMap
from edgekit_converters.prune.torch.union_find import UNTRACKED, Ids


@dataclass(frozen=True)
class ChannelGroup:
    """A group, and for each of its channels the set of elements that are cut with it."""

    info: Group
    roots: tuple[int, ...]  # by channel


@dataclass(frozen=True)
class ChannelGroups:
    """All channel groups of a module, and the layers that cannot be cut."""

    channel_map: ChannelMap
    groups: tuple[ChannelGroup, ...]
    unprunable: tuple[tuple[str, str], ...]  # (layer, why)

    def layer_roots(self) -> dict[tuple[str, str], Ids]:
        """Return the sets of the elements that each layer reads, produces or passes on: (layer, side) -> (n,)."""
        return {key: self.channel_map.union_find.roots(ids) for key, ids in self.channel_map.layer_ids.items()}

    def channels(self, axis_ids: Ids) -> Channels:
        """Return the size of an axis as a function of the widths of the groups."""
        roots = self.channel_map.union_find.roots(axis_ids)
        known = {root: group.info for group in self.groups for root in group.roots}
        counts = Counter(known[root].name for root in roots.tolist() if root in known)
        widths = {group.info.name: group.info.width for group in self.groups}
        parts = tuple((name, count // widths[name]) for name, count in counts.items())
        return Channels(len(roots) - sum(counts.values()), parts)

    def without(self, refused: Mapping[str, str]) -> ChannelGroups:
        """Return the same without some groups, by name, each with a reason."""
        left = tuple(group for group in self.groups if group.info.name not in refused)
        added = [(layer, why) for s in self.groups if (why := refused.get(s.info.name)) for layer in s.info.producers]
        return ChannelGroups(self.channel_map, left, (*self.unprunable, *added))

    def removed_roots(self, kept: Mapping[str, Iterable[int]]) -> set[int]:
        """Return the sets to remove if only some channels of some groups are kept."""
        found: set[int] = set()
        for group in self.groups:
            if group.info.name in kept:
                stay = set(kept[group.info.name])
                found |= {root for channel, root in enumerate(group.roots) if channel not in stay}
        return found


def group_channels(channel_map: ChannelMap) -> ChannelGroups:
    """Sort the sets into groups: sets of one group have equally many elements in the same layers."""
    layer_ids = {key: channel_map.union_find.roots(ids) for key, ids in channel_map.layer_ids.items()}
    entries: dict[int, Counter[tuple[str, str]]] = defaultdict(Counter)
    for key, axis_ids in layer_ids.items():
        for root in axis_ids[axis_ids != UNTRACKED].tolist():
            entries[root][key] += 1
    by_entries: dict[frozenset[tuple[tuple[str, str], int]], list[int]] = defaultdict(list)
    for root, counts in entries.items():  # in the order of execution, and of the first maker's outputs
        if channel_map.union_find.why(root) is None and any(side == "out" for _, side in counts):
            by_entries[frozenset(counts.items())].append(root)
    found: list[ChannelGroup] = []
    for roots in by_entries.values():
        if len(roots) > 1:
            found.append(
                ChannelGroup(
                    _group(channel_map, entries[roots[0]], len(roots), {one.info.name for one in found}), tuple(roots)
                )
            )
    cut = {root for group in found for root in group.roots}
    return ChannelGroups(channel_map, tuple(found), tuple(_unprunable(channel_map, layer_ids, cut)))


def _group(channel_map: ChannelMap, entries: Counter[tuple[str, str]], width: int, names: set[str]) -> Group:
    producers = tuple(layer for layer, side in entries if side == "out")
    consumers = tuple(layer for layer, side in entries if side == "in" and layer not in producers)
    name = producers[0]
    number = 1
    while name in names:
        number += 1
        name = f"{producers[0]}#{number}"
    dense = all(isinstance(channel_map.modules[layer], nn.Linear) for layer in producers)
    several = all(count > 1 for (layer, side), count in entries.items() if layer in producers and side == "out")
    kind = (
        "heads"
        if dense and several and _attends(channel_map, entries, producers[0])
        else "neurons"
        if dense
        else "channels"
    )
    return Group(name, kind, width, producers, consumers)


def _attends(channel_map: ChannelMap, entries: Counter[tuple[str, str]], maker: str) -> bool:
    roots = set(channel_map.union_find.roots(channel_map.layer_ids[maker, "out"]).tolist())
    return any(roots & set(channel_map.union_find.roots(ids).ravel().tolist()) for ids in channel_map.attention_ids)


def _unprunable(
    channel_map: ChannelMap, layer_ids: dict[tuple[str, str], Ids], cut: set[int]
) -> Iterable[tuple[str, str]]:
    for (layer, side), axis_ids in layer_ids.items():
        roots = set(axis_ids.tolist())
        if side == "out" and not roots & cut:
            reasons = [why for root in sorted(roots) if (why := channel_map.union_find.why(root))]
            yield layer, reasons[0] if reasons else "has a single channel"
    yield from channel_map.unsupported.items()


def positions(axis_ids: Ids, removed: set[int]) -> list[int]:
    """Return the positions along an axis whose elements are removed."""
    return np.flatnonzero(np.isin(axis_ids, list(removed))).tolist() if removed else []
