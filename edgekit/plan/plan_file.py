"""Plan files: the options of ``edgekit convert`` as TOML, by name, at the top or in a table for each part."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Any

from edgekit.plan.option_declaration import Declaration, declarations, names, near_names, parts
from edgekit.plan.options import ConversionOptions
from edgekit_runtime.errors import PlanError


def read_plan(path: Path) -> dict[str, Any]:
    """Read a plan file: names and values of options, as :func:`edgekit.plan.option_declaration.build` takes them.

    Relative paths in it are relative to the folder of the file.

    Raises:
        PlanError: the file cannot be read, or has an unknown key or a value that the option does not accept.
    """
    try:
        data = tomllib.loads(path.read_text())
    except (OSError, UnicodeDecodeError) as error:
        raise PlanError(f"{path}: cannot be read ({error})") from error
    except tomllib.TOMLDecodeError as error:
        raise PlanError(f"{path}: not TOML ({error})") from error
    tables = {name: data.pop(name) for name in parts(ConversionOptions) if name in data}
    values: dict[str, Any] = {}
    for table, entries in [("", data), *tables.items()]:
        if not isinstance(entries, dict):
            raise PlanError(f"{path}: {table} = {entries!r} is not the table [{table}]")
        known = _known(table)
        place = f"{path}: [{table}]: " if table else f"{path}: "
        for key, value in entries.items():
            if key not in known:
                raise PlanError(f"{place}unknown key {key!r}; {near_names(key, known)}")
            option = known[key]
            if option.name in values:
                raise PlanError(f"{place}{key!r} is given twice; leave one out")
            values[option.name] = _beside(path, option, option.check(value, f"{place}{key} = {value!r}"))
    return values


def _known(table: str) -> dict[str, Declaration]:
    """Return the keys of a table; the top of the file has those of all tables."""
    if not table:
        return names(ConversionOptions)
    part = parts(ConversionOptions)[table]
    return {name: one for one in declarations(part) for name in (one.name, *one.metadata.aliases)}


def _beside(path: Path, option: Declaration, value: Any) -> Any:
    """Return a value with paths relative to the folder of the plan file; an absolute path stays as it is."""
    if option.metadata.path:
        return str(path.parent / value)
    if option.name == "device":
        return tuple(str(path.parent / name) if name.endswith(".toml") else name for name in value)
    return value
