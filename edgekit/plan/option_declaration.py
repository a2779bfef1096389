"""Declare an option once: the command line, plan files, Python callers and the reference all read the declaration.

An option is a field of a frozen dataclass, annotated with its type, its bounds and an :class:`Option`::

    epochs: Annotated[Annotated[int, Meta(ge=1)] | None, Option("Passes over the data.", "N")] = None

``None``, ``()`` and the default of a flag mean that the option was not given. msgspec checks types and bounds.
"""

from __future__ import annotations

import dataclasses
import difflib
import functools
import sys
import types
import typing
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

import msgspec
from msgspec import Meta

from edgekit_runtime.errors import PlanError

Record = TypeVar("Record")

FINITE = sys.float_info.max
Count = Annotated[int, Meta(ge=1)]
Finite = Annotated[float, Meta(ge=-FINITE, le=FINITE)]
Positive = Annotated[float, Meta(gt=0, le=FINITE)]
NotNegative = Annotated[float, Meta(ge=0, le=FINITE)]


@dataclass(frozen=True)
class Option:
    """What an option declares beside its type, bounds and default."""

    help: str
    metavar: str | None = None
    short: str | None = None  # such as "-q"
    aliases: tuple[str, ...] = ()  # older names: hidden on the command line, accepted in plan files and from Python
    path: Literal["reads", "writes", "folder"] | None = None  # a plan file gives it relative to its own folder
    missing: type[PlanError] | None = None  # raised for a path that is not there; None: by whoever reads it
    negative: bool = False  # a flag that is on by default: the command line has --no-NAME alone
    choices: tuple[str, ...] = ()  # of the value, or of each value
    accepts: str = ""  # for messages, where type and choices do not say it


@dataclass(frozen=True)
class Declaration:
    """An option as its field declares it."""

    name: str
    annotation: Any  # the type with its bounds, without the Option
    default: Any
    metadata: Option

    @property
    def flag(self) -> str:
        """The spelling on the command line, without a ``no-``."""
        return flag(self.name)

    @property
    def kind(self) -> Any:
        """The type without bounds and without None: ``int``, ``Literal[...]``, ``tuple[float, ...]``."""
        return plain(self.annotation)

    @property
    def required(self) -> bool:
        """Whether it has no default."""
        return self.default is dataclasses.MISSING

    @property
    def repeatable(self) -> bool:
        """Whether it takes several words."""
        return bool(self.kind == tuple[str, ...])

    def given(self, record: object) -> bool:
        """Tell whether a record has a value for it."""
        return bool(getattr(record, self.name) != self.default)

    def check(self, value: Any, subject: str) -> Any:
        """Return a value as the declared type.

        Args:
            value: from a plan file, from Python or from the command line.
            subject: the option and its value, for the message.

        Raises:
            PlanError: the value has another type or is out of bounds.
        """
        if isinstance(value, Path):
            value = str(value)
        if typing.get_origin(self.kind) is tuple:
            items = value if isinstance(value, (list, tuple)) else (value,)
            value = tuple(str(item) if isinstance(item, Path) else item for item in items)
        try:
            value = msgspec.convert(value, self.annotation)
        except msgspec.ValidationError as error:
            raise PlanError(f"{subject}: expected {self.accepts}") from error
        if self.metadata.choices and not set(_items(value)) <= set(self.metadata.choices):
            raise PlanError(f"{subject}: expected {self.accepts}")
        return value

    @property
    def accepts(self) -> str:
        """Describe the accepted values, such as ``a whole number of 1 or more``."""
        if self.metadata.choices:
            return f"one of {', '.join(self.metadata.choices)}"
        if self.metadata.path:
            return "a path"
        return self.metadata.accepts or _describe(msgspec.inspect.type_info(self.annotation))


def flag(name: str) -> str:
    """Return the command line's spelling of an option's name."""
    return f"--{name.replace('_', '-')}"


def plain(annotation: Any) -> Any:
    """Return an annotation without ``Annotated`` and None."""
    if typing.get_origin(annotation) is Annotated:
        return plain(typing.get_args(annotation)[0])
    if isinstance(annotation, types.UnionType) or typing.get_origin(annotation) is typing.Union:
        kept = [plain(one) for one in typing.get_args(annotation) if one is not type(None)]
        return functools.reduce(lambda left, right: left | right, kept)
    return annotation


def words(kind: Any) -> tuple[str, ...]:
    """Return the words that a type accepts beside numbers, such as ``auto``."""
    literals = [one for one in typing.get_args(kind) if typing.get_origin(one) is Literal]
    return tuple(word for one in literals for word in typing.get_args(one))


