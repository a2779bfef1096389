"""The file that pruning and distilling leave: a model that its own framework loads without edgekit."""

from __future__ import annotations

import json
import os
import shutil
import zipfile
from dataclasses import dataclass
from pathlib import Path

from edgekit.plan.options import PruneOptions, StudentOptions
from edgekit.plan.output_files import check_outputs
from edgekit_converters.execution.runner import Runner
from edgekit_converters.execution.stage_cache import digest
from edgekit_converters.frameworks.loaders import LOADERS
from edgekit_converters.load.save import SAVE, SaveRequest
from edgekit_converters.records import Source, SourceRequest
from edgekit_runtime.errors import ConversionError, PlanError


@dataclass(frozen=True)
class SavedModelReport:
    """What was written."""

    path: str
    size_bytes: int
    sha256: str


def requested_path(options: PruneOptions | StudentOptions, source: SourceRequest, *also: str) -> Path | None:
    """Return the path given by --output, checked before the model is opened; None where none is given.

    Args:
        options: of the command.
        source: the model that is saved there.
        also: other files that the command reads.

    Raises:
        PlanError: the path cannot be written, is read by the command, or has a suffix that does not fit the model.
    """
    output = Path(options.outputs.output) if options.outputs.output else None
    check_outputs(options, output, also)
    if output is None:
        return None
    suffixes = (".keras",) if _of_keras_3(source.path) else LOADERS[source.kind].saved_suffixes
    if suffixes:
        _check(output, suffixes)
    return output


def place(output: Path | None, name: str, saved: Path) -> Path:
    """Where the model goes: where it was asked for, else under a name of its own in the working folder.

    Args:
        output: from :func:`requested_path`.
        name: otherwise.
        saved: the model as it came, saved by the framework that opened it.

    Raises:
        PlanError: the output is named like another kind of file.
    """
    if output is None:
        return Path(f"{name}{saved.suffix}")
    _check(output, (saved.suffix,))
    return output


def _check(output: Path, suffixes: tuple[str, ...]) -> None:
    if output.suffix.lower() not in suffixes:
        raise PlanError(f"-o {output}: the model is saved as {' or '.join(suffixes)}; give a name that ends so")


def _of_keras_3(path: Path) -> bool:
    """Tell a file that Keras 3 wrote, which nothing else opens; of others Keras 3 is only the first to try."""
    try:
        with zipfile.ZipFile(path) as archive:
            return str(json.loads(archive.read("metadata.json"))["keras_version"]).startswith("3")
    except (OSError, zipfile.BadZipFile, LookupError, ValueError, TypeError):
        return False


def save(runner: Runner, source: Source) -> Path:
    """A Keras model or a PyTorch module as a file, among those of the command."""
    return runner.run(SAVE, SaveRequest(source)).path


def put(file: Path, output: Path) -> None:
    """Copy a file to where the user wants it, whole or not at all.

    Raises:
        ConversionError: it cannot be written there.
    """
    aside = output.with_name(f".{output.name}.{os.getpid()}")
    try:
        shutil.copyfile(file, aside)
        aside.replace(output)
    except OSError as error:
        raise ConversionError(
            f"{output} cannot be written: {error.strerror or error}", stage="save", advice="give another place with -o"
        ) from error
    finally:
        aside.unlink(missing_ok=True)


def told(file: Path, output: Path) -> SavedModelReport:
    """What is written when a file is put to an output."""
    return SavedModelReport(str(output), file.stat().st_size, digest(file))
