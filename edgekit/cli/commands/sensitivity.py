"""``edgekit sensitivity``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from edgekit.cli.model_options import data_options, evaluation_options, model_options, run_options
from edgekit.plan.options import Options
from edgekit.plan.plan import resolve
from edgekit_converters.recipe import toml
from edgekit_runtime.errors import ConversionError


@click.command(context_settings={"max_content_width": 100})
@click.argument("model")
@click.option("--calibrate", required=True, metavar="DATA", help="Folder of images, .npz, .npy or FILE.py:function.")
@evaluation_options
@click.option("--exact", is_flag=True, help="Make and measure two artifacts a layer: only it quantized, only it not.")
@click.option("--quantize", "-q", metavar="SCHEME", help="What layers are quantized to.  [default: int8-static]")
@click.option("--recipe", metavar="FILE.toml", help="What layers are quantized to, instead of a scheme.")
@click.option("--write-recipe", metavar="FILE.toml", help="Write a recipe that keeps the worst layers in float.")
@click.option("--keep", type=click.IntRange(min=1), metavar="N", help="In that recipe: the N worst.")
@click.option("--keep-db", type=float, metavar="X", help="In that recipe: those that alone leave less than X dB.")
@click.option("--report", metavar="FILE.html|.json", help="Write the figures: as a page with a chart, or as JSON.")
@model_options
@click.option("--device", "-d", multiple=True, metavar="NAME", help="Only the formats this device runs; repeatable.")
@click.option("--samples", type=int, metavar="N", help="Use at most N calibration samples.")
@data_options
@click.option("--no-remedies", "remedies", flag_value=False, type=bool, default=True, help="As `edgekit convert` does.")
@run_options
def command(**options: Any) -> None:
    """Tell which layers of MODEL cost accuracy when they are quantized, in TFLite and in IR; the worst come first.

    Without labels, from one run of the float and the quantized model on up to 64 calibration samples. --exact quantizes
    twice for every layer, which takes long; what was made is cached, so the command may be interrupted and go on.

    \b
    Examples:
      edgekit sensitivity model.keras --calibrate train.npz
      edgekit sensitivity model.keras --calibrate train.npz --write-recipe recipe.toml --keep 3
      edgekit convert model.keras --recipe recipe.toml --calibrate train.npz --evaluate test.npz
      edgekit sensitivity model.keras --calibrate train.npz --evaluate test.npz --exact --report layers.html
    """
    own = {name: options.pop(name) for name in ("exact", "write_recipe", "keep", "keep_db", "as_json", "quiet")}
    _check(own, options)
    options["quantize"] = (options["quantize"],) if options["quantize"] else ()
    plan = resolve(Options(**{name: value for name, value in options.items() if value is not None}))
    from edgekit.conversion.sensitivity import keeping, recipe_of, sense

    recipe_of(plan)  # what cannot be is refused before anything is loaded
    from edgekit.cli import terminal
    from edgekit.report.sensitivity_html import page

    with terminal.progress(enabled=not own["quiet"]) as watch:
        report = sense(plan, exact=own["exact"], watch=watch)
    if own["write_recipe"]:
        recipe = keeping(report, count=own["keep"], below_db=own["keep_db"])
        _write(Path(own["write_recipe"]), toml.write(recipe))
    if plan.report:
        _write(plan.report, page(report) if plan.report.suffix == ".html" else report.to_json())
    click.echo(report.to_json(), nl=False) if own["as_json"] else terminal.show_sensitivity(report)


def _check(own: dict[str, Any], options: dict[str, Any]) -> None:
    """Refuse what contradicts itself or cannot be written, before anything is computed."""
    if options["quantize"] and options["recipe"]:
        raise click.UsageError("--recipe says the scheme: leave --quantize out")
    if own["keep"] is not None and own["keep_db"] is not None:
        raise click.UsageError("--keep and --keep-db are two ways to say which layers; take one")
    if (own["keep"] is not None or own["keep_db"] is not None) and not own["write_recipe"]:
        raise click.UsageError("--keep and --keep-db go with --write-recipe FILE.toml")
    if options["report"] and Path(options["report"]).suffix not in (".html", ".json"):
        raise click.UsageError(f"--report {options['report']}: give a name that ends in .html or .json")
    if own["write_recipe"] and not Path(own["write_recipe"]).absolute().parent.is_dir():
        raise click.UsageError(f"--write-recipe {own['write_recipe']}: there is no such folder")


def _write(path: Path, text: str) -> None:
    try:
        path.write_text(text, encoding="utf-8")
    except OSError as error:
        raise ConversionError(f"{path} cannot be written: {error.strerror or error}", stage="sensitivity") from error