@functools.cache
def declarations(part: Any) -> tuple[Declaration, ...]:
    """Return the options that a part declares, in order."""
    hints = typing.get_type_hints(part, include_extras=True)
    found = []
    for field in dataclasses.fields(part):
        annotation, *extra = typing.get_args(hints[field.name])
        option = next(one for one in extra if isinstance(one, Option))
        for bounds in extra:
            annotation = annotation if bounds is option else Annotated[annotation, bounds]
        default = field.default if field.default_factory is dataclasses.MISSING else field.default_factory()
        found.append(Declaration(field.name, annotation, default, option))
    return tuple(found)


def parts(record: Any) -> dict[str, type]:
    """Return the parts of a command's options: name of the field and of the plan file's table -> part."""
    return typing.get_type_hints(record)


def names(record: type) -> dict[str, Declaration]:
    """Return every option of a command by its name and by its aliases."""
    options = [option for part in parts(record).values() for option in declarations(part)]
    return {name: option for option in options for name in (option.name, *option.metadata.aliases)}


def near_names(name: str, known: Mapping[str, Declaration]) -> str:
    """Return the end of a message about an unknown name: near matches, else all known names; aliases stay hidden."""
    near = difflib.get_close_matches(name, known, n=3, cutoff=0.6)
    if near:
        return f"did you mean {' or '.join(dict.fromkeys(known[match].name for match in near))}?"
    return f"known: {', '.join(dict.fromkeys(option.name for option in known.values()))}"


def by_name(record: type, values: Mapping[str, Any]) -> dict[str, Any]:
    """Return values under the documented names of their options; None and () are not given.

    Raises:
        PlanError: a name is unknown, or an option is given by two of its names.
    """
    known, found = names(record), dict[str, Any]()
    for name, value in values.items():
        if name not in known:
            raise PlanError(f"unknown option {name!r}; {near_names(name, known)}")
        if value is None or value == ():
            continue
        option = known[name]
        if option.name in found:
            raise PlanError(f"{option.flag} is given twice, by two of its names; leave one out")
        found[option.name] = value
    return found


def build(record: type[Record], values: Mapping[str, Any]) -> Record:
    """Make a command's options from names and values; those that are not given get their defaults.

    Raises:
        PlanError: a name is unknown, or a value is not accepted.
    """
    known = names(record)
    typed = {known[name].name: name for name, value in values.items() if name in known and value is not None}
    checked = {
        name: known[name].check(value, f"{flag(typed[name])} {text(value)}")
        for name, value in by_name(record, values).items()
    }
    filled = {
        field: part(**{option.name: checked[option.name] for option in declarations(part) if option.name in checked})
        for field, part in parts(record).items()
    }
    return record(**filled)


def given_options(part: Any) -> Iterator[Declaration]:
    """Yield the options that a part has values for."""
    kind: Any = type(part)
    return (option for option in declarations(kind) if option.given(part))


def check_paths(part: object) -> None:
    """Refuse files that a part names and that are not there.

    Raises:
        PlanError: of the class that the option declares.
    """
    for option in given_options(part):
        path = getattr(part, option.name)
        if option.metadata.missing and not file_of(path).exists():
            raise option.metadata.missing(f"{option.flag} {path}: no such file or folder")


def file_of(value: str) -> Path:
    """Return the file or folder that an option names: ``FILE.py`` of ``FILE.py:function``."""
    return Path(value.rpartition(":")[0] if ".py:" in value else value)


def text(value: Any) -> str:
    """Return a value as it would be typed."""
    return ",".join(map(str, value)) if isinstance(value, (list, tuple)) else str(value)


def _items(value: Any) -> tuple[Any, ...]:
    return value if isinstance(value, tuple) else (value,)


def _describe(info: Any) -> str:
    match info:
        case msgspec.inspect.Metadata(type=kind):
            described = _describe(kind)
        case msgspec.inspect.UnionType(types=kinds):
            described = ", or ".join(
                _describe(kind) for kind in kinds if not isinstance(kind, msgspec.inspect.NoneType)
            )
        case msgspec.inspect.LiteralType(values=values):
            described = ", ".join(map(str, values))
        case msgspec.inspect.VarTupleType(item_type=kind):
            described = f"a list, each entry {_describe(kind)}"
        case msgspec.inspect.IntType():
            described = f"a whole number{_bounds(info)}"
        case msgspec.inspect.FloatType():
            described = f"a number{_bounds(info)}"
        case msgspec.inspect.BoolType():
            described = "true or false"
        case _:
            described = "text"
    return described


def _bounds(info: Any) -> str:
    if info.ge is not None and info.ge > -FINITE and info.le not in (None, FINITE):
        return f" from {info.ge:g} to {info.le:g}"
    if info.ge is not None and info.ge > -FINITE:
        return f" of {info.ge:g} or more"
    if info.gt is not None and info.lt is not None:
        return f" above {info.gt:g} and below {info.lt:g}"
    return f" above {info.gt:g}" if info.gt is not None else ""
