"""``edgekit layers``."""

from __future__ import annotations

from typing import Any

import click

from edgekit.cli.model_options import ONLY_FORMATS, json_option, options_of, quiet_option
from edgekit.plan.data import DataPlan
from edgekit.plan.model import plan_model
from edgekit.plan.option_declaration import build
from edgekit.plan.options import ExecutionOptions, LayersOptions, ModelInput, TargetOptions
from edgekit.plan.plan import plan_artifacts


@click.command(context_settings={"max_content_width": 100})
@click.argument("model")
@options_of(ModelInput, omit=("model", "name"))
@options_of(TargetOptions, "device", text={"device": ONLY_FORMATS})
@options_of(ExecutionOptions, "cache")
@json_option
@quiet_option
def command(as_json: bool, quiet: bool, **typed: Any) -> None:
    """List the layers of MODEL, and the nodes that compute each of them in TFLite and IR.

    The rules of a recipe select layers by these names and types. Layers that a format fuses into one node, such as a
    convolution with its normalization and activation, share that node. A layer without a node was removed. --json
    prints node names in full.

    \b
    Examples:
      edgekit layers model.keras
      edgekit layers net.py:build --weights best.pth --input-shape 1,3,224,224 -d raspberry-pi-5
      edgekit layers model.pt2 --json
    """
    options = build(LayersOptions, typed)
    plan = plan_artifacts(plan_model(options.model_input), DataPlan(), options.targets, options.execution)
    from edgekit.cli import terminal
    from edgekit.conversion.layers import list_layers

    with terminal.progress(enabled=not quiet) as watch:
        report = list_layers(plan, watch)
    click.echo(report.to_json(), nl=False) if as_json else terminal.show_layers(report)
