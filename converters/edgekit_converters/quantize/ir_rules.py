"""A recipe's schemes in NNCF's terms: each step gets the nodes to ignore."""

from __future__ import annotations

from typing import Any

import openvino as ov

from edgekit_converters.execution.import_filter import without
from edgekit_converters.formats.ir_graph import constants
from edgekit_converters.records import QuantizeRequest

UNUSED = ("torch",)  # NNCF imports it only to check for PyTorch models, and that is most of its import time
with without(*UNUSED):
    import nncf


def _int4(block_size: int) -> dict[str, Any]:
    """Return options for matrices in 4 bits; convolutions and matrices that the block does not divide get 8 bits."""
    return {
        "mode": nncf.CompressWeightsMode.INT4_SYM,
        "group_size": block_size or -1,
        "all_layers": True,
        "backup_mode": nncf.BackupMode.INT8_SYM,
        "advanced_parameters": nncf.AdvancedCompressionParameters(
            group_size_fallback_mode=nncf.GroupSizeFallbackMode.IGNORE
        ),
    }


# scheme: block size -> options of nncf.compress_weights
WEIGHTS = {
    "int8-weights": lambda _: {"mode": nncf.CompressWeightsMode.INT8_SYM},
    "int4-weights": _int4,
}


def uses_scheme(request: QuantizeRequest, scheme: str) -> bool:
    """Return whether any node of the model gets a scheme."""
    return scheme in (request.scheme, *(one for _, one in request.nodes))


def ignored_scope(model: ov.Model, request: QuantizeRequest, scheme: str) -> nncf.IgnoredScope | None:
    """Return the nodes that do not get a scheme; None when all nodes get it."""
    schemes = dict(request.nodes)
    names = [node.get_friendly_name() for node in model.get_ops()]
    fixed = constants(model)
    others = [name for name in names if schemes.get(name, request.scheme) != scheme and name not in fixed]
    # a recipe's rules may name a node of the float model that splitting outputs has removed
    return nncf.IgnoredScope(names=others, validate=False) if others else None


def compress(model: ov.Model, request: QuantizeRequest) -> Any:
    """Compress the weights of the nodes with a weight-only scheme; the engine decompresses them at run time."""
    for scheme, options in WEIGHTS.items():
        if uses_scheme(request, scheme):
            ignored = ignored_scope(model, request, scheme)
            model = nncf.compress_weights(model, ignored_scope=ignored, **options(request.recipe.block_size))
    return model
