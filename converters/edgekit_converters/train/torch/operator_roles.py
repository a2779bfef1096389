"""The roles of PyTorch operations in integer arithmetic, and those that are several operators there."""

from __future__ import annotations

from typing import Any

import torch

from edgekit_converters.train.fake_quantize import SMALLEST, Arithmetic, Role, RoundBetween

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
    **{"sigmoid": Role.SIGMOID, "tanh": Role.TANH, "hardsigmoid": Role.HARD_SIGMOID},
    **dict.fromkeys(("avg_pool1d", "avg_pool2d", "adaptive_avg_pool1d", "adaptive_avg_pool2d"), Role.POOLS),
    **dict.fromkeys(("cat", "concat", "concatenate", "maximum", "stack"), Role.CONCATENATES),
    **dict.fromkeys(("max_pool1d", "max_pool2d", "max_pool3d", "adaptive_max_pool2d", "pad", "dropout"), Role.MOVES),
    **dict.fromkeys(("dropout2d", "feature_dropout", "alpha_dropout", "channel_shuffle", "pixel_shuffle"), Role.MOVES),
    **dict.fromkeys(("flatten", "reshape", "view", "permute", "transpose", "contiguous", "to", "float"), Role.MOVES),
    **dict.fromkeys(("squeeze", "unsqueeze", "expand", "repeat", "chunk", "split", "unbind", "unflatten"), Role.MOVES),
    **dict.fromkeys(("select", "narrow", "detach", "clone", "movedim", "roll", "flip", "__getitem__"), Role.MOVES),
    **dict.fromkeys(("index_select", "gather", "swapaxes", "t", "view_as", "type_as"), Role.MOVES),
}
# what looks at a tensor without computing with it
METADATA = (
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
CLAMPS = {"clamp": (1, "min", 0.0), "clamp_min": (1, "min", 0.0), "hardtanh": (1, "min_val", -1.0)}
GLOBAL_SIZES = (1, (1,), (1, 1), [1, 1])  # size of an adaptive pool that is a mean


def role_of(name: str, args: Any, kwargs: dict[str, Any]) -> Role:
    """Return the role of an operation; a clamp with other limits than ReLU's is an operation of its own."""
    plain = name.rstrip("_") if name not in ROLES else name
    role = ROLES.get(plain, Role.OTHER)
    if plain.rstrip("_") in CLAMPS:
        place, word, usual = CLAMPS[plain.rstrip("_")]
        return role if argument(args, kwargs, place, word, usual) == 0 else Role.OTHER
    if plain.startswith("adaptive_avg"):
        return Role.OTHER if argument(args, kwargs, 1, "output_size") in GLOBAL_SIZES else role
    if plain == "interpolate":
        return Role.MOVES if argument(args, kwargs, 3, "mode", "nearest").startswith("nearest") else Role.POOLS
    return role


def argument(args: Any, kwargs: dict[str, Any], place: int, word: str, usual: Any = None) -> Any:
    """Return an argument, given by position or by name."""
    return kwargs.get(word, args[place] if len(args) > place else usual)


def needs_8_bits(name: str, weights: torch.Tensor, args: Any, kwargs: dict[str, Any]) -> bool:
    """Tell whether a layer is a depthwise or transposed convolution."""
    if name.startswith("conv_transpose"):
        return True
    return name.startswith("conv") and weights.shape[1] == 1 and argument(args, kwargs, 6, "groups", 1) > 1


def weight_steps(name: str, args: Any, kwargs: dict[str, Any], arithmetic: Arithmetic) -> torch.Tensor | None:
    """The steps of the weights that a layer's channels are sums of, (channels, 1, ...); None where that is not all."""
    weights = argument(args, kwargs, 1, "weight")
    (_, _, axis), *others = LAYERS[name]
    if others or not isinstance(weights, torch.Tensor) or (axis and argument(args, kwargs, 6, "groups", 1) != 1):
        return None
    summed = [one for one in range(weights.ndim) if one != axis]
    scale_and_zero_point = weights.detach().abs().amax(dim=summed).clamp_min(SMALLEST) / arithmetic.weight_levels
    return scale_and_zero_point.reshape(-1, *[1] * (weights.ndim - 2))


def silu(values: torch.Tensor, rounds: RoundBetween) -> torch.Tensor:
    """Compute SiLU as two operators, LOGISTIC and MUL."""
    return values * rounds(torch.sigmoid(values), "gate", Role.SIGMOID)


def factors(args: Any, kwargs: dict[str, Any]) -> torch.Tensor:
    """Return the factors of a normalization in inference, (channels,)."""
    factor = (argument(args, kwargs, 2, "running_var") + argument(args, kwargs, 7, "eps", 1e-5)).rsqrt()
    weight = argument(args, kwargs, 3, "weight")
    return factor if weight is None else factor * weight


def normalized(args: Any, kwargs: dict[str, Any], rounds: RoundBetween) -> torch.Tensor:
    """Compute a normalization that is not fused as four operators, SUB, MUL, MUL and ADD, with rounded constants."""
    values = argument(args, kwargs, 0, "input")
    mean, variance = argument(args, kwargs, 1, "running_mean"), argument(args, kwargs, 2, "running_var")
    if argument(args, kwargs, 5, "training", False) or mean is None:
        others = [axis for axis in range(values.ndim) if axis != 1]
        mean, variance = values.mean(others), values.var(others, unbiased=False)
    constants = (
        mean,
        (variance + argument(args, kwargs, 7, "eps", 1e-5)).rsqrt(),
        argument(args, kwargs, 3, "weight"),
        argument(args, kwargs, 4, "bias"),
    )
    shape = [1, -1, *[1] * (values.ndim - 2)]
    means, deviations, weights, biases = (
        None if one is None else rounds(one.reshape(shape), "", Role.CONSTANT) for one in constants
    )
    values = rounds(values - means, "centred") * deviations
    values = values if weights is None else rounds(values, "scaled") * weights
    return values if biases is None else rounds(values, "product") + biases
