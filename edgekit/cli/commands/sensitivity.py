"""``edgekit sensitivity``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from edgekit.cli.model_options import ONLY_FORMATS, json_option, options_of, quiet_option
from edgekit.plan.data import plan_data
from edgekit.plan.model import plan_model
from edgekit.plan.option_declaration import build
from edgekit.plan.options import (
    DataOptions,
    ExecutionOptions,
    ModelInput,
    OutputOptions,
    PreprocessingOptions,
    SensitivityOptions,
    TargetOptions,
)
from edgekit.plan.output_files import check_outputs
from edgekit.plan.plan import plan_artifacts
from edgekit_converters.recipe import toml
from edgekit_runtime.errors import ConversionError

COUNT = click.IntRange(min=1)


@click.command(context_settings={"max_content_width": 100})
@click.argument("model")
@options_of(DataOptions, "calibrate", required=("calibrate",))
@options_of(DataOptions, "evaluate", "metric")
@click.option("--exact", is_flag=True, help="Also make two artifacts per layer: only it quantized, and all but it.")
@click.option("--quantize", "-q", metavar="SCHEME", help="Scheme of the layers.  [default: int8-static]")
@options_of(TargetOptions, "recipe", text={"recipe": "Recipe of the layers, instead of a scheme."})
@click.option("--write-recipe", metavar="FILE.toml", help="Write a recipe that keeps the worst layers in float.")
@click.option("--float-layers", type=COUNT, metavar="N", help="In that recipe: keep the N worst layers in float.")
@click.option("--keep", type=COUNT, hidden=True, metavar="N")
@click.option(
    "--float-below-db", type=float, metavar="X", help="In that recipe: keep layers in float that alone give under X dB."
)
@click.option("--keep-db", type=float, hidden=True, metavar="X")
@options_of(OutputOptions, "report")
@options_of(ModelInput, omit=("model", "name"))
@options_of(TargetOptions, "device", text={"device": ONLY_FORMATS})
@options_of(DataOptions, "samples", integers=("samples",), text={"samples": "Use at most N calibration samples."})
@options_of(DataOptions, "layout")
@options_of(PreprocessingOptions)
@options_of(TargetOptions, "auto_fix", text={"auto_fix": "Quantize the graph as it is; see `edgekit convert`."})
@options_of(ExecutionOptions, "cache")
@json_option
@quiet_option
def command(**typed: Any) -> None:
    """List the layers of MODEL by the accuracy they lose when quantized, in TFLite and in IR; the worst come first.

    The float and the quantized model run on up to 64 calibration samples; no labels are needed. --exact also quantizes
    the model twice for every layer, which takes long. Results are cached, so an interrupted command can be repeated.

    \b
    Examples:
      edgekit sensitivity model.keras --calibrate train.npz
      edgekit sensitivity model.keras --calibrate train.npz --write-recipe recipe.toml --float-layers 3
      edgekit convert model.keras --recipe recipe.toml --calibrate train.npz --evaluate test.npz
      edgekit sensitivity model.keras --calibrate train.npz --evaluate test.npz --exact --report layers.html
    """
    own = {name: typed.pop(name) for name in ("exact", "write_recipe", "as_json", "quiet")}
    own["count"] = _either(typed, "float_layers", "keep")
    own["below_db"] = _either(typed, "float_below_db", "keep_db")
    _check(own, typed)
    options = build(SensitivityOptions, typed)
    check_outputs(options)
    data = plan_data(options.data, options.preprocessing)
    plan = plan_artifacts(plan_model(options.model_input), data, options.targets, options.execution)
    from edgekit.conversion.sensitivity import measure_sensitivity, recipe_to_measure, with_float_layers

    recipe_to_measure(plan.targets)  # refuse before the model is loaded
    from edgekit.cli import terminal
    from edgekit.report.sensitivity_html import page

    with terminal.progress(enabled=not own["quiet"]) as watch:
        report = measure_sensitivity(plan, exact=own["exact"], watch=watch)
    if own["write_recipe"]:
        recipe = with_float_layers(report, count=own["count"], below_db=own["below_db"])
        _write(Path(own["write_recipe"]), toml.write(recipe))
    if options.outputs.report:
        path = Path(options.outputs.report)
        _write(path, page(report) if path.suffix == ".html" else report.to_json())
    click.echo(report.to_json(), nl=False) if own["as_json"] else terminal.show_sensitivity(report)


def _either(typed: dict[str, Any], name: str, alias: str) -> Any:
    """Return the value of an option that also has an older name."""
    value, older = typed.pop(name), typed.pop(alias)
    return older if value is None else value


def _check(own: dict[str, Any], typed: dict[str, Any]) -> None:
    """Check options that contradict each other, and paths, before anything is computed."""
    if typed["quantize"] and typed["recipe"]:
        raise click.UsageError("--recipe has a scheme: leave out --quantize")
    if own["count"] is not None and own["below_db"] is not None:
        raise click.UsageError("--float-layers and --float-below-db both select layers; give one")
    if (own["count"] is not None or own["below_db"] is not None) and not own["write_recipe"]:
        raise click.UsageError("--float-layers and --float-below-db go with --write-recipe FILE.toml")
    if typed["report"] and Path(typed["report"]).suffix not in (".html", ".json"):
        raise click.UsageError(f"--report {typed['report']}: give a name that ends in .html or .json")
    if own["write_recipe"] and not Path(own["write_recipe"]).absolute().parent.is_dir():
        raise click.UsageError(f"--write-recipe {own['write_recipe']}: there is no such folder")


def _write(path: Path, text: str) -> None:
    try:
        path.write_text(text, encoding="utf-8")
    except OSError as error:
        raise ConversionError(f"{path} cannot be written: {error.strerror or error}", stage="sensitivity") from error
