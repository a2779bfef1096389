"""Where a PyTorch module can be cut: its units sorted into groups, and what each group's channels are of each layer."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np
from torch import nn

from edgekit_converters.prune import Channels, Group
from edgekit_converters.prune.torch.channels import Followed
from edgekit_converters.prune.torch.union_find import NONE, Ids


@dataclass(frozen=True)
class ChannelGroup:
    """A group, and the unit that each of its channels is."""

    group: Group
    units: tuple[int, ...]  # by channel


@dataclass(frozen=True)
class ChannelGroups:
    """All groups of a module, and the layers that stay whole."""

    followed: Followed
    seams: tuple[ChannelGroup, ...]
    whole: tuple[tuple[str, str], ...]  # (layer, why)

    def lines(self) -> dict[tuple[str, str], Ids]:
        """Return the units of what each layer takes, gives or lets through: (layer, side) -> (n,)."""
        return {key: self.followed.units.roots(ids) for key, ids in self.followed.members.items()}

    def channels(self, line: Ids) -> Channels:
        """Return how many entries there are along a line of units, in terms of the groups."""
        units = self.followed.units.roots(line)
        known = {unit: seam.group for seam in self.seams for unit in seam.units}
        counts = Counter(known[unit].name for unit in units.tolist() if unit in known)
        widths = {seam.group.name: seam.group.width for seam in self.seams}
        parts = tuple((name, count // widths[name]) for name, count in counts.items())
        return Channels(len(units) - sum(counts.values()), parts)

    def without(self, refused: Mapping[str, str]) -> ChannelGroups:
        """Return the same with some groups, by name, left whole, each for a reason."""
        left = tuple(seam for seam in self.seams if seam.group.name not in refused)
        added = [(layer, why) for s in self.seams if (why := refused.get(s.group.name)) for layer in s.group.makers]
        return ChannelGroups(self.followed, left, (*self.whole, *added))

    def gone(self, kept: Mapping[str, Iterable[int]]) -> set[int]:
        """Return the units that go where of some groups, by name, only some channels stay."""
        found: set[int] = set()
        for seam in self.seams:
            if seam.group.name in kept:
                stay = set(kept[seam.group.name])
                found |= {unit for channel, unit in enumerate(seam.units) if channel not in stay}
        return found


def seams(followed: Followed) -> ChannelGroups:
    """Sort a module's units into groups: units are alike when they are as many entries of the same layers."""
    lines = {key: followed.units.roots(ids) for key, ids in followed.members.items()}
    entries: dict[int, Counter[tuple[str, str]]] = defaultdict(Counter)
    for key, line in lines.items():
        for unit in line[line != NONE].tolist():
            entries[unit][key] += 1
    alike: dict[frozenset[tuple[tuple[str, str], int]], list[int]] = defaultdict(list)
    for unit, counts in entries.items():  # in the order of execution, and of the first maker's outputs
        if followed.units.why(unit) is None and any(side == "out" for _, side in counts):
            alike[frozenset(counts.items())].append(unit)
    found: list[ChannelGroup] = []
    for units in alike.values():
        if len(units) > 1:
            found.append(
                ChannelGroup(
                    _group(followed, entries[units[0]], len(units), {one.group.name for one in found}), tuple(units)
                )
            )
    cut = {unit for seam in found for unit in seam.units}
    return ChannelGroups(followed, tuple(found), tuple(_whole(followed, lines, cut)))


def _group(followed: Followed, entries: Counter[tuple[str, str]], width: int, names: set[str]) -> Group:
    makers = tuple(layer for layer, side in entries if side == "out")
    users = tuple(layer for layer, side in entries if side == "in" and layer not in makers)
    name = makers[0]
    number = 1
    while name in names:
        number += 1
        name = f"{makers[0]}#{number}"
    dense = all(isinstance(followed.modules[layer], nn.Linear) for layer in makers)
    several = all(count > 1 for (layer, side), count in entries.items() if layer in makers and side == "out")
    kind = (
        "heads" if dense and several and _attends(followed, entries, makers[0]) else "neurons" if dense else "channels"
    )
    return Group(name, kind, width, makers, users)


def _attends(followed: Followed, entries: Counter[tuple[str, str]], maker: str) -> bool:
    units = set(followed.units.roots(followed.members[maker, "out"]).tolist())
    return any(units & set(followed.units.roots(ids).ravel().tolist()) for ids in followed.heads)


def _whole(followed: Followed, lines: dict[tuple[str, str], Ids], cut: set[int]) -> Iterable[tuple[str, str]]:
    for (layer, side), line in lines.items():
        units = set(line.tolist())
        if side == "out" and not units & cut:
            whys = [why for unit in sorted(units) if (why := followed.units.why(unit))]
            yield layer, whys[0] if whys else "has a single channel that could go"
    yield from followed.strange.items()


def places(line: Ids, gone: set[int]) -> list[int]:
    """Return where along a line of units there are some that go."""
    return np.flatnonzero(np.isin(line, list(gone))).tolist() if gone else []
