"""Fake quantization of PyTorch modules: their operations are listened to as they are called, nothing is traced.

What an operation gives is not rounded by it, but by whatever takes it: only then is known whether that is a
normalization or an activation that becomes part of the operation.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves, tree_map
from torch.utils.weak import WeakIdKeyDictionary

from edgekit_converters.data.samples import Array
from edgekit_converters.load import Arrays, Live
from edgekit_converters.train import Settings
from edgekit_converters.train.fake_quantize import ARITHMETICS, FORGOTTEN, RANGES, SMALLEST, Arithmetic, Role, swallows

# function: ((place of a weight among the arguments, its name, its axis of outputs), ...)
LAYERS = {
    **dict.fromkeys(("conv1d", "conv2d", "conv3d", "linear"), ((1, "weight", 0),)),
    **dict.fromkeys(("conv_transpose1d", "conv_transpose2d", "conv_transpose3d"), ((1, "weight", 1),)),
    "multi_head_attention_forward": ((5, "in_proj_weight", 0), (11, "out_proj_weight", 0)),
}
ROLES = {
    **dict.fromkeys(LAYERS, Role.LAYER),
    "batch_norm": Role.NORM,
    **dict.fromkeys(("relu", "relu_", "relu6", "hardtanh", "hardtanh_", "clamp_min", "clamp"), Role.RELU),
    **dict.fromkeys(("softmax", "log_softmax"), Role.FLOAT),
    **dict.fromkeys(("max_pool1d", "max_pool2d", "max_pool3d", "adaptive_max_pool2d", "pad", "dropout"), Role.KEEPS),
    **dict.fromkeys(("dropout2d", "feature_dropout", "alpha_dropout", "channel_shuffle", "pixel_shuffle"), Role.KEEPS),
    **dict.fromkeys(("flatten", "reshape", "view", "permute", "transpose", "contiguous", "to", "float"), Role.KEEPS),
    **dict.fromkeys(("squeeze", "unsqueeze", "expand", "repeat", "chunk", "split", "unbind", "unflatten"), Role.KEEPS),
    **dict.fromkeys(("select", "narrow", "detach", "clone", "movedim", "roll", "flip", "__getitem__"), Role.KEEPS),
    **dict.fromkeys(("index_select", "gather", "swapaxes", "t", "stack", "view_as", "type_as"), Role.KEEPS),
}
# what looks at a tensor without computing with it
LOOKS = (
    "__get__",
    "size",
    "dim",
    "numel",
    "stride",
    "is_floating_point",
    "is_contiguous",
    "__len__",
    "shape",
    "__set__",
)
BOUNDED = {"clamp": (1, "min", 0.0), "clamp_min": (1, "min", 0.0), "hardtanh": (1, "min_val", -1.0)}


@dataclass
class Given:
    """A tensor that nothing has taken yet."""

    role: Role
    point: str  # where in the module it is made
    rounded: torch.Tensor | None = None


def fake_quantized(live: Live, settings: Settings) -> TorchFakeQuantize | None:
    """Return what imitates the arithmetic that the settings ask for, where they do."""
    scheme = settings.quantize_aware
    return TorchFakeQuantize(live, ARITHMETICS[scheme]) if scheme else None


class TorchFakeQuantize(TorchFunctionMode):
    """Has a module compute as its quantized artifact would, until ``remove``; its weights stay as they are.

    Args:
        live: its module widens the ranges of activations in training mode; where there is none, nothing is rounded.
        arithmetic: of the scheme.
    """

    def __init__(self, live: Live, arithmetic: Arithmetic) -> None:
        super().__init__()
        module, self._run = live.handle.module, live.run
        self._ranges: dict[str, torch.Tensor] = {}  # point: (low, high)
        self._module, self._arithmetic, self._observing = module, arithmetic, False
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
            self._observing = True
            self._run(batch)
            self._observing = False
        return self._run(batch)

    def state(self) -> dict[str, Array]:
        """The ranges by their points."""
        return {f"{RANGES}{point}": kept.numpy().copy() for point, kept in self._ranges.items()}

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
        role = _role(name, args, kwargs)
        if name.endswith("_") and not name.startswith("__"):
            self._round_in_place(role, args)
        args, kwargs = tree_map(lambda leaf: self._taken(role, leaf), (args, kwargs))
        if name in LAYERS and not self._observing:
            args, kwargs = self._weighted(name, args, kwargs)
        result = func(*args, **kwargs)
        if role not in (Role.KEEPS, Role.FLOAT):
            self._give(result, role)
        return result

    def _watch(self, name: str, part: torch.nn.Module) -> list[Any]:
        return [
            part.register_forward_pre_hook(lambda *_: self._where.append(name)),
            part.register_forward_hook(lambda *_: self._where.pop() and None),
        ]

    def _enter(self, _module: Any, args: Any) -> Any:
        self._where, self._calls, self._given = [], Counter(), WeakIdKeyDictionary()
        for tensor in tree_leaves(args):
            self._give(tensor, Role.INPUT)
        self.__enter__()
        return args

    def _leave(self, _module: Any, _args: Any, result: Any) -> Any:
        self.__exit__(None, None, None)
        return tree_map(lambda leaf: self._taken(Role.OTHER, leaf), result)

    def _give(self, result: Any, role: Role) -> None:
        """Note what an operation gave, under a name that is the same in every run of the module."""
        if self._arithmetic.activation_bits:
            where = self._where[-1] if self._where else ""
            for tensor in tree_leaves(result):
                if isinstance(tensor, torch.Tensor) and tensor.is_floating_point():
                    self._calls[where] += 1
                    self._given[tensor] = Given(role, f"{where}:{self._calls[where]}")

    def _taken(self, role: Role, leaf: Any) -> Any:
        """What an operation of a role takes in the place of a tensor."""
        given = self._given.get(leaf) if isinstance(leaf, torch.Tensor) else None
        if given is None or swallows(role, given.role):
            return leaf
        if given.rounded is None:
            given.rounded = self._rounded(leaf, given.point)
        return given.rounded

    def _round_in_place(self, role: Role, args: Any) -> None:
        """Round the tensor an operation works in: whoever holds it must see the result in it."""
        given = self._given.get(args[0]) if args and isinstance(args[0], torch.Tensor) else None
        if given is not None and not swallows(role, given.role):
            rounded = self._taken(role, args[0])
            del self._given[args[0]]
            args[0].add_((rounded - args[0]).detach())

    def _weighted(self, name: str, args: Any, kwargs: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
        """Round the weights among a layer's arguments."""
        args, kwargs = list(args), dict(kwargs)
        for place, word, axis in LAYERS[name]:
            if kwargs.get(word) is not None:
                kwargs[word] = rounded_weights(kwargs[word], axis, self._arithmetic)
            elif word not in kwargs and place < len(args) and args[place] is not None:
                args[place] = rounded_weights(args[place], axis, self._arithmetic)
        return args, kwargs

    def _rounded(self, tensor: torch.Tensor, point: str) -> torch.Tensor:
        """Round a tensor to the range of a point."""
        values = tensor.detach().float()
        if self._module.training or self._observing:
            seen = torch.stack(torch.aminmax(values)).clone()
            self._ranges[point] = _widened(self._ranges.get(point, seen), seen)
        if self._observing or point not in self._ranges:
            return tensor
        return through(tensor, spread(values, self._ranges[point], self._arithmetic))


