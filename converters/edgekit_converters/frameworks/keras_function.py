"""A Keras model as one TensorFlow function with fixed shapes."""

from __future__ import annotations

from typing import Any

import tensorflow as tf

from edgekit_converters.frameworks.loaded_model import LoadedModel


def concrete_function(live: LoadedModel) -> tuple[tf.Module, Any]:
    """Return the computation with its shapes fixed, and the module that holds its variables.

    Arguments and results are called ``input_<i>`` and ``output_<i>``: formats sort names, so the names carry the order.
    """
    signature = [tf.TensorSpec(spec.shape, spec.dtype, name=f"input_{index}") for index, spec in enumerate(live.inputs)]

    @tf.function(input_signature=signature)
    def serve(*tensors: Any) -> dict[str, Any]:
        return {f"output_{index}": tensor for index, tensor in enumerate(live.handle.serve(*tensors))}

    module = tf.Module()
    module.held = live.handle.variables
    module.serve = serve
    return module, serve.get_concrete_function()
