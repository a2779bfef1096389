"""Fake quantization of PyTorch modules: operations are intercepted while they run, without tracing.

The result of an operation is rounded by the operation that reads it, because only then is it known whether that is a
normalization or an activation that is fused into it.
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
from edgekit_converters.frameworks.loaded_model import Arrays, LoadedModel
from edgekit_converters.train import Settings
from edgekit_converters.train.fake_quantize import (
    ARITHMETICS,
    RANGE_DECAY,
    RANGES,
    ROUND_HALF_UP,
    SMALLEST,
    Arithmetic,
    Grid,
    Role,
    RoundBetween,
    fuses,
    grid_of,
)
from edgekit_converters.train.torch.operator_roles import (
    LAYERS,
    METADATA,
    argument,
    factors,
    needs_8_bits,
    normalized,
    role_of,
    silu,
    weight_steps,
)

Phase = Literal["run", "observe", "count"]


@dataclass
class PendingRounding:
    """How to round a tensor that no operation has read yet; without a grid it stays in floating point."""

    role: Role
    grid: Grid | None
    sums: torch.Tensor | None = None  # of a layer: the steps its sums are counted in, for each channel
    rounded: torch.Tensor | None = None


def open_fake_quantizer(live: LoadedModel, settings: Settings) -> TorchFakeQuantize | None:
    """Return the fake quantization for the settings; None if they have none."""
    scheme = settings.quantize_aware
    return TorchFakeQuantize(live, ARITHMETICS[scheme]) if scheme else None


class TorchFakeQuantize(TorchFunctionMode):
    """Runs a module with the arithmetic of its quantized artifact, until ``remove``; its weights stay unchanged.

    Args:
        live: its module updates the ranges of activations in training mode; without ranges nothing is rounded.
        arithmetic: of the scheme.
    """

    def __init__(self, live: LoadedModel, arithmetic: Arithmetic) -> None:
        super().__init__()
        module, self._run = live.handle.module, live.run
        self._ranges: dict[str, torch.Tensor] = {}  # point: (low, high)
        self._module, self._arithmetic = module, arithmetic
        self._phase: Phase = "run"
        self._consumers: Counter[str] = Counter()  # of what is made at a point
        looked_up = {id(one.weight) for one in module.modules() if isinstance(one, torch.nn.Embedding)}
        named = module.named_parameters(remove_duplicate=False)
        self._parameters = {name: one for name, one in named if id(one) not in looked_up}
        self._layers: dict[int, tuple[int, Arithmetic]] = {}  # id of a parameter that layers multiply by: its axis
        self._where: list[str] = []
        self._calls: Counter[str] = Counter()
        self._outputs: Any = WeakIdKeyDictionary()
        self._hooks = [
            handle for name, part in module.named_modules() if part is not module for handle in self._watch(name, part)
        ]
        self._hooks += [
            module.register_forward_pre_hook(self._enter),
            module.register_forward_hook(self._leave, always_call=True),
        ]

    def remove(self) -> None:
        """Remove all hooks from the module."""
        for hook in self._hooks:
            hook.remove()

    def run(self, batch: Arrays) -> Arrays:
        """Return what the artifact would compute; the first batch calibrates the ranges of activations."""
        if self._arithmetic.activation_bits and not self._ranges:
            for self._phase, some in (("count", [one[:1] for one in batch]), ("observe", batch)):
                self._run(some)
            self._phase = "run"
        return self._run(batch)

    def state(self) -> dict[str, Array]:
        """Return the ranges by their points."""
        return {f"{RANGES}{point}": kept.numpy().copy() for point, kept in self._ranges.items()}

    def quantized_parameters(self) -> dict[str, torch.Tensor]:
        """Return the rounded parameters of layers, which quantization represents exactly."""
        return {
            name: fake_quantize_weights(one.detach(), *self._layers[id(one)])
            for name, one in self._parameters.items()
            if id(one) in self._layers
        }

    def restore(self, state: dict[str, Array]) -> dict[str, Array]:
        """Restore the ranges, and return the rest of a state."""
        found = {name.removeprefix(RANGES): array for name, array in state.items() if name.startswith(RANGES)}
        self._ranges = {point: torch.from_numpy(np.array(array)) for point, array in found.items()}
        return {name: array for name, array in state.items() if not name.startswith(RANGES)}

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run an operation on rounded inputs, except for inputs that it is fused with."""
        name, kwargs = getattr(func, "__name__", ""), kwargs or {}
        if name in METADATA:
            return func(*args, **kwargs)
        role = role_of(name, args, kwargs)
        producers = [given for leaf in tree_leaves((args, kwargs)) if (given := self._producer(leaf))]
        if self._phase == "count":
            self._consumers.update(one.grid.point for one in producers if one.grid)
        alone = role is Role.NORM and not all(self._fuses_with(role, one) for one in producers)
        if name.endswith("_") and not name.startswith("__"):
            self._round_in_place(role, args)
        args, kwargs = tree_map(lambda leaf: self._input(role, leaf), (args, kwargs))
        if name in LAYERS and self._phase == "run":
            args, kwargs = self._weighted(name, args, kwargs)
        sums = self._sums(name, role, producers, (args, kwargs))
        result = func(*args, **kwargs)
        if alone or name == "silu":
            rounds = self._rounds()
            result = normalized(args, kwargs, rounds) if alone else silu(args[0], rounds)
        self._note_output(result, role, [one.grid for one in producers], sums)
        return result

    def _watch(self, name: str, part: torch.nn.Module) -> list[Any]:
        return [
            part.register_forward_pre_hook(lambda *_: self._where.append(name)),
            part.register_forward_hook(lambda *_: self._where.pop() and None),
        ]

    def _enter(self, _module: Any, args: Any) -> Any:
        self._where, self._calls, self._outputs = [], Counter(), WeakIdKeyDictionary()
        if self._phase == "count":
            self._consumers.clear()
        for tensor in tree_leaves(args):
            self._note_output(tensor, Role.INPUT, [])
        self.__enter__()
        return args

    def _leave(self, _module: Any, _args: Any, result: Any) -> Any:
        self.__exit__(None, None, None)
        if self._phase == "count":
            producers = [given for leaf in tree_leaves(result) if (given := self._producer(leaf))]
            self._consumers.update(one.grid.point for one in producers if one.grid)
        return tree_map(lambda leaf: self._input(Role.OTHER, leaf), result)

    def _note_output(self, result: Any, role: Role, taken: list[Grid | None], sums: torch.Tensor | None = None) -> None:
        """Record the result of an operation."""
        if self._arithmetic.activation_bits:
            for tensor in tree_leaves(result):
                if isinstance(tensor, torch.Tensor) and tensor.is_floating_point():
                    self._outputs[tensor] = PendingRounding(
                        role, grid_of(role, self._point(), taken, self._arithmetic), sums
                    )

    def _point(self) -> str:
        """Return a name that is the same in every run of the module."""
        where = self._where[-1] if self._where else ""
        self._calls[where] += 1
        return f"{where}:{self._calls[where]}"

    def _producer(self, leaf: Any) -> PendingRounding | None:
        given: PendingRounding | None = self._outputs.get(leaf) if isinstance(leaf, torch.Tensor) else None
        return given

    def _fuses_with(self, role: Role, given: PendingRounding) -> bool:
        """Tell whether an operation is fused into the one that computed a tensor."""
        return given.grid is not None and fuses(role, given.role, alone=self._consumers[given.grid.point] < 2)

    def _input(self, role: Role, leaf: Any) -> Any:
        """Return a tensor as an operation with a role reads it."""
        given = self._producer(leaf)
        if given is None or given.grid is None or given.role is Role.MOVES:
            return leaf
        if self._fuses_with(role, given):
            return _round_sums(leaf, given.sums) if role is Role.CONCATENATES else leaf
        if given.rounded is None:
            given.rounded = self._rounded(leaf, given.grid, given.sums)
        return given.rounded

    def _round_in_place(self, role: Role, args: Any) -> None:
        """Round the tensor that an in-place operation changes, in its own memory."""
        given = self._producer(args[0]) if args else None
        if given is not None and not self._fuses_with(role, given):
            rounded = self._input(role, args[0])
            del self._outputs[args[0]]
            args[0].add_((rounded - args[0]).detach())

    def _rounds(self) -> RoundBetween:
        """Return the function that rounds between the operators of one operation."""
        where = self._point()

        def rounds(values: torch.Tensor, name: str, role: Role = Role.OTHER) -> torch.Tensor:
            grid = grid_of(role, f"{where}/{name}", [], self._arithmetic)
            if grid is None or not self._arithmetic.activation_bits:
                return values
            if role is Role.CONSTANT and self._phase == "run":
                plain = values.detach()
                return straight_through(
                    values, fake_quantize(plain, torch.stack(torch.aminmax(plain)), self._arithmetic)
                )
            return values if role is Role.CONSTANT else self._rounded(values, grid)

        return rounds

    def _sums(self, name: str, role: Role, producers: list[PendingRounding], given: Any) -> torch.Tensor | None:
        """Return the steps of a layer's accumulator and bias; None if they are too fine, or unknown."""
        first, using = producers[0] if producers else None, self._phase == "run" and not self._module.training
        if first is None or first.grid is None or self._arithmetic.activation_bits != 8 or not using:
            return None
        args, kwargs = given
        if role is Role.LAYER:
            found = weight_steps(name, args, kwargs, self._arithmetic)
            return None if found is None else found * scale_and_zero_point(self._ends(first.grid), self._arithmetic)[0]
        if first.sums is None or role is Role.CONCATENATES or not self._fuses_with(role, first):
            return None
        return first.sums * factors(args, kwargs).abs().reshape(first.sums.shape) if role is Role.NORM else first.sums

    def _ends(self, grid: Grid) -> torch.Tensor:
        return torch.tensor(grid.fixed_range) if grid.fixed_range else self._ranges[grid.point]

    def _weighted(self, name: str, args: Any, kwargs: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
        """Round the weights among the arguments of a layer."""
        args, kwargs = list(args), dict(kwargs)
        for place, word, axis in LAYERS[name]:
            weights = argument(args, kwargs, place, word)
            if weights is not None:
                arithmetic = (
                    self._arithmetic.depthwise if needs_8_bits(name, weights, args, kwargs) else self._arithmetic
                )
                if isinstance(weights, torch.nn.Parameter):
                    self._layers[id(weights)] = axis, arithmetic
                rounded = fake_quantize_weights(weights, axis, arithmetic)
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
        if grid.observes and (self._module.training or self._phase == "observe"):
            seen = torch.stack(torch.aminmax(values)).clone()
            self._ranges[grid.point] = _updated_range(self._ranges.get(grid.point, seen), seen)
        if self._phase == "observe" or (grid.fixed_range is None and grid.point not in self._ranges):
            return tensor
        rounded = fake_quantize(_round_sums(values, sums), self._ends(grid), self._arithmetic, ties_away=grid.ties_away)
        return straight_through(tensor, rounded)


def fake_quantize_weights(weights: torch.Tensor, axis: int, arithmetic: Arithmetic) -> torch.Tensor:
    """:func:`fake_quantize.fake_quantize_weights`, with the gradient of the unrounded weights."""
    values = weights.detach()
    summed = [other for other in range(values.ndim) if other != axis]
    step = values.abs().amax(dim=summed, keepdim=True).clamp_min(SMALLEST) / arithmetic.weight_levels
    return straight_through(weights, (values / step).round() * step)


def straight_through(tensor: torch.Tensor, rounded: torch.Tensor) -> torch.Tensor:
    """Return the rounded values with the gradient of the unrounded ones."""
    return tensor + (rounded.to(tensor.dtype) - tensor).detach()


def fake_quantize(
    values: torch.Tensor, limits: torch.Tensor, arithmetic: Arithmetic, *, ties_away: bool = False
) -> torch.Tensor:
    """:func:`fake_quantize.fake_quantize_activations`."""
    step, zero = scale_and_zero_point(limits, arithmetic)
    top = 2 ** (arithmetic.activation_bits - 1) - 1
    integers = values / step + zero
    whole = integers.sign() * (integers.abs() + ROUND_HALF_UP).floor() if ties_away else (values / step).round() + zero
    return (whole.clamp(-top if arithmetic.symmetric else -top - 1, top) - zero) * step


def scale_and_zero_point(limits: torch.Tensor, arithmetic: Arithmetic) -> tuple[torch.Tensor, torch.Tensor]:
    """:func:`fake_quantize.steps`."""
    if arithmetic.symmetric:
        top = 2 ** (arithmetic.activation_bits - 1) - 1
        return limits.abs().max().clamp_min(SMALLEST) / top, torch.zeros(())
    low, high = limits.clamp_max(0)[0], limits.clamp_min(0)[1]
    step = (high - low).clamp_min(SMALLEST) / (2**arithmetic.activation_bits - 1)
    return step, (-low / step).round() - 2 ** (arithmetic.activation_bits - 1)


def _round_sums(values: torch.Tensor, sums: torch.Tensor | None) -> torch.Tensor:
    """Round accumulators to whole steps."""
    return values if sums is None else (values / sums).round() * sums


def _updated_range(kept: torch.Tensor, seen: torch.Tensor) -> torch.Tensor:
    """:func:`fake_quantize.updated_range`."""
    eased = kept + RANGE_DECAY * (seen - kept)
    return torch.stack((torch.minimum(seen[0], eased[0]), torch.maximum(seen[1], eased[1])))
