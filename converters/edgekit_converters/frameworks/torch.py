"""PyTorch modules, and programs of ``torch.export``."""

from __future__ import annotations

import sys

from edgekit_converters.frameworks import Framework, Loader, TrainableModels
from edgekit_converters.toolchain import Toolchain


def seed(number: int) -> None:
    """Seed PyTorch if the process has imported it."""
    if "torch" in sys.modules:
        sys.modules["torch"].manual_seed(number)


FRAMEWORK = Framework(
    name="torch",
    loaders={
        "torch_program": Loader("edgekit_converters.load.torch_module:load_program", "torch", (".pt2",)),
        "torch_pickle": Loader(
            "edgekit_converters.load.torch_module:load_pickle", "torch", (".pt", ".pth", ".th"), (".pt2",)
        ),
    },
    tracer="edgekit_converters.trace.torch_tensors:steps",
    trainable=TrainableModels(
        packages=("torch",),
        toolchain=Toolchain(("torch",), ("torch", "torch-pruning", "litert-torch", "litert-converter"), ("torch",)),
        wrapper="edgekit_converters.load.torch_module:from_module",
        saver="edgekit_converters.load.torch_module:save",
        pruner="edgekit_converters.prune.torch.stages",
        student="edgekit_converters.train.torch.student:TorchStudent",
        attention_maps="edgekit_converters.train.torch.attention_maps:observe_attention_maps",
        seed=seed,
    ),
)
