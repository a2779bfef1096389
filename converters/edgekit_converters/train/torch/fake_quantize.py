"""Fake quantization of PyTorch modules: their operations are listened to as they are called, nothing is traced.

What an operation gives is not rounded by it, but by whatever takes it: only then is known whether that is a
normalization or an activation that becomes part of the operation.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves, tree_map
from torch.utils.weak import WeakIdKeyDictionary

from edgekit_converters.data.samples import Array
from edgekit_converters.frameworks.live_model import Arrays, LoadedModel
from edgekit_converters.train import Settings
from edgekit_converters.train.fake_quantize import (
    ARITHMETICS,
    FORGOTTEN,
    HALF,
    RANGES,
    SMALLEST,
    Arithmetic,
    Grid,
    Role,
    grid_of,
    swallows,
)
from edgekit_converters.train.torch.quantized_operators import (
    LAYERS,
    LOOKS,
    Rounds,
    argument,
    factors,
    gated,
    is_deep,
    normalized,
    role_of,
    weight_steps,
)

Phase = Literal["run", "observe", "count"]


@dataclass
class Given:
    """A tensor that nothing has taken yet; without a grid it stays in floating point."""

    role: Role
    grid: Grid | None
    sums: torch.Tensor | None = None  # of a layer: the steps its sums are counted in, for each channel
    rounded: torch.Tensor | None = None


def fake_quantized(live: LoadedModel, settings: Settings) -> TorchFakeQuantize | None:
    """Return what imitates the arithmetic that the settings ask for, where they do."""
    scheme = settings.quantize_aware
    return TorchFakeQuantize(live, ARITHMETICS[scheme]) if scheme else None


class TorchFakeQuantize(TorchFunctionMode):
    """Has a module compute as its quantized artifact would, until ``remove``; its weights stay as they are.

    Args:
        live: its module widens the ranges of activations in training mode; where there is none, nothing is rounded.
        arithmetic: of the scheme.
    """

    def __init__(self, live: LoadedModel, arithmetic: Arithmetic) -> None:
        super().__init__()
        module, self._run = live.handle.module, live.run
        self._ranges: dict[str, torch.Tensor] = {}  # point: (low, high)
        self._module, self._arithmetic = module, arithmetic
        self._phase: Phase = "run"
        self._takers: Counter[str] = Counter()  # of what is made at a point
        looked_up = {id(one.weight) for one in module.modules() if isinstance(one, torch.nn.Embedding)}
        named = module.named_parameters(remove_duplicate=False)
        self._parameters = {name: one for name, one in named if id(one) not in looked_up}
        self._layers: dict[int, tuple[int, Arithmetic]] = {}  # id of a parameter that layers multiply by: its axis
        self._where: list[str] = []
        self._calls: Counter[str] = Counter()
        self._given: Any = WeakIdKeyDictionary()
        self._hooks = [
            handle for name, part in module.named_modules() if part is not module for handle in self._watch(name, part)
        ]
        self._hooks += [
            module.register_forward_pre_hook(self._enter),
            module.register_forward_hook(self._leave, always_call=True),
        ]

    def remove(self) -> None:
        """Leave the module as it was."""
        for hook in self._hooks:
            hook.remove()

    def run(self, batch: Arrays) -> Arrays:
        """What the artifact would give; the first batch gives the ranges of activations."""
        if self._arithmetic.activation_bits and not self._ranges:
            for self._phase, some in (("count", [one[:1] for one in batch]), ("observe", batch)):
                self._run(some)
            self._phase = "run"
        return self._run(batch)

    def state(self) -> dict[str, Array]:
        """The ranges by their points."""
        return {f"{RANGES}{point}": kept.numpy().copy() for point, kept in self._ranges.items()}

    def stored(self) -> dict[str, torch.Tensor]:
        """The parameters that layers were seen to multiply by, rounded: integers say just these."""
        return {
            name: rounded_weights(one.detach(), *self._layers[id(one)])
            for name, one in self._parameters.items()
            if id(one) in self._layers
        }

    def restore(self, state: dict[str, Array]) -> dict[str, Array]:
        """Take over ranges, forget all others, and return the rest of a state."""
        found = {name.removeprefix(RANGES): array for name, array in state.items() if name.startswith(RANGES)}
        self._ranges = {point: torch.from_numpy(np.array(array)) for point, array in found.items()}
        return {name: array for name, array in state.items() if not name.startswith(RANGES)}

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run an operation with everything it takes rounded, unless it is part of what gave it."""
        name, kwargs = getattr(func, "__name__", ""), kwargs or {}
        if name in LOOKS:
            return func(*args, **kwargs)
        role = role_of(name, args, kwargs)
        givers = [given for leaf in tree_leaves((args, kwargs)) if (given := self._giver(leaf))]
        if self._phase == "count":
            self._takers.update(one.grid.point for one in givers if one.grid)
        alone = role is Role.NORM and not all(self._part_of(role, one) for one in givers)
        if name.endswith("_") and not name.startswith("__"):
            self._round_in_place(role, args)
        args, kwargs = tree_map(lambda leaf: self._taken(role, leaf), (args, kwargs))
        if name in LAYERS and self._phase == "run":
            args, kwargs = self._weighted(name, args, kwargs)
        sums = self._sums(name, role, givers, (args, kwargs))
        result = func(*args, **kwargs)
        if alone or name == "silu":
            rounds = self._rounds()
            result = normalized(args, kwargs, rounds) if alone else gated(args[0], rounds)
        self._give(result, role, [one.grid for one in givers], sums)
        return result

    def _watch(self, name: str, part: torch.nn.Module) -> list[Any]:
        return [
            part.register_forward_pre_hook(lambda *_: self._where.append(name)),
            part.register_forward_hook(lambda *_: self._where.pop() and None),
        ]

    def _enter(self, _module: Any, args: Any) -> Any:
        self._where, self._calls, self._given = [], Counter(), WeakIdKeyDictionary()
        if self._phase == "count":
            self._takers.clear()
        for tensor in tree_leaves(args):
            self._give(tensor, Role.INPUT, [])
        self.__enter__()
        return args

    def _leave(self, _module: Any, _args: Any, result: Any) -> Any:
        self.__exit__(None, None, None)
        if self._phase == "count":
            givers = [given for leaf in tree_leaves(result) if (given := self._giver(leaf))]
            self._takers.update(one.grid.point for one in givers if one.grid)
        return tree_map(lambda leaf: self._taken(Role.OTHER, leaf), result)

    def _give(self, result: Any, role: Role, taken: list[Grid | None], sums: torch.Tensor | None = None) -> None:
        """Note what an operation gave."""
        if self._arithmetic.activation_bits:
            for tensor in tree_leaves(result):
                if isinstance(tensor, torch.Tensor) and tensor.is_floating_point():
                    self._given[tensor] = Given(role, grid_of(role, self._point(), taken, self._arithmetic), sums)

    def _point(self) -> str:
        """A name that is the same in every run of the module."""
        where = self._where[-1] if self._where else ""
        self._calls[where] += 1
        return f"{where}:{self._calls[where]}"

    def _giver(self, leaf: Any) -> Given | None:
        given: Given | None = self._given.get(leaf) if isinstance(leaf, torch.Tensor) else None
        return given

    def _part_of(self, role: Role, given: Given) -> bool:
        """Tell whether an operation of a role becomes part of what gave a tensor."""
        return given.grid is not None and swallows(role, given.role, alone=self._takers[given.grid.point] < 2)

    def _taken(self, role: Role, leaf: Any) -> Any:
        """What an operation of a role takes in the place of a tensor."""
        given = self._giver(leaf)
        if given is None or given.grid is None or given.role is Role.KEEPS:
            return leaf
        if self._part_of(role, given):
            return _counted(leaf, given.sums) if role is Role.JOINS else leaf
        if given.rounded is None:
            given.rounded = self._rounded(leaf, given.grid, given.sums)
        return given.rounded

    def _round_in_place(self, role: Role, args: Any) -> None:
        """Round the tensor an operation works in: whoever holds it must see the result in it."""
        given = self._giver(args[0]) if args else None
        if given is not None and not self._part_of(role, given):
            rounded = self._taken(role, args[0])
            del self._given[args[0]]
            args[0].add_((rounded - args[0]).detach())

    def _rounds(self) -> Rounds:
        """What rounds between the operators of one operation."""
        where = self._point()

        def rounds(values: torch.Tensor, name: str, role: Role = Role.OTHER) -> torch.Tensor:
            grid = grid_of(role, f"{where}/{name}", [], self._arithmetic)
            if grid is None or not self._arithmetic.activation_bits:
                return values
            if role is Role.CONSTANT and self._phase == "run":
                plain = values.detach()
                return through(values, spread(plain, torch.stack(torch.aminmax(plain)), self._arithmetic))
            return values if role is Role.CONSTANT else self._rounded(values, grid)

        return rounds

    def _sums(self, name: str, role: Role, givers: list[Given], given: Any) -> torch.Tensor | None:
        """The steps that what a layer adds up is counted in, its bias too; None where they are too fine, or unknown."""
        first, using = givers[0] if givers else None, self._phase == "run" and not self._module.training
        if first is None or first.grid is None or self._arithmetic.activation_bits != 8 or not using:
            return None
        args, kwargs = given
        if role is Role.LAYER:
            found = weight_steps(name, args, kwargs, self._arithmetic)
            return None if found is None else found * steps(self._ends(first.grid), self._arithmetic)[0]
        if first.sums is None or role is Role.JOINS or not self._part_of(role, first):
            return None
        return first.sums * factors(args, kwargs).abs().reshape(first.sums.shape) if role is Role.NORM else first.sums

    def _ends(self, grid: Grid) -> torch.Tensor:
        return torch.tensor(grid.ends) if grid.ends else self._ranges[grid.point]

    def _weighted(self, name: str, args: Any, kwargs: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
        """Round the weights among a layer's arguments."""
        args, kwargs = list(args), dict(kwargs)
        for place, word, axis in LAYERS[name]:
            weights = argument(args, kwargs, place, word)
            if weights is not None:
                arithmetic = self._arithmetic.deep if is_deep(name, weights, args, kwargs) else self._arithmetic
                if isinstance(weights, torch.nn.Parameter):
                    self._layers[id(weights)] = axis, arithmetic
                rounded = rounded_weights(weights, axis, arithmetic)
                if word in kwargs:
                    kwargs[word] = rounded
                else:
                    args[place] = rounded
        return args, kwargs

    def _rounded(self, tensor: torch.Tensor, grid: Grid, sums: torch.Tensor | None = None) -> torch.Tensor:
        """Round a tensor to a grid."""
        values = tensor.detach().float()
        if self._phase == "count":
            return tensor
        if grid.widens and (self._module.training or self._phase == "observe"):
            seen = torch.stack(torch.aminmax(values)).clone()
            self._ranges[grid.point] = _widened(self._ranges.get(grid.point, seen), seen)
        if self._phase == "observe" or (grid.ends is None and grid.point not in self._ranges):
            return tensor
        rounded = spread(_counted(values, sums), self._ends(grid), self._arithmetic, halved=grid.halved)
        return through(tensor, rounded)


def rounded_weights(weights: torch.Tensor, axis: int, arithmetic: Arithmetic) -> torch.Tensor:
    """:func:`fake_quantize.rounded_weights`, with the gradient of what was not rounded."""
    values = weights.detach()
    summed = [other for other in range(values.ndim) if other != axis]
    step = values.abs().amax(dim=summed, keepdim=True).clamp_min(SMALLEST) / arithmetic.weight_levels
    return through(weights, (values / step).round() * step)


def through(tensor: torch.Tensor, rounded: torch.Tensor) -> torch.Tensor:
    """The rounded values with the gradient of the others; inside a range it is that of no rounding."""
    return tensor + (rounded.to(tensor.dtype) - tensor).detach()


def spread(values: torch.Tensor, ends: torch.Tensor, arithmetic: Arithmetic, *, halved: bool = False) -> torch.Tensor:
    """:func:`fake_quantize.rounded_activations`."""
    step, zero = steps(ends, arithmetic)
    top = 2 ** (arithmetic.activation_bits - 1) - 1
    integers = values / step + zero
    whole = integers.sign() * (integers.abs() + HALF).floor() if halved else (values / step).round() + zero
    return (whole.clamp(-top if arithmetic.symmetric else -top - 1, top) - zero) * step


def steps(ends: torch.Tensor, arithmetic: Arithmetic) -> tuple[torch.Tensor, torch.Tensor]:
    """:func:`fake_quantize.steps`."""
    if arithmetic.symmetric:
        top = 2 ** (arithmetic.activation_bits - 1) - 1
        return ends.abs().max().clamp_min(SMALLEST) / top, torch.zeros(())
    low, high = ends.clamp_max(0)[0], ends.clamp_min(0)[1]
    step = (high - low).clamp_min(SMALLEST) / (2**arithmetic.activation_bits - 1)
    return step, (-low / step).round() - 2 ** (arithmetic.activation_bits - 1)


def _counted(values: torch.Tensor, sums: torch.Tensor | None) -> torch.Tensor:
    """The sums of a layer in whole steps."""
    return values if sums is None else (values / sums).round() * sums


def _widened(kept: torch.Tensor, seen: torch.Tensor) -> torch.Tensor:
    """:func:`fake_quantize.widened`."""
    eased = kept + FORGOTTEN * (seen - kept)
    return torch.stack((torch.minimum(seen[0], eased[0]), torch.maximum(seen[1], eased[1])))
