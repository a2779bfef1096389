"""The files that a command writes."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING

from edgekit.plan.option_declaration import file_of, given_options
from edgekit_runtime.errors import PlanError

if TYPE_CHECKING:
    from _typeshed import DataclassInstance


def check_outputs(options: DataclassInstance, output: Path | None = None, also: tuple[str, ...] = ()) -> None:
    """Refuse an output that cannot be written, or that would overwrite another file of the command.

    Args:
        options: of the command: a record of parts, whose files are read and written.
        output: of the command, given or by default; None where it is not known yet.
        also: other files that are read.

    Raises:
        PlanError: naming the option and the path.
    """
    parts = (getattr(options, field.name) for field in dataclasses.fields(options))
    paths = [(one, getattr(part, one.name)) for part in parts for one in given_options(part)]
    written = {"-o": output} if output else {}
    written |= {one.flag: Path(value) for one, value in paths if one.metadata.path == "writes" and one.name != "output"}
    read = [value for one, value in paths if one.metadata.path == "reads"]
    taken = {file_of(text).resolve() for text in (*read, *also)}
    for flag, path in written.items():
        if not path.absolute().parent.is_dir():
            raise PlanError(f"{flag} {path}: there is no folder {path.absolute().parent}")
        if path.is_dir():
            raise PlanError(f"{flag} {path}: is a folder; give the name of a file")
        if path.resolve() in taken:
            raise PlanError(f"{flag} {path}: this command already reads or writes it; give another name")
        taken.add(path.resolve())
