"""Remove residual branches of a Keras model: connect the same layers around them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import keras
import tensorflow as tf
import tf_keras

from edgekit_converters.frameworks.keras_graph import Call, walk
from edgekit_converters.frameworks.loaded_model import LoadedModel
from edgekit_converters.load.keras_model import keras_errors
from edgekit_converters.prune.keras.analyze import ChannelAnalysis, removable_branches
from edgekit_converters.records import SourceRequest
from edgekit_runtime.errors import ConversionError


def without_branches(live: LoadedModel, found: ChannelAnalysis, names: Sequence[str], request: SourceRequest) -> Any:
    """Return a model without some branches, built from the layers of the original.

    Raises:
        ConversionError: there is no such branch.
        SourceError: the layers cannot be connected around the branches.
    """
    known = {one.name for one in found.graph.branches}
    for name in names:
        if name not in known:
            raise ConversionError(
                f"there is no branch {name!r}", stage="drop_branches", advice=f"there are {', '.join(known) or 'none'}"
            )
    steps = found.tracing.steps
    left = {steps[index.index].name: 1 - index.operand for index, one in removable_branches(found) if one.name in names}

    def visit(call: Call, values: list[Any]) -> list[Any]:
        return [values[left[call.name]]] if call.name in left else call.run(values)

    model = live.handle.model
    with keras_errors(request, "the model cannot be wired past its branches"):
        outputs = walk(model, model.inputs, visit)
        given = tf.nest.pack_sequence_as(model.output, outputs)
        generation = tf_keras if isinstance(model, tf_keras.Model) else keras
        return generation.Model(model.input, given, name=model.name)
