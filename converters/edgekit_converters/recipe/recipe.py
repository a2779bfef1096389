"""A quantization recipe: the scheme of each layer, the statistics of calibration ranges, and corrections.

A recipe names layers of the source and no toolchain. :func:`resolve` maps its rules to nodes of an artifact, which each
quantizer translates to its own settings. ``toml.py`` reads and writes recipe files.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase

from edgekit_runtime.errors import PlanError

# How a tensor's calibration range is computed from its values.
STATISTICS = ("min-max", "moving-average", "percentile", "mse", "histogram")
# Corrections of the quantization error; each format lists those that its quantizer supports.
CORRECTIONS = ("equalize", "bias", "bias-fast", "smooth")
BLOCK_SIZES = (0, 32, 64, 128)  # 4-bit weights that share a scale; 0 is a whole channel
DEPTHS = ("first", "last")


@dataclass(frozen=True)
class Rule:
    """Another scheme for some layers: those that meet all of the given criteria."""

    scheme: str  # "float32" keeps them in float
    layers: tuple[str, ...] = ()  # names in the source, or patterns such as "head.*"
    operators: tuple[str, ...] = ()  # types, such as "softmax"; case is ignored
    depth: tuple[str, ...] = ()  # "first" or "last" of the layers with weights


@dataclass(frozen=True)
class Recipe:
    """How a model is quantized. Later rules override earlier ones, and all rules override ``scheme``."""

    scheme: str
    statistics: str = "min-max"
    percentile: float = 99.99  # share of the values inside the range, for statistics "percentile"
    corrections: tuple[str, ...] = ()
    block_size: int = 0  # weights that share a scale, for int4; 0 is a whole channel
    rules: tuple[Rule, ...] = ()

    @property
    def schemes(self) -> tuple[str, ...]:
        """Every scheme of the recipe, without duplicates."""
        return tuple(dict.fromkeys((self.scheme, *(rule.scheme for rule in self.rules))))


@dataclass(frozen=True)
class Layer:
    """A layer of the source; tuples of layers are in the order of execution."""

    name: str
    operator: str  # its type, by the framework's name
    shape: tuple[int, ...]  # of its first output, batch 1
    parameters: int
    macs: int  # multiplications by weights for one sample
    nodes: tuple[str, ...] = ()  # of the artifact, that compute it

    @property
    def weighted(self) -> bool:
        """Whether it multiplies by weights, as convolutions and dense layers do and normalization does not."""
        return self.parameters > 0 and self.macs > 0


def resolve(recipe: Recipe, layers: Sequence[Layer]) -> tuple[tuple[str, str], ...]:
    """Return ``(node, scheme)`` for every node whose scheme, by the rules, is not the recipe's own.

    If an artifact computes several layers in one node, the last rule for any of them decides.

    Raises:
        PlanError: a rule selects no layer, or only layers that no node of the artifact computes.
    """
    schemes: dict[str, str] = {}
    for number, rule in enumerate(recipe.rules, 1):
        chosen = _select(rule, layers, f"rule {number}")
        nodes = [node for layer in chosen for node in layer.nodes]
        if not nodes:
            names = ", ".join(layer.name for layer in chosen[:5])
            raise PlanError(f"rule {number}: no node of the artifact computes {names}; remove the rule")
        schemes |= dict.fromkeys(nodes, rule.scheme)
    return tuple((node, scheme) for node, scheme in schemes.items() if scheme != recipe.scheme)


def _select(rule: Rule, layers: Sequence[Layer], where: str) -> list[Layer]:
    weighted = [layer for layer in layers if layer.weighted]
    ends = {"first": weighted[:1], "last": weighted[-1:]}
    deep = [layer for depth in rule.depth for layer in ends[depth]]
    if rule.depth and not deep:
        raise PlanError(f"{where}: depth: the model has no layer that multiplies by weights")
    _check_patterns(f"{where}: layers", rule.layers, [layer.name for layer in layers], _matches)
    _check_patterns(f"{where}: operators", rule.operators, [layer.operator for layer in layers], _matches_any_case)
    chosen = [
        layer
        for layer in layers
        if (not rule.layers or any(_matches(layer.name, pattern) for pattern in rule.layers))
        and (not rule.operators or any(_matches_any_case(layer.operator, pattern) for pattern in rule.operators))
        and (not rule.depth or layer in deep)
    ]
    if not chosen:
        raise PlanError(f"{where}: no layer meets all of its criteria; `edgekit layers MODEL` lists them")
    return chosen


def _matches(name: str, pattern: str) -> bool:
    return name == pattern or fnmatchcase(name, pattern)


def _matches_any_case(name: str, pattern: str) -> bool:
    return _matches(name.lower(), pattern.lower())


def _check_patterns(
    where: str, patterns: Iterable[str], names: Sequence[str], matches: Callable[[str, str], bool]
) -> None:
    """Check that each pattern matches a name.

    Raises:
        PlanError: a pattern matches none; the message suggests similar names.
    """
    for pattern in patterns:
        if not any(matches(name, pattern) for name in names):
            by_case = {name.lower(): name for name in names}
            near = difflib.get_close_matches(pattern.lower(), by_case, n=3, cutoff=0.5)
            hint = f"; did you mean {', '.join(by_case[name] for name in near)}?" if near else ";"
            raise PlanError(f"{where}: nothing is called {pattern!r}{hint} `edgekit layers MODEL` lists all")
