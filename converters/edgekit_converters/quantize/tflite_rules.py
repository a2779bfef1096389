"""A recipe's schemes as rules of AI Edge Quantizer, which go by operators and by the names of their outputs."""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from ai_edge_litert.tools import flatbuffer_utils
from ai_edge_quantizer import algorithm_manager, qtyping, recipe
from ai_edge_quantizer.algorithm_manager import AlgorithmName
from ai_edge_quantizer.recipe_manager import RecipeManager
from ai_edge_quantizer.utils.tfl_flatbuffer_utils import TFL_OP_CODE_TO_NAME

from edgekit_converters.formats.tflite_graph import node_name
from edgekit_converters.records import QuantizeRequest
from edgekit_runtime.errors import ConversionError

Operator = qtyping.TFLOperationName
ALL = Operator.ALL_SUPPORTED


def _float16() -> Any:
    """Store weights as float16; the engine widens them when it loads the model."""
    rules = RecipeManager()
    rules.add_quantization_config(
        ".*",
        ALL,
        qtyping.OpQuantizationConfig(
            weight_tensor_config=qtyping.TensorQuantizationConfig(num_bits=16, dtype=qtyping.TensorDataType.FLOAT),
            compute_precision=qtyping.ComputePrecision.FLOAT,
            explicit_dequantize=True,
        ),
        AlgorithmName.FLOAT_CASTING,
    )
    return rules.get_quantization_recipe()


# The quantizer's recipes of a scheme; for an operator that supports several, the last one counts; for none, float32.
RECIPES: dict[str, tuple[Callable[[], Any], ...]] = {
    "float32": (),
    "float16": (_float16,),
    "int8-static": (recipe.static_wi8_ai8,),
    "int16x8-static": (recipe.static_wi8_ai16,),
    "int8-dynamic": (recipe.dynamic_wi8_afp32,),
    "int8-weights": (recipe.weight_only_wi8_afp32,),
    "int4-weights": (recipe.weight_only_wi8_afp32, recipe.weight_only_wi4_afp32),
}
# In int8 a softmax has steps of 1/256: a thousand classes of similar probability are all 0. As the last operator it
# costs no time in float.
FLOAT_OPERATORS = {"int8-static": (Operator.SOFTMAX,)}


def rules(request: QuantizeRequest) -> Any:
    """Return the quantizer's rules for a request: its scheme everywhere, overridden by the schemes of its nodes.

    Raises:
        ConversionError: no node of a scheme supports it.
    """
    wanted = [(".*", ALL, request.scheme)]
    wanted += [(".*", operator, "float32") for operator in FLOAT_OPERATORS.get(request.scheme, ())]
    if request.nodes:
        wanted += [(f"^{re.escape(name)};$", ALL, scheme) for name, scheme in _node_schemes(request)]
    found = RecipeManager()
    numbers = itertools.count()
    for names, operator, scheme in wanted:
        _add(found, (f"{names}|^{number}$" for number in numbers), operator, scheme)
    return found.get_quantization_recipe()


def _add(found: RecipeManager, patterns: Iterator[str], operator: Any, scheme: str) -> None:
    """Add a scheme's rules after all others: the last rule that matches an operator and that it supports applies.

    A rule replaces an earlier one of the same pattern, so each pattern has a number in it. The number matches nothing,
    because the names that patterns are matched against end with a semicolon.
    """
    found.add_quantization_config(next(patterns), operator, algorithm_key=AlgorithmName.NO_QUANTIZE)
    for rule in _rules_of(scheme):
        config = qtyping.OpQuantizationConfig.from_dict(rule["op_config"])
        found.add_quantization_config(next(patterns), operator, config, rule["algorithm_key"])


def _rules_of(scheme: str) -> list[Any]:
    return [rule for make in RECIPES[scheme] for rule in make()]


def _node_schemes(request: QuantizeRequest) -> Iterator[tuple[str, str]]:
    """Yield name and scheme of the request's nodes, and of inputs that only float nodes use: these stay in float."""
    wanted = dict(request.nodes)
    graph, operators = _operators(request.artifact.files[0])
    for scheme in dict.fromkeys(wanted.values()):
        kinds = {operators.get(name) for name in wanted if wanted[name] == scheme}
        if not any(_supports(kind, scheme) for kind in kinds):
            raise ConversionError(
                f"AI Edge Quantizer does not support {scheme} for "
                f"{', '.join(sorted(kind or 'the selected operators' for kind in kinds))}",
                stage="quantize",
                subject="litert",
                advice="use another scheme in the recipe's rule, or select other layers",
            )
    yield from wanted.items()
    for index in graph.inputs:
        consumers = [node_name(graph, one) for one in graph.operators if index in one.inputs]
        if consumers and all(wanted.get(name) == "float32" for name in consumers):
            yield graph.tensors[index].name.decode(), "float32"


def float_tensors(request: QuantizeRequest) -> set[str]:
    """Return the names of results and constants of the request's float nodes, which need no range."""
    in_float = {name for name, scheme in request.nodes if scheme == "float32"}
    model = flatbuffer_utils.read_model(str(request.artifact.files[0]))
    graph = model.subgraphs[0]
    found: set[str] = set()
    for operator in graph.operators:
        if node_name(graph, operator) in in_float:
            used = [place for place in operator.inputs if place >= 0]
            constants = [place for place in used if model.buffers[graph.tensors[place].buffer].data is not None]
            found |= {graph.tensors[place].name.decode() for place in (*operator.outputs, *constants)}
    return found


def _operators(path: Path) -> tuple[Any, dict[str, Any]]:
    """Return the main graph and the operator of each node, None if the quantizer does not know it."""
    model = flatbuffer_utils.read_model(str(path))
    graph = model.subgraphs[0]
    codes = [TFL_OP_CODE_TO_NAME.get(code.builtinCode) for code in model.operatorCodes]
    return graph, {node_name(graph, one): codes[one.opcodeIndex] for one in graph.operators}


def _supports(operator: Any, scheme: str) -> bool:
    """Return whether an operator supports one of a scheme's rules; every operator supports float32."""
    for rule in _rules_of(scheme):
        config = qtyping.OpQuantizationConfig.from_dict(rule["op_config"])
        try:
            algorithm_manager.check_op_quantization_config(rule["algorithm_key"], operator, config)
        except ValueError:
            continue
        return True
    return not RECIPES[scheme]
