"""Store a teacher's outputs before the training, so that the teacher may be of any framework that can be loaded."""

from __future__ import annotations

import pkgutil
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np

from edgekit_converters.data import normalize
from edgekit_converters.data.samples import Array
from edgekit_converters.execution.stage import Stage
from edgekit_converters.frameworks import framework
from edgekit_converters.frameworks.loaded_model import Arrays
from edgekit_converters.load import open_source, reopen
from edgekit_converters.progress import report_progress
from edgekit_converters.records import Source
from edgekit_converters.train import TeacherOutputs, TeacherOutputsRequest
from edgekit_converters.train.augment import Augmentation, check
from edgekit_runtime.errors import PlanError, SourceError
from edgekit_runtime.format.manifest import InputSpec

BATCH = 64


def teacher_outputs(request: TeacherOutputsRequest, folder: Path) -> TeacherOutputs:
    """The stage: run the teacher on every variant of every sample.

    Raises:
        DataError: what is no image was to be augmented.
        SourceError: the teacher computes NaN or infinity, or does not show its features.
    """
    check(request.augment, request.taken)
    run = _observed(request)
    outputs: list[Array] = []
    map_files: list[Array] = []
    for variant, rows, batch in _batches(request):
        answers, maps = run(batch)
        if not outputs:
            outputs = _files(folder, "output", request, answers)
            map_files = _files(folder, "hint", request, maps)
        for file, array in zip([*outputs, *map_files], [*answers, *maps], strict=True):
            _check_finite(request, array, rows)
            file[variant, rows] = array
        report_progress(variant * request.data.count + int(rows[-1]) + 1, request.variants * request.data.count)
    return TeacherOutputs(
        outputs=tuple(folder / f"output-{index}.npy" for index in range(len(outputs))),
        attention_maps=tuple(folder / f"hint-{index}.npy" for index in range(len(map_files))),
        variants=request.variants,
    )


TEACHER_OUTPUTS = Stage(teacher_outputs, toolchain=lambda request: request.teacher.toolchain)


def check_pair(teacher: Source, student: Source) -> None:
    """Refuse a teacher whose inputs or outputs differ from the student's.

    Raises:
        PlanError: with both shapes.
    """
    for own, taken in zip(teacher.inputs, student.inputs, strict=False):
        if _shape_in(own.layout, taken) != own.shape[1:]:
            raise PlanError(
                f"the teacher takes {own.name!r} {own.shape}, the student {taken.name!r} {taken.shape}: both are "
                f"given the same samples, so a size left open must be said, with --input-shape, to be the other's"
            )
    if len(teacher.inputs) != len(student.inputs):
        raise PlanError(f"the teacher takes {len(teacher.inputs)} inputs, the student {len(student.inputs)}")
    ours, theirs = ([spec.shape for spec in one.outputs] for one in (student, teacher))
    if ours != theirs:
        raise PlanError(f"the teacher gives {_listed(theirs)}, the student {_listed(ours)}: these must be the same")


def _listed(shapes: list[tuple[int, ...]]) -> str:
    return ", ".join(map(str, shapes))


def _observed(request: TeacherOutputsRequest) -> Callable[[Arrays], tuple[Arrays, Arrays]]:
    if not request.attention_transfer:
        run = open_source(request.teacher.request).run
        return lambda batch: (run(batch), [])
    live = reopen(request.teacher.request)  # it is looked into, which leaves marks
    found = framework(live.framework).trainable
    if found is None:
        raise SourceError(
            f"{request.teacher.request.path}: a teacher of {live.framework} does not show its features: "
            f"leave --attention-transfer out, or give the trained Keras or PyTorch model"
        )
    give: Callable[[Arrays], tuple[Arrays, Arrays]] = pkgutil.resolve_name(found.attention_maps)(live)
    return give


def _batches(request: TeacherOutputsRequest) -> Iterator[tuple[int, Array, Arrays]]:
    """Yield every variant of every sample: its number, the rows, and what the teacher takes of them."""
    columns = [np.load(path, mmap_mode="r") for path in request.data.inputs]
    augmentation = Augmentation(request.augment, request.seed, request.data.count)
    for variant in range(request.variants):
        for start in range(0, request.data.count, BATCH):
            rows = np.arange(start, min(start + BATCH, request.data.count))
            yield (
                variant,
                rows,
                [
                    normalize(_turned(augmentation.apply(column[rows], taken, rows, variant), taken, own), own)
                    for column, taken, own in zip(columns, request.taken, request.inputs, strict=True)
                ],
            )


def _turned(images: Array, taken: InputSpec, own: InputSpec) -> Array:
    """Bring samples from the student's layout to the teacher's."""
    if own.layout == taken.layout or own.layout is None or taken.layout is None:
        return images
    return np.moveaxis(images, 1, -1) if taken.layout == "NCHW" else np.moveaxis(images, -1, 1)


def _shape_in(layout: str | None, taken: InputSpec) -> tuple[int, ...]:
    """The shape of a sample in another layout."""
    shape = taken.shape[1:]
    if layout == taken.layout or layout is None or taken.layout is None:
        return shape
    return (*shape[1:], shape[0]) if taken.layout == "NCHW" else (shape[-1], *shape[:-1])


def _files(folder: Path, name: str, request: TeacherOutputsRequest, arrays: Arrays) -> list[Array]:
    """Make a file for each array of a batch: (variants, samples, *its shape without batch)."""
    whole = (request.variants, request.data.count)
    return [
        np.lib.format.open_memmap(folder / f"{name}-{index}.npy", "w+", np.float32, (*whole, *array.shape[1:]))
        for index, array in enumerate(arrays)
    ]


def _check_finite(request: TeacherOutputsRequest, array: Array, rows: Array) -> None:
    bad = rows[~np.isfinite(array.reshape(len(array), -1)).all(axis=1)]
    if bad.size:
        raise SourceError(
            f"{request.teacher.request.path}: the teacher computes NaN or infinity for training sample {bad[0]}; "
            f"check its preprocessing"
        )
