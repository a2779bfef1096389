"""Read recipes from TOML, rejecting every mistake, and write them."""

from __future__ import annotations

import json
import tomllib
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

from edgekit_converters.recipe.recipe import BLOCK_SIZES, CORRECTIONS, DEPTHS, STATISTICS, Recipe, Rule
from edgekit_converters.recipe.schemes import scheme
from edgekit_runtime.errors import PlanError

SELECTORS = ("layers", "operators", "depth")
KEYS = (*(field.name for field in fields(Recipe) if field.name != "rules"), "rule")
WORDS = {
    "statistics": STATISTICS,
    "corrections": CORRECTIONS,
    "depth": DEPTHS,
    "block_size": BLOCK_SIZES,
}


def read(path: Path) -> Recipe:
    """Read a recipe file.

    Raises:
        PlanError: the file cannot be read, has an unknown key or value, or contradicts itself.
    """
    try:
        return parse(path.read_text(encoding="utf-8"), str(path))
    except (OSError, UnicodeDecodeError) as error:
        raise PlanError(f"{path}: cannot be read ({error})") from error


def parse(text: str, where: str = "recipe") -> Recipe:
    """Read a recipe from TOML; every message starts with ``where``.

    Raises:
        PlanError: the text has an unknown key or value, or contradicts itself.
    """
    try:
        data = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise PlanError(f"{where}: not TOML ({error})") from error
    _check_keys(where, data, KEYS)
    rules = data.pop("rule", [])
    if not isinstance(rules, list) or not all(isinstance(rule, dict) for rule in rules):
        raise PlanError(f"{where}: rule: write each rule as a table [[rule]]")
    recipe = Recipe(**{key: _value(where, key, value) for key, value in ({"scheme": None} | data).items()})
    recipe = replace(recipe, rules=tuple(_rule(f"{where}: rule {n}", rule) for n, rule in enumerate(rules, 1)))
    _check_consistency(where, recipe, set(data))
    return recipe


def write(recipe: Recipe) -> str:
    """Return the recipe as TOML, without default values; :func:`parse` returns the same recipe again."""
    lines = _assignments(recipe)
    for rule in recipe.rules:
        lines += ["", "[[rule]]", *_assignments(rule)]
    return "\n".join(lines) + "\n"


def _assignments(record: Recipe | Rule) -> list[str]:
    values = {field.name: getattr(record, field.name) for field in fields(record)}
    defaults = {field.name: field.default for field in fields(record)}
    return [f"{key} = {_toml(value)}" for key, value in values.items() if key != "rules" and value != defaults[key]]


def _toml(value: Any) -> str:
    """Return a string, a number or a list of strings in TOML; JSON differs for the delete character only."""
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")


def _rule(where: str, data: dict[str, Any]) -> Rule:
    _check_keys(where, data, ("scheme", *SELECTORS))
    rule = Rule(**{key: _value(where, key, value) for key, value in ({"scheme": None} | data).items()})
    if not any(getattr(rule, selector) for selector in SELECTORS):
        raise PlanError(f"{where}: selects nothing; add one or more of {', '.join(SELECTORS)}")
    return rule


def _check_keys(where: str, data: dict[str, Any], known: tuple[str, ...]) -> None:
    for key in data:
        if key not in known:
            raise PlanError(f"{where}: unknown key {key!r}; known: {', '.join(known)}")


def _value(where: str, key: str, value: Any) -> Any:
    """Check one value, and convert it to the type of the record's field."""
    if key == "scheme":
        if not isinstance(value, str):
            raise PlanError(f'{where}: the scheme is missing; add one, such as scheme = "int8-static"')
        return scheme(value).name
    if key == "percentile":
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not 50 < value < 100:
            raise PlanError(f"{where}: percentile = {value!r}: must be a number between 50 and 100, such as 99.99")
        return float(value)
    several = key in ("corrections", *SELECTORS)
    found = tuple(value) if several and isinstance(value, list) else (value,)
    wanted: type = int if key == "block_size" else str
    if not all(isinstance(item, wanted) and not isinstance(item, bool) for item in found):
        raise PlanError(f"{where}: {key} = {value!r}: must be {'numbers' if wanted is int else 'strings'}")
    for item in found:
        if key in WORDS and item not in WORDS[key]:
            raise PlanError(f"{where}: {key}: unknown value {item!r}; known: {', '.join(map(str, WORDS[key]))}")
    return found if several else found[0]


def _check_consistency(where: str, recipe: Recipe, keys: set[str]) -> None:
    if "percentile" in keys and recipe.statistics != "percentile":
        raise PlanError(f'{where}: percentile needs statistics = "percentile"')
    if recipe.block_size and not any(name.startswith("int4") for name in recipe.schemes):
        raise PlanError(f"{where}: block_size needs an int4 scheme")
    if {"bias", "bias-fast"} <= set(recipe.corrections):
        raise PlanError(f"{where}: corrections: bias and bias-fast are two variants of one correction; choose one")
    seen: dict[tuple[Any, ...], tuple[int, str]] = {}
    for number, rule in enumerate(recipe.rules, 1):
        selector = tuple(frozenset(getattr(rule, name)) for name in SELECTORS)
        before, other = seen.setdefault(selector, (number, rule.scheme))
        if other != rule.scheme:
            raise PlanError(
                f"{where}: rules {before} and {number} select the same layers with different schemes: "
                f"{other} and {rule.scheme}"
            )
