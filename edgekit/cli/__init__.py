"""The command line: one file a verb, loaded when it is used; edgekit's errors become messages and exit codes."""

from __future__ import annotations

import importlib
import os
import signal
import sys
from typing import Any

import click

from edgekit.version import __version__
from edgekit_runtime.errors import EdgekitError

# verb: (module, one line for the overview)
COMMANDS = {
    "convert": ("edgekit.cli.commands.convert", "Convert a model into a verified bundle."),
    "distill": ("edgekit.cli.commands.distill", "Train a small model to answer as a large one does."),
    "prune": ("edgekit.cli.commands.prune", "Cut what of a model matters least, and recover what that costs."),
    "layers": ("edgekit.cli.commands.layers", "List a model's layers, and what becomes of each in either format."),
    "sensitivity": ("edgekit.cli.commands.sensitivity", "Tell which layers cost accuracy when they are quantized."),
    "inspect": ("edgekit.cli.commands.inspect", "Show what is in a bundle."),
    "keygen": ("edgekit.cli.commands.keygen", "Make a key that signs bundles, or encrypts them."),
    "encrypt": ("edgekit.cli.commands.encrypt", "Encrypt a bundle's artifacts."),
    "sign": ("edgekit.cli.commands.sign", "Sign a bundle."),
    "verify": ("edgekit.cli.commands.verify", "Check a bundle's files and its numbers on this machine."),
    "run": ("edgekit.cli.commands.run", "Run a bundle on an input."),
    "package": (
        "edgekit.cli.commands.package",
        "Package a bundle for an updater, a distribution or a microcontroller.",
    ),
    "delta": ("edgekit.cli.commands.delta", "Write what a board with an old bundle needs to have the new one."),
    "preflight": ("edgekit.cli.commands.preflight", "Tell which boards of a fleet can run a bundle."),
    "devices": ("edgekit.cli.commands.devices", "List the devices edgekit knows."),
}
INTERRUPTED, PIPE_CLOSED = 130, 141  # 128 and the signal's number, as shells say it


class Verbs(click.Group):
    """A group whose commands are imported when they are used."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return the verbs in the order of a user's work."""
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import a verb."""
        if cmd_name not in COMMANDS:
            return None
        command: click.Command = importlib.import_module(COMMANDS[cmd_name][0]).command
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """List the verbs without importing them."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, line) for name, (_, line) in COMMANDS.items()])


@click.group(cls=Verbs, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="edgekit")
def cli() -> None:
    """Turn trained Keras and PyTorch models into verified TFLite and OpenVINO bundles.

    \b
    edgekit convert model.keras -o model.edgekit --quantize int8 --calibrate images/
    edgekit inspect model.edgekit
    edgekit run model.edgekit cat.jpg
    """


def main(arguments: list[str] | None = None) -> Any:
    """Run the command line and exit."""
    for asked_to_end in (signal.SIGTERM, signal.SIGHUP):  # clean up as after Ctrl-C
        signal.signal(asked_to_end, signal.default_int_handler)
    try:
        cli.main(args=arguments, prog_name="edgekit", standalone_mode=False)
    except EdgekitError as error:
        click.echo(f"error: {error}", err=True)
        sys.exit(error.exit_code)
    except click.ClickException as error:
        error.show()
        sys.exit(error.exit_code)
    except (KeyboardInterrupt, click.Abort):
        click.echo("interrupted; nothing was written", err=True)
        sys.exit(INTERRUPTED)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(PIPE_CLOSED)
