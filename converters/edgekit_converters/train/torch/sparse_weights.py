"""The weights of a PyTorch module that can be made sparse."""

from __future__ import annotations

from torch import nn

from edgekit_converters.train.student import Kernel

CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
TRANSPOSED = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)
LAYERS = (*CONVOLUTIONS, *TRANSPOSED, nn.Linear)


def kernels(module: nn.Module) -> list[tuple[Kernel, nn.Parameter]]:
    """Return the weights of a module's convolutions, linear layers and attention that are trained, each once.

    What an embedding looks up is none, even where a linear layer multiplies by it, too.
    """
    seen = {id(one) for part in module.modules() if isinstance(part, nn.Embedding) for one in part.parameters()}
    found = []
    for name, part in module.named_modules():
        for parameter in _weights(part):
            if parameter.requires_grad and id(parameter) not in seen:
                seen.add(id(parameter))
                axis = 0 if isinstance(part, TRANSPOSED) else 1
                found.append((Kernel(name, parameter.detach().numpy(), axis, _dense_reason(part)), parameter))
    return found


def _weights(part: nn.Module) -> list[nn.Parameter]:
    if isinstance(part, LAYERS):
        return [one for one in (part.weight,) if isinstance(one, nn.Parameter)]
    if isinstance(part, nn.MultiheadAttention):
        apart = (part.in_proj_weight, part.q_proj_weight, part.k_proj_weight, part.v_proj_weight)
        return [one for one in apart if one is not None]
    return []


def _dense_reason(part: nn.Module) -> str | None:
    """Depthwise convolutions have few weights, and each counts (Zhu & Gupta, 2017, leave them dense, too)."""
    depthwise = isinstance(part, (*CONVOLUTIONS, *TRANSPOSED)) and part.groups == part.in_channels > 1
    return "is depthwise" if depthwise else None
