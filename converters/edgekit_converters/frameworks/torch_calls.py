"""Run PyTorch modules: their tensors, the example inputs, and the errors of a forward pass."""

from __future__ import annotations

import numpy as np
import torch

from edgekit_converters.frameworks.loaded_model import Arrays, LoadedModel

# A forward pass raises these on inputs it cannot take; a user's code may check sizes with any of them.
FORWARD_ERRORS = (RuntimeError, ValueError, TypeError, LookupError, AssertionError, AttributeError, ArithmeticError)


class FlatModule(torch.nn.Module):
    """A module that takes tensors by position and returns a flat tuple of tensors.

    ``train`` does nothing: an exported program refuses the switch, and any other module was switched before.
    """

    def __init__(self, module: torch.nn.Module) -> None:
        super().__init__()
        self.module = module
        self.training = False

    def forward(self, *tensors: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """Run the module."""
        leaves = torch.utils._pytree.tree_leaves(self.module(*tensors))
        return tuple(leaf for leaf in leaves if isinstance(leaf, torch.Tensor))

    def train(self, mode: bool = True) -> FlatModule:
        """Keep inference mode."""
        return self


class RewiredModule(torch.fx.GraphModule):
    """A module whose traced forward pass was changed; its layers are still modules."""


def is_exported_program(module: torch.nn.Module) -> bool:
    """Tell whether a module is a ``torch.export`` program, in which all sizes are fixed."""
    return isinstance(module, torch.fx.GraphModule) and not isinstance(module, RewiredModule)


def input_tensors(live: LoadedModel, batch: Arrays) -> tuple[torch.Tensor, ...]:
    """Return a batch in application layout as the tensors that the module takes."""
    return tensors_of(batch, live.transposed)


def tensors_of(batch: Arrays, channels_last: tuple[bool, ...]) -> tuple[torch.Tensor, ...]:
    """Return arrays as tensors; those that are NHWC become NCHW."""
    return tuple(
        torch.from_numpy(np.ascontiguousarray(np.moveaxis(array, -1, 1) if last else array))
        for array, last in zip(batch, channels_last, strict=True)
    )


def example_inputs(live: LoadedModel) -> tuple[torch.Tensor, ...]:
    """Return random inputs as the module takes them: the same at each call."""
    return tuple(
        random_input(channels_first(spec.shape) if last else spec.shape, spec.dtype)
        for spec, last in zip(live.inputs, live.transposed, strict=True)
    )


def random_input(shape: tuple[int, ...], dtype: str | None) -> torch.Tensor:
    """Return seeded noise; integers are 0 or 1."""
    generator = torch.Generator().manual_seed(0)
    kind = getattr(torch, dtype or "float32")
    if kind.is_floating_point:
        return torch.randn(shape, generator=generator, dtype=kind)
    return torch.randint(0, 2, shape, generator=generator).to(kind)


def channels_first(shape: tuple[int, ...]) -> tuple[int, ...]:
    """Return the shape of NHWC data as NCHW."""
    return (shape[0], shape[-1], *shape[1:-1])
