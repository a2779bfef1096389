"""A recipe's schemes in NNCF's terms: each of its steps is told the nodes it must leave alone."""

from __future__ import annotations

from typing import Any

import openvino as ov

from edgekit_converters.execution.import_filter import without
from edgekit_converters.formats.ir_graph import constants
from edgekit_converters.records import QuantizeRequest

UNUSED = ("torch",)  # NNCF asks of each model whether it is one of PyTorch's, and imports that: most of its own import
with without(*UNUSED):
    import nncf


def _int4(block_size: int) -> dict[str, Any]:
    """Matrices in 4 bits; in 8 what NNCF stores in 4 bits nowhere (convolutions), or the block does not divide."""
    return {
        "mode": nncf.CompressWeightsMode.INT4_SYM,
        "group_size": block_size or -1,
        "all_layers": True,
        "backup_mode": nncf.BackupMode.INT8_SYM,
        "advanced_parameters": nncf.AdvancedCompressionParameters(
            group_size_fallback_mode=nncf.GroupSizeFallbackMode.IGNORE
        ),
    }


# scheme: block size -> what NNCF is asked for
WEIGHTS = {
    "int8-weights": lambda _: {"mode": nncf.CompressWeightsMode.INT8_SYM},
    "int4-weights": _int4,
}


def in_use(request: QuantizeRequest, scheme: str) -> bool:
    """Tell whether anything of a model is to be in a scheme."""
    return scheme in (request.scheme, *(one for _, one in request.nodes))


def left_alone(model: ov.Model, request: QuantizeRequest, scheme: str) -> nncf.IgnoredScope | None:
    """Return the nodes that are not to be in a scheme; None when all of them are."""
    schemes = dict(request.nodes)
    names = [node.get_friendly_name() for node in model.get_ops()]
    fixed = constants(model)
    others = [name for name in names if schemes.get(name, request.scheme) != scheme and name not in fixed]
    # what was decided of the float model may name a node that has since been cut away
    return nncf.IgnoredScope(names=others, validate=False) if others else None


def compress(model: ov.Model, request: QuantizeRequest) -> Any:
    """Store the weights of the nodes whose scheme says so in fewer bits; they are made whole where they are used."""
    for scheme, options in WEIGHTS.items():
        if in_use(request, scheme):
            ignored = left_alone(model, request, scheme)
            model = nncf.compress_weights(model, ignored_scope=ignored, **options(request.recipe.block_size))
    return model
