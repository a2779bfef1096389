"""The file that pruning and distilling leave: a model that its own framework loads without edgekit."""

from __future__ import annotations

import json
import os
import shutil
import zipfile
from dataclasses import dataclass
from pathlib import Path

from edgekit.plan.options import Options, check_outputs
from edgekit_converters.execution.runner import Runner
from edgekit_converters.execution.stage_cache import digest
from edgekit_converters.frameworks.loaders import LOADERS
from edgekit_converters.load.save import Saved, SaveRequest
from edgekit_converters.records import Source, SourceRequest
from edgekit_runtime.errors import ConversionError, PlanError


@dataclass(frozen=True)
class SavedModelReport:
    """What was written."""

    path: str
    size_bytes: int
    sha256: str


def asked(options: Options, source: SourceRequest, *also: str) -> Path | None:
    """The place that was asked for, if any, held against what is known of the model before it is opened.

    Args:
        options: with the output as it was typed.
        source: the model that is to be saved there.
        also: other files that are read.

    Raises:
        PlanError: it cannot be written to, is read, or is named like no file that the model can be saved as.
    """
    if not options.output:
        return None
    output = Path(options.output)
    check_outputs(output, options, *also)
    suffixes = (".keras",) if _of_keras_3(source.path) else LOADERS[source.kind].saved_suffixes
    if suffixes:
        _check(output, suffixes)
    return output


def place(output: Path | None, name: str, saved: Path) -> Path:
    """Where the model goes: where it was asked for, else under a name of its own in the working folder.

    Args:
        output: as :func:`asked` says.
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
    saved: Saved = runner.run("save", LOADERS[source.request.kind].toolchain, SaveRequest(source))
    return saved.path


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
