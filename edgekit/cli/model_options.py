"""The click options of commands that open a model, made from their declarations in :mod:`edgekit.plan.options`."""

from __future__ import annotations

import contextlib
import typing
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import click

from edgekit.plan.option_declaration import Declaration, declarations, plain, words

Command = Callable[..., None]

ONLY_FORMATS = "Only the formats that this device runs; repeatable."


class Values(click.ParamType[Any]):
    """Text that click has no type for: ``a,b,c`` as a tuple of numbers, or a number or a word such as ``auto``."""

    def __init__(self, kind: Any, form: str) -> None:
        self.kind, self.name = kind, form

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Read the text."""
        kinds = typing.get_args(self.kind)
        try:
            if typing.get_origin(self.kind) is not tuple:
                return value if value in words(self.kind) else int(value)
            numbers = tuple(plain(kinds[0])(text) for text in value.split(","))
        except ValueError:
            self.fail(f"{value!r} is not of the form {self.name}", param, ctx)
        if Ellipsis not in kinds and len(numbers) != len(kinds):
            self.fail(f"{value!r} is not of the form {self.name}", param, ctx)
        return numbers


@contextlib.contextmanager
def epochs_kept() -> Iterator[None]:
    """Tell who interrupts a training how to continue it."""
    try:
        yield
    except KeyboardInterrupt:
        click.echo("finished epochs are kept: run the same command with --resume to continue", err=True)
        raise


def together(*options: Callable[[Command], Command]) -> Callable[[Command], Command]:
    """Give a command several options, in their order."""

    def give(command: Command) -> Command:
        for option in reversed(options):
            command = option(command)
        return command

    return give


def options_of(
    part: type,
    *names: str,
    omit: tuple[str, ...] = (),
    text: Mapping[str, str] | None = None,
    required: tuple[str, ...] = (),
    prefix: str = "",
    integers: tuple[str, ...] = (),
) -> Callable[[Command], Command]:
    """Give a command the options of a part.

    Args:
        part: a class of :mod:`edgekit.plan.options`.
        names: only these options; all without.
        omit: not these options.
        text: help that says something else in this command, by option.
        required: options that must be given.
        prefix: before each name: ``teacher`` makes ``--scale`` ``--teacher-scale``.
        integers: options that take no word beside a number in this command.
    """
    chosen = [one for one in declarations(part) if (not names or one.name in names) and one.name not in omit]
    decorators = []
    for one in chosen:
        help_text = (text or {}).get(one.name, one.metadata.help)
        decorators.append(_option(one, one.name, help_text, prefix=prefix, required=one.name in required))
        if one.name in integers:
            decorators[-1] = click.option(one.flag, one.name, type=int, metavar="N", help=help_text)
        decorators += [_option(one, alias, help_text, prefix=prefix, hidden=True) for alias in one.metadata.aliases]
    return together(*decorators)


def _option(declaration: Declaration, name: str, text: str, *, prefix: str, **settings: Any) -> Any:
    """Make a click option whose value is None, or (), where it is not given."""
    metadata, kind = declaration.metadata, declaration.kind
    parameter = f"{prefix}_{name}" if prefix else name
    flag = f"--{parameter.replace('_', '-')}"
    settings |= {"help": text, "default": None}
    if kind is bool and declaration.default is None:
        return click.option(f"{flag}/--no-{flag[2:]}", parameter, **settings)
    if kind is bool:
        named = f"--no-{flag[2:]}" if metadata.negative else flag
        return click.option(named, parameter, flag_value=not metadata.negative, type=bool, **settings)
    flags = (flag, *([metadata.short] if metadata.short and not prefix and not settings.get("hidden") else []))
    settings |= {"type": _type(declaration), "metavar": metadata.metavar}
    if declaration.repeatable:
        settings |= {"multiple": True, "default": ()}
    return click.option(*flags, parameter, **settings)


def _type(declaration: Declaration) -> Any:
    """Return the click type. It reads text; bounds are checked together with those of plan files."""
    metadata, kind = declaration.metadata, declaration.kind
    if declaration.repeatable or kind == str | float:
        return str
    if metadata.choices:
        return click.Choice(metadata.choices)
    return kind if kind in (str, int, float) else Values(kind, metadata.metavar or "")


json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON.")
quiet_option = click.option("--quiet", is_flag=True, help="Do not show progress.")
