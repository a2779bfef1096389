"""The options that say where a bundle is to run, for every verb that runs one."""

from __future__ import annotations

from argparse import ArgumentTypeError
from collections.abc import Callable
from typing import Any

import click

from edgekit.cli.model_options import Command, together
from edgekit_runtime.commands import arguments
from edgekit_runtime.placement.load_options import ISOLATE_S


class Read(click.ParamType[Any]):
    """A value that the runtime's own command line reads, so that both refuse the same."""

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
    Read("N", arguments.positive),
    Read("N|auto", arguments.threads),
    Read("[SECONDS]", arguments.seconds),
)


def sentence(said: str) -> str:
    """What argparse says as click says it."""
    return said[0].upper() + said[1:].replace(" [", ".  [")


def where(threads: Read = THREADS) -> Callable[[Command], Command]:
    """Give a command --key, --device, --require, --delegate, --delegate-options, --threads and --isolate."""
    fastest = "; auto: as many as are fastest here, measured once" if threads is THREADS else ""
    options = (
        click.option("--key", "trust", multiple=True, metavar="PUB.pem", help=sentence(arguments.KEY_HELP)),
        click.option("--device", default="auto", metavar="NAME", help="Prefer the variants of this device."),
        click.option("--require", metavar="WHAT", help="Only an engine, device, scheme or variant of this name."),
        click.option("--delegate", metavar="NAME|PATH", help="Try this delegate first: a known name, or a library."),
        click.option("--delegate-options", metavar="K=V,...", help="What the delegate is told, such as device=usb."),
        click.option("--threads", type=threads, metavar=threads.name, help=f"Threads of the engine{fastest}."),
        click.option(
            "--isolate",
            is_flag=False,
            flag_value=str(ISOLATE_S),
            type=SECONDS,
            help=f"Run in a child process, ended when a run takes longer ({ISOLATE_S:g} s unless said).",
        ),
    )

    return together(*options)
