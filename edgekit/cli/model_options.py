"""The options of verbs that load a model: what it and its data are, and what is said meanwhile and at the end."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import click

from edgekit_converters.prune import IMPORTANCES
from edgekit_converters.train import OPTIMIZERS, SCHEDULES

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


@contextlib.contextmanager
def epochs_kept() -> Iterator[None]:
    """Tell who interrupts a training how it goes on."""
    try:
        yield
    except KeyboardInterrupt:
        click.echo("epochs that were finished are kept: the same command with --resume goes on after them", err=True)
        raise


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
pruning_options = together(
    click.option("--prune", type=float, metavar="R", help="Cut this part of all channels, such as 0.5."),
    click.option("--prune-to", metavar="WHAT=R", help="Cut until latency, size or macs are that part, as latency=0.5."),
    click.option(
        "--sparsity", metavar="S|N:M", help="Set this part of the weights to zero; or leave N of each M, 2:4."
    ),
    click.option(
        "--importance", type=click.Choice(IMPORTANCES), help="Pruning: what a channel is worth.  [default: taylor, l2]"
    ),
    click.option(
        "--round-to", type=int, metavar="N", help="Pruning: channels left, a multiple.  [default: 8; of few, less]"
    ),
    click.option("--floor", type=float, metavar="R", help="Pruning: least part left of a layer.  [default: 0.1]"),
    click.option("--keep", multiple=True, metavar="LAYER", help="Pruning: leave layers whole; a pattern, repeatable."),
    click.option("--per-layer", is_flag=True, help="Pruning: the same part of every layer, not where it harms least."),
    click.option(
        "--depth/--no-depth",
        default=None,
        help="Pruning: residual branches may go whole.  [default: where there is training]",
    ),
    click.option("--rounds", type=int, metavar="N", help="Pruning: prune and recover N times, further each time."),
    click.option("--latency-table", metavar="FILE", help="Pruning: times of layers, measured on another machine."),
    click.option("--write-latency-table", metavar="FILE", help="Pruning: write the times of layers that it measured."),
)
training_options = together(
    click.option(
        "--train", metavar="DATA", help="Data to train on: a folder of images, .npz, .npy or FILE.py:function."
    ),
    click.option("--validate", metavar="DATA", help="Says which epoch was best.  [default: a tenth of --train]"),
    click.option("--epochs", type=int, metavar="N", help="Passes over the training data.  [default: 10]"),
    click.option("--optimizer", type=click.Choice(OPTIMIZERS), help="[default: adam]"),
    click.option("--learning-rate", type=float, metavar="X", help="The highest.  [default: 0.001]"),
    click.option("--schedule", type=click.Choice(SCHEDULES), help="How the rate falls.  [default: cosine]"),
    click.option("--warm-up", type=float, metavar="N", help="Epochs over which the rate rises.  [default: 0.5]"),
    click.option("--batch-size", type=int, metavar="N", help="Samples a step.  [default: 64]"),
    click.option("--weight-decay", type=float, metavar="X", help="Shrink weights.  [default: 0]"),
    click.option(
        "--patience", type=int, metavar="N", help="Stop after N epochs without a better one.  [default: never]"
    ),
    click.option("--augment", multiple=True, metavar="NAME", help="flip, shift: vary training images; repeatable."),
    click.option("--temperature", type=float, metavar="T", help="Softens the teacher's answers.  [default: 4]"),
    click.option("--teacher-share", type=float, metavar="X", help="Of the loss; labels have the rest.  [default: 0.7]"),
    click.option("--hints", is_flag=True, help="Also match where the teacher's features are strong."),
    click.option(
        "--quantize-aware",
        metavar="SCHEME",
        help="Train with the arithmetic of int8-static, int16x8-static, int8-weights or int4-weights.",
    ),
    click.option("--mixed-precision", is_flag=True, help="Compute in bfloat16 where that is safe."),
    click.option("--seed", type=int, metavar="N", help="Of everything random in training.  [default: 0]"),
    click.option("--resume", is_flag=True, help="Go on after the last epoch of this training when it was interrupted."),
    click.option("--log-dir", metavar="FOLDER", help="Write TensorBoard's event files there."),
    click.option("--wandb", metavar="PROJECT", help="Tell Weights & Biases."),
)
data_options = together(
    click.option("--layout", type=click.Choice(["NHWC", "NCHW"]), help="Layout of the data, where it cannot be told."),
    click.option("--resize", type=Numbers(int, 2), help="Preprocessing: resize images."),
    click.option("--scale", type=float, metavar="S", help="Preprocessing: x*S, first."),
    click.option("--mean", type=Numbers(float), help="Preprocessing: subtracted after --scale, per channel."),
    click.option("--std", type=Numbers(float), help="Preprocessing: divides at last, per channel."),
)
evaluation_options = together(
    click.option("--evaluate", metavar="DATA", help="Labelled data to measure accuracy on."),
    click.option("--metric", metavar="FILE.py:FUNC", help="Own metric, (outputs, labels) -> score; higher is better."),
)
report_option = click.option(
    "--report", metavar="FILE.json|.html", help="Write what was made and measured; as a page with a chart."
)
run_options = together(
    click.option(
        "--no-cache", "cache", flag_value=False, type=bool, default=None, help="Neither use nor keep stage results."
    ),
    click.option("--json", "as_json", is_flag=True, help="Print JSON."),
    click.option("--quiet", is_flag=True, help="No progress."),
)
