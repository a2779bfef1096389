"""Keras models of both generations, and SavedModel folders."""

from __future__ import annotations

import sys

from edgekit_converters.frameworks import Framework, Loader, TrainableModels
from edgekit_converters.toolchain import Toolchain


def seed(number: int) -> None:
    """Seed the generations of Keras that the process has imported."""
    for name in ("keras", "tf_keras"):
        if name in sys.modules:
            sys.modules[name].utils.set_random_seed(number)


def reset_names() -> None:
    """Restart the numbers in automatic layer names: channel groups and weights are found by layer name."""
    if "keras" in sys.modules:
        sys.modules["keras"].utils.clear_session(free_memory=False)
    if "tf_keras" in sys.modules:
        sys.modules["tf_keras"].backend.reset_uids()


FRAMEWORK = Framework(
    name="keras",
    loaders={
        "keras": Loader(
            "edgekit_converters.load.keras_model:load_file", "keras", (".keras", ".h5", ".hdf5"), (".keras", ".h5")
        ),
        "saved_model": Loader("edgekit_converters.load.keras_model:load_saved_model", "keras"),
    },
    tracer="edgekit_converters.trace.keras_tensors:steps",
    trainable=TrainableModels(
        packages=("keras", "tf_keras"),
        toolchain=Toolchain(("tensorflow", "tf_keras"), ("tensorflow", "keras", "tf-keras"), ("keras",)),
        wrapper="edgekit_converters.load.keras_model:from_model",
        saver="edgekit_converters.load.keras_model:save",
        pruner="edgekit_converters.prune.keras.stages",
        student="edgekit_converters.train.keras.student:KerasStudent",
        attention_maps="edgekit_converters.train.keras.attention_maps:observe_attention_maps",
        seed=seed,
        reset_names=reset_names,
    ),
)
