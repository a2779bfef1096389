"""Thin: set the smallest weights of a model to zero at once, without training."""

from __future__ import annotations

from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from edgekit_converters.records import Source, SourceRequest
from edgekit_converters.train import Settings, Thinned, sparsity
from edgekit_converters.train.student import open_student


@dataclass(frozen=True)
class ThinRequest:
    """Make a model sparse."""

    source: Source
    sparsity: str  # "0.8", or "2:4"
    keep: tuple[str, ...] = ()  # patterns of the layers that stay dense


@dataclass(frozen=True)
class Thin:
    """The sparse model."""

    request: SourceRequest  # opens it
    thinned: tuple[Thinned, ...]
    notes: tuple[str, ...]


def thin(request: ThinRequest, folder: Path) -> Thin:
    """The stage: set weights to zero, and say how to open what is left.

    Raises:
        PlanError: nothing can be made sparse, or a pattern matches no layer.
        SourceError: the model can only be run.
    """
    wanted = sparsity.read(request.sparsity)
    with closing(open_student(request.source, Settings())) as student:
        kernels = student.kernels()
        places, notes = sparsity.choose(wanted, kernels, request.keep)
        student.hold({place: wanted.mask(kernels[place]) for place in places})
        left = student.kernels()
        return Thin(student.save(folder), sparsity.counted([left[place] for place in places]), tuple(notes))
