"""The model file that prune and distill write; its framework loads it without edgekit."""

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
    """A written model file."""

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


def output_path(output: Path | None, name: str, saved: Path) -> Path:
    """Return the path to write: the requested one, else a name in the working folder.

    Args:
        output: from :func:`requested_path`.
        name: without suffix, if there is no ``output``.
        saved: the opened model, saved by its framework; its suffix is the right one.

    Raises:
        PlanError: the output has another suffix.
    """
    if output is None:
        return Path(f"{name}{saved.suffix}")
    _check(output, (saved.suffix,))
    return output


def _check(output: Path, suffixes: tuple[str, ...]) -> None:
    if output.suffix.lower() not in suffixes:
        raise PlanError(f"-o {output}: the model is saved as {' or '.join(suffixes)}; give a name with this suffix")


def _of_keras_3(path: Path) -> bool:
    """Tell whether Keras 3 wrote the file; tf_keras cannot open these."""
    try:
        with zipfile.ZipFile(path) as archive:
            return str(json.loads(archive.read("metadata.json"))["keras_version"]).startswith("3")
    except (OSError, zipfile.BadZipFile, LookupError, ValueError, TypeError):
        return False


def save_model(runner: Runner, source: Source) -> Path:
    """Save a Keras model or a PyTorch module into the command's own folder."""
    return runner.run(SAVE, SaveRequest(source)).path


def copy_to(file: Path, output: Path) -> None:
    """Copy a file to the output path; an error leaves no partial file.

    Raises:
        ConversionError: the path cannot be written.
    """
    unfinished = output.with_name(f".{output.name}.{os.getpid()}")
    try:
        shutil.copyfile(file, unfinished)
        unfinished.replace(output)
    except OSError as error:
        raise ConversionError(
            f"{output} cannot be written: {error.strerror or error}", stage="save", advice="give another path with -o"
        ) from error
    finally:
        unfinished.unlink(missing_ok=True)


def report_saved(file: Path, output: Path) -> SavedModelReport:
    """Describe the file that is written to an output path."""
    return SavedModelReport(str(output), file.stat().st_size, digest(file))
