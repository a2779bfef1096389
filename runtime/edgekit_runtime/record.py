"""Frozen dataclasses that are fast to define.

``dataclasses`` generates and compiles six methods for each class. Here all classes share the same methods. The classes
behave as ``dataclass(frozen=True)`` defines, and ``dataclasses.fields``, ``asdict``, ``replace`` and ``is_dataclass``
accept them.

With ``dataclasses``, importing ``edgekit_runtime.load`` takes almost three times as long
(docs/decisions/0017-small-parts-of-our-own-on-the-board.md has the figures).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Callable, TypeVar

if TYPE_CHECKING:
    from dataclasses import dataclass, field, replace

__all__ = ["dataclass", "field", "replace", "required_fields"]

T = TypeVar("T")


class _Factory:
    """Marks a field whose default is made anew for each record."""

    def __init__(self, make: Callable[[], Any]) -> None:
        self.make = make


class _Fields:
    """Builds ``__dataclass_fields__`` when the ``dataclasses`` module first reads it."""

    def __get__(self, _: object, kind: Any) -> dict[str, Any]:
        import dataclasses

        body: dict[str, Any] = {"__annotations__": kind.__annotations__, "__module__": kind.__module__}
        for name, default in kind.__defaults__.items():
            is_factory = isinstance(default, _Factory)
            body[name] = dataclasses.field(default_factory=default.make) if is_factory else default
        copy: Any = dataclasses.dataclass(type(kind.__name__, (), body))
        found: dict[str, Any] = copy.__dataclass_fields__
        kind.__dataclass_fields__ = found  # replaces this descriptor
        return found


def required_fields(kind: type) -> set[str]:
    """Return the fields of a record class that have no default."""
    return set(kind.__match_args__) - set(kind.__defaults__)  # type: ignore[attr-defined]


def _init(self: Any, *args: Any, **keywords: Any) -> None:
    kind = type(self)
    names, values = kind.__match_args__, dict(zip(kind.__match_args__, args))
    wrong = [name for name in keywords if name not in names or name in values]
    if wrong or len(args) > len(names):
        problem = f"has no field {wrong[0]!r}, or it was given twice" if wrong else f"has {len(names)} fields"
        raise TypeError(f"{kind.__name__} {problem}")
    values.update(keywords)
    fields = self.__dict__
    for name in names:
        if name in values:
            fields[name] = values[name]
        elif name in kind.__defaults__:
            default = kind.__defaults__[name]
            fields[name] = default.make() if type(default) is _Factory else default
        else:
            raise TypeError(f"{kind.__name__} needs {name!r}")


def _values(self: Any) -> tuple[Any, ...]:
    return tuple(self.__dict__[name] for name in self.__match_args__)


def _eq(self: Any, other: object) -> Any:
    return _values(self) == _values(other) if type(other) is type(self) else NotImplemented


def _hash(self: Any) -> int:
    return hash(_values(self))


def _repr(self: Any) -> str:
    shown = ", ".join(f"{name}={self.__dict__[name]!r}" for name in self.__match_args__)
    return f"{type(self).__qualname__}({shown})"


def _frozen(self: Any, name: str, value: object = None) -> None:
    raise AttributeError(f"{type(self).__name__} is frozen: {name!r} cannot be changed")


_SHARED = {
    "__init__": _init,
    "__eq__": _eq,
    "__hash__": _hash,
    "__repr__": _repr,
    "__setattr__": _frozen,
    "__delattr__": _frozen,
    "__dataclass_fields__": _Fields(),
}

if not TYPE_CHECKING:

    def field(*, default_factory: Callable[[], Any]) -> Any:
        """Declare a field whose default is made anew for each record."""
        return _Factory(default_factory)

    def dataclass(*, frozen: bool) -> Callable[[type[T]], type[T]]:
        """Turn a class without bases into a frozen record of its annotated names; ``frozen`` must be True."""
        if not frozen:
            raise TypeError("a record is frozen")

        def make(kind: type[T]) -> type[T]:
            kind.__match_args__ = tuple(kind.__annotations__)
            kind.__defaults__ = {name: vars(kind)[name] for name in kind.__match_args__ if name in vars(kind)}
            for name, shared in _SHARED.items():
                setattr(kind, name, shared)
            return kind

        return make

    def replace(record: T, **changes: Any) -> T:
        """Return a copy of the record with some fields changed."""
        return type(record)(**{**record.__dict__, **changes})
