"""The options of commands that run a bundle: device, engine, delegate, threads."""

from __future__ import annotations

from argparse import ArgumentTypeError
from collections.abc import Callable
from typing import Any

import click

from edgekit.cli.model_options import Command, together
from edgekit_runtime.commands import arguments
from edgekit_runtime.placement.load_options import ISOLATE_S


class RuntimeValue(click.ParamType[Any]):
    """A value read by the runtime's command line, so that both accept the same."""

    def __init__(self, name: str, read: Callable[[str], Any]) -> None:
        self.name, self.read = name, read

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Read the text."""
        try:
            return self.read(str(value))
        except ArgumentTypeError as error:
            self.fail(str(error), param, ctx)
        except ValueError:
            self.fail(f"{value!r} is not {self.name}", param, ctx)


COUNT, THREADS, SECONDS = (
    RuntimeValue("N", arguments.positive),
    RuntimeValue("N|auto", arguments.threads),
    RuntimeValue("[SECONDS]", arguments.seconds),
)


def sentence(text: str) -> str:
    """Return help text of argparse in the style of click."""
    return text[0].upper() + text[1:].replace(" [", ".  [")


def engine_options(threads: RuntimeValue = THREADS) -> Callable[[Command], Command]:
    """Give a command --key, --device, --require, --delegate, --delegate-options, --threads and --isolate."""
    automatic = "; auto: the fastest number, measured once" if threads is THREADS else ""
    options = (
        click.option("--key", "trust", multiple=True, metavar="PUB.pem", help=sentence(arguments.KEY_HELP)),
        click.option("--device", default="auto", metavar="NAME", help="Prefer the variants of this device."),
        click.option("--require", metavar="NAME", help="Use only variants of this engine, device, scheme or name."),
        click.option("--delegate", metavar="NAME|PATH", help="Try this delegate first: a name or a library."),
        click.option("--delegate-options", metavar="K=V,...", help="Options of the delegate, such as device=usb."),
        click.option("--threads", type=threads, metavar=threads.name, help=f"Threads of the engine{automatic}."),
        click.option(
            "--isolate",
            is_flag=False,
            flag_value=str(ISOLATE_S),
            type=SECONDS,
            help=f"Run in a child process with this time limit.  [default: {ISOLATE_S:g} s]",
        ),
    )

    return together(*options)