def rounded_weights(weights: torch.Tensor, axis: int, arithmetic: Arithmetic) -> torch.Tensor:
    """:func:`fake_quantize.rounded_weights`, with the gradient of what was not rounded."""
    values = weights.detach()
    summed = [other for other in range(values.ndim) if other != axis]
    step = values.abs().amax(dim=summed, keepdim=True).clamp_min(SMALLEST) / arithmetic.weight_levels
    return through(weights, (values / step).round() * step)


def through(tensor: torch.Tensor, rounded: torch.Tensor) -> torch.Tensor:
    """The rounded values with the gradient of the others; inside a range it is that of no rounding."""
    return tensor + (rounded.to(tensor.dtype) - tensor).detach()


def spread(values: torch.Tensor, ends: torch.Tensor, arithmetic: Arithmetic) -> torch.Tensor:
    """:func:`fake_quantize.rounded_activations`."""
    if arithmetic.symmetric:
        top = 2 ** (arithmetic.activation_bits - 1) - 1
        step = ends.abs().max().clamp_min(SMALLEST) / top
        return (values / step).round().clamp(-top, top) * step
    top = 2**arithmetic.activation_bits - 1
    low, high = ends.clamp_max(0)[0], ends.clamp_min(0)[1]
    step = (high - low).clamp_min(SMALLEST) / top
    zero = (-low / step).round()
    return (((values / step).round() + zero).clamp(0, top) - zero) * step


def _widened(kept: torch.Tensor, seen: torch.Tensor) -> torch.Tensor:
    """:func:`fake_quantize.widened`."""
    eased = kept + FORGOTTEN * (seen - kept)
    return torch.stack((torch.minimum(seen[0], eased[0]), torch.maximum(seen[1], eased[1])))


def _role(name: str, args: Any, kwargs: dict[str, Any]) -> Role:
    """Tell what an operation is: to clip at other ends than an integer operator does is one of its own."""
    role = ROLES.get(name, ROLES.get(name.rstrip("_"), Role.OTHER))
    if name.rstrip("_") in BOUNDED and role is Role.RELU:
        place, word, usual = BOUNDED[name.rstrip("_")]
        low = kwargs.get(word, args[place] if len(args) > place else usual)
        return role if low == 0 else Role.OTHER
    return role
