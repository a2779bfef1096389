"""Pseudo-labels: the source's outputs as labels for data that have none."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from pathlib import Path

import numpy as np

from edgekit_converters import data as dataset
from edgekit_converters.execution.stage import Stage
from edgekit_converters.load import open_source
from edgekit_converters.progress import report_progress
from edgekit_converters.records import PseudoLabelRequest

BATCH = 32
TOLERANCE = 1e-3  # of a sum of probabilities


def pseudo_label(request: PseudoLabelRequest, folder: Path) -> dataset.DataSet:
    """Label the samples with the source's outputs.

    The label is the class with the greatest score if the model is a classifier, else the first output itself. An
    embedding has the shape of class scores, (1, classes), too: a model counts as a classifier if the user names
    classes, or if its outputs are probabilities that sum to 1.
    """
    run = open_source(request.source.request).run
    batches = []
    for batch in dataset.batches(request.data, request.inputs, BATCH):
        batches.append(run(batch)[0])
        report_progress(len(batches) * BATCH, request.data.count)
    outputs = np.concatenate(batches)
    labels = outputs.argmax(axis=1) if _scores(outputs, named=request.classes) else outputs
    path = folder / "labels.npy"
    np.save(path, labels)
    digest = hashlib.sha256(request.data.sha256.encode() + labels.tobytes()).hexdigest()
    return replace(request.data, labels=str(path), sha256=digest)


# it adds labels to prepared data, which are not cached
PSEUDO_LABEL = Stage(pseudo_label, toolchain=lambda request: request.source.toolchain, pure=False)


def _scores(outputs: np.ndarray, *, named: bool) -> bool:
    """Tell whether a row, (samples, classes), has a score for each of several classes."""
    if outputs.ndim != 2 or outputs.shape[1] < 2:
        return False
    return named or bool(outputs.min() >= 0 and np.allclose(outputs.sum(axis=1), 1, atol=TOLERANCE))
