"""The command line: commands are imported when they are used, and errors become messages and exit codes."""

from __future__ import annotations

import importlib
import os
import signal
import sys
from typing import Any

import click

from edgekit.version import __version__
from edgekit_runtime.errors import EdgekitError

# command: (module, one line for the overview)
COMMANDS = {
    "convert": ("edgekit.cli.commands.convert", "Convert a model into a verified bundle."),
    "distill": ("edgekit.cli.commands.distill", "Train a small model on the outputs of a large one."),
    "prune": ("edgekit.cli.commands.prune", "Remove the least important channels of a model, and fine-tune it."),
    "layers": ("edgekit.cli.commands.layers", "List a model's layers, and their nodes in each format."),
    "sensitivity": ("edgekit.cli.commands.sensitivity", "Show which layers lose accuracy when they are quantized."),
    "inspect": ("edgekit.cli.commands.inspect", "Show the content of a bundle."),
    "keygen": ("edgekit.cli.commands.keygen", "Make a key for signing or encryption."),
    "encrypt": ("edgekit.cli.commands.encrypt", "Encrypt a bundle's artifacts."),
    "sign": ("edgekit.cli.commands.sign", "Sign a bundle."),
    "verify": ("edgekit.cli.commands.verify", "Verify a bundle's files and outputs on this machine."),
    "run": ("edgekit.cli.commands.run", "Run a bundle on an input."),
    "package": (
        "edgekit.cli.commands.package",
        "Package a bundle for an updater, a distribution or a microcontroller.",
    ),
    "delta": ("edgekit.cli.commands.delta", "Write a delta that updates boards from one bundle to another."),
    "preflight": ("edgekit.cli.commands.preflight", "Report which boards of a fleet can run a bundle."),
    "devices": ("edgekit.cli.commands.devices", "List the device profiles."),
}
INTERRUPTED, PIPE_CLOSED = 130, 141  # 128 + signal number, as in a shell


class LazyGroup(click.Group):
    """A group whose commands are imported when they are used."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return the commands in the order in which users need them."""
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import a command."""
        if cmd_name not in COMMANDS:
            return None
        command: click.Command = importlib.import_module(COMMANDS[cmd_name][0]).command
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """List the commands without importing them."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, line) for name, (_, line) in COMMANDS.items()])


@click.group(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"]})
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
    for signal_number in (signal.SIGTERM, signal.SIGHUP):  # clean up as after Ctrl-C
        signal.signal(signal_number, signal.default_int_handler)
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
