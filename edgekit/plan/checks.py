"""Rules between options: which go together, and which files must be there or must not be overwritten."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING

from edgekit.plan.declaration import check_paths, file_of, given
from edgekit.plan.options import AUTO, ConversionOptions
from edgekit.plan.postprocessing import read_labels
from edgekit_runtime.errors import PlanError

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

# without a search only this limit holds: the bundle is refused
WITHOUT_SEARCH = ("max_drop",)


def check(options: ConversionOptions) -> None:
    """Refuse options that contradict each other, before anything starts.

    Raises:
        PlanError: naming the options.
        DataError: data or a file of labels are not there.
        SourceError: a file of the model is not there.
    """
    data = options.data
    if data.samples == AUTO and not data.calibrate:
        raise PlanError(f"--samples {AUTO} needs --calibrate DATA to choose from")
    _check_search(options)
    _check_execution(options)
    if data.metric and not data.evaluate:
        raise PlanError("--metric needs --evaluate DATA to measure on")
    check_paths(options.model_input)
    check_paths(data)
    if options.outputs.labels:
        read_labels(Path(options.outputs.labels))


def _check_search(options: ConversionOptions) -> None:
    """Check the options of ``--quantize auto``."""
    quantize = options.targets.quantize
    searching = AUTO in quantize
    if searching and len(quantize) > 1:
        raise PlanError(f"--quantize {AUTO} tries every scheme that the devices allow: give no other scheme")
    if searching and options.targets.recipe:
        raise PlanError(f"--quantize {AUTO} makes its own recipes: leave out --recipe")
    if options.budget.max_drop is not None and not options.data.evaluate and not searching:
        raise PlanError("--max-drop needs --evaluate DATA to measure the drop on")
    for one in given(options.budget):
        if one.name not in WITHOUT_SEARCH and not searching:
            raise PlanError(f"{one.flag} goes with --quantize {AUTO}")


def _check_execution(options: ConversionOptions) -> None:
    """Check the options for parallel work."""
    execution = options.execution
    for flag, value in (("--jobs", execution.jobs), ("--ray", execution.ray)):
        if value is not None and not options.data.evaluate and AUTO not in options.targets.quantize:
            raise PlanError(f"{flag} goes with --evaluate or --quantize {AUTO}: nothing else runs in parallel")
    if execution.ray is not None and execution.jobs is not None:
        raise PlanError("--ray runs as many jobs as its cluster has cores: leave out --jobs")
    if execution.ray is not None and not execution.cache:
        raise PlanError("--ray needs the cache, through which nodes share results: leave out --no-cache")


def check_outputs(output: Path, options: DataclassInstance, also: tuple[str, ...] = ()) -> None:
    """Refuse an output that cannot be written, or that would overwrite another file of the command.

    Args:
        output: of the command, given or by default.
        options: of the command: a record of parts, whose files are read and written.
        also: other files that are read.

    Raises:
        PlanError: naming the option and the path.
    """
    parts = (getattr(options, field.name) for field in dataclasses.fields(options))
    paths = [(one, getattr(part, one.name)) for part in parts for one in given(part)]
    written = {"-o": output}
    written |= {one.flag: Path(value) for one, value in paths if one.option.path == "writes" and one.name != "output"}
    read = [value for one, value in paths if one.option.path == "reads"]
    taken = {file_of(text).resolve() for text in (*read, *also)}
    for flag, path in written.items():
        if not path.absolute().parent.is_dir():
            raise PlanError(f"{flag} {path}: there is no folder {path.absolute().parent}")
        if path.is_dir():
            raise PlanError(f"{flag} {path}: is a folder; give the name of a file")
        if path.resolve() in taken:
            raise PlanError(f"{flag} {path}: this command already reads or writes it; give another name")
        taken.add(path.resolve())
