"""Set the smallest weights of a model to zero at once, without training; BatchNorm is corrected with samples."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from edgekit_converters import data as dataset
from edgekit_converters.data import DataSet
from edgekit_converters.execution.stage import Stage
from edgekit_converters.frameworks.loaded_model import Arrays
from edgekit_converters.records import Source, SourceRequest
from edgekit_converters.train import Settings, SparseLayer, sparsity
from edgekit_converters.train.student import open_student
from edgekit_runtime.format.manifest import InputSpec

BATCH = 32


@dataclass(frozen=True)
class SparsifyRequest:
    """Make a model sparse."""

    source: Source
    sparsity: str  # "0.8", or "2:4"
    keep: tuple[str, ...] = ()  # patterns of the layers that stay dense
    inputs: tuple[InputSpec, ...] = ()  # with preprocessing
    data: DataSet | None = None  # over which the statistics of normalization are averaged anew


@dataclass(frozen=True)
class SparseModel:
    """The sparse model."""

    request: SourceRequest  # opens it
    sparse_layers: tuple[SparseLayer, ...]
    notes: tuple[str, ...]


def sparsify(request: SparsifyRequest, folder: Path) -> SparseModel:
    """Run the stage: set weights to zero, and return the request that opens the result.

    Raises:
        PlanError: nothing can be made sparse, or a pattern matches no layer.
        SourceError: the model can only be run.
    """
    wanted = sparsity.read(request.sparsity)
    with closing(open_student(request.source, Settings())) as student:
        kernels = student.kernels()
        places, notes = sparsity.choose(wanted, kernels, request.keep)
        student.apply_masks({place: wanted.mask(kernels[place]) for place in places})
        if request.data:
            student.estimate_statistics(_batches(request.data, request.inputs))
        left = student.kernels()
        return SparseModel(student.save(folder), sparsity.count_zeros([left[place] for place in places]), tuple(notes))


SPARSIFY = Stage(sparsify, toolchain=lambda request: request.source.toolchain)


def _batches(data: DataSet, inputs: tuple[InputSpec, ...]) -> Iterator[Arrays]:
    arrays = dataset.pick_samples(data, inputs, data.count)
    for start in range(0, data.count, BATCH):
        yield [array[start : start + BATCH] for array in arrays]
