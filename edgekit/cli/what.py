"""The options that say what the model and its data are, for every verb that loads one."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import click

Command = Callable[..., None]


class Numbers(click.ParamType[Any]):
    """``a,b,c`` as a tuple of numbers."""

    def __init__(self, kind: type[int] | type[float], count: int | None = None) -> None:
        self.kind, self.count = kind, count
        self.name = "H,W" if count == 2 else "a,b,c"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Read the text."""
        if isinstance(value, tuple):
            return value
        try:
            numbers = tuple(self.kind(part) for part in str(value).split(","))
        except ValueError:
            self.fail(f"{value!r} is not of the form {self.name}", param, ctx)
        if self.count is not None and len(numbers) != self.count:
            self.fail(f"{value!r} is not of the form {self.name}", param, ctx)
        return numbers


def together(*options: Callable[[Command], Command]) -> Callable[[Command], Command]:
    """Give a command several options, in their order."""

    def give(command: Command) -> Command:
        for option in reversed(options):
            command = option(command)
        return command

    return give


model_options = together(
    click.option("--weights", metavar="FILE", help="State dict for FILE.py:function."),
    click.option(
        "--input-shape", multiple=True, metavar="[NAME=]1,3,H,W", help="Shape of an input the model leaves open."
    ),
    click.option("--custom-objects", metavar="FILE.py", help="Python file that defines a Keras model's custom layers."),
    click.option("--allow-pickle", is_flag=True, help="Load pickled modules and Lambda layers: runs the file's code."),
    click.option("--keep-layout", is_flag=True, help="Keep a PyTorch model's NCHW inputs instead of taking NHWC."),
)
data_options = together(
    click.option("--layout", type=click.Choice(["NHWC", "NCHW"]), help="Layout of the data, where it cannot be told."),
    click.option("--resize", type=Numbers(int, 2), help="Preprocessing: resize images."),
    click.option("--scale", type=float, metavar="S", help="Preprocessing: x*S, first."),
    click.option("--mean", type=Numbers(float), help="Preprocessing: subtracted after --scale, per channel."),
    click.option("--std", type=Numbers(float), help="Preprocessing: divides at last, per channel."),
)
