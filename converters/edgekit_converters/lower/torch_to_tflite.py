"""PyTorch → TFLite with litert-torch; image inputs become NHWC."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch

from edgekit_converters.execution import toolchains
from edgekit_converters.foreign_errors import short_message
from edgekit_converters.frameworks.loaded_model import LoadedModel
from edgekit_converters.lower.tflite_rewrites import simplify
from edgekit_converters.lower.torch_tflite_decompositions import decompose
from edgekit_runtime.errors import ToolchainError, UnsupportedOperator

REFUSED = re.compile(r"failed to legalize operation '([\w.]+)'")
NO_LOWERING = re.compile(r"(?:[Ll]owering not found|not implemented|No lowering).*?\b((?:torch\.ops\.)?aten[\w.:]+)")


def lower(live: LoadedModel, folder: Path) -> tuple[Path, ...]:
    """Write ``model.tflite``.

    Raises:
        UnsupportedOperator: litert-torch has no lowering for something in the module.
        ToolchainError: litert-torch failed otherwise, or is not installed.
    """
    toolchains.require_modules(("litert_torch",), ("torch",), "lower")
    import litert_torch

    channels_last = [index for index, moved in enumerate(live.transposed) if moved]
    module = ChannelsLast(live.handle, channels_last) if channels_last else live.handle
    path = folder / "model.tflite"
    with litert_torch_errors():
        inputs = sample_inputs(live)
        litert_torch.convert(decompose(module, inputs), inputs).export(str(path))
    simplify(path)
    return (path,)


class ChannelsLast(torch.nn.Module):
    """A module whose image inputs are (N, ..., C) instead of (N, C, ...)."""

    def __init__(self, module: torch.nn.Module, moved: Sequence[int]) -> None:
        super().__init__()
        self.module = module
        self._moved = frozenset(moved)

    def forward(self, *inputs: torch.Tensor) -> Any:
        """Run the module on inputs with channels first, contiguous in memory because ``view`` requires it."""
        originals = [one.movedim(-1, 1).contiguous() if at in self._moved else one for at, one in enumerate(inputs)]
        return self.module(*originals)


def sample_inputs(live: LoadedModel) -> tuple[Any, ...]:
    """Return one zero tensor an input, in application layout."""
    return tuple(torch.zeros(spec.shape, dtype=getattr(torch, spec.dtype)) for spec in live.inputs)


@contextlib.contextmanager
def litert_torch_errors() -> Iterator[None]:
    """Map the exceptions of export and lowering."""
    try:
        yield
    except Exception as error:  # litert-torch has no class of its own, and runs the module's forward pass
        message = str(error)
        operator = NO_LOWERING.search(message) or REFUSED.search(message)
        if operator:
            raise UnsupportedOperator(
                f"litert-torch has no lowering for {operator.group(1)}{_layer(message)}",
                stage="lower",
                subject="litert",
                advice="replace the operation in the module, or convert for OpenVINO only: --device intel-cpu",
            ) from error
        raise ToolchainError(f"{short_message(error)}{_layer(message)}", stage="lower", subject="litert") from error


def _layer(message: str) -> str:
    """Return ", at the module's own line" when the message carries a stack of the user's code."""
    lines = re.findall(r'File "([^"]+)", line (\d+)', message)
    own = [f"{Path(file).name}:{line}" for file, line in lines if "site-packages" not in file]
    return f", at {own[-1]}" if own else ""
