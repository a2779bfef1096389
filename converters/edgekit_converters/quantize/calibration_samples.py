"""The calibration samples of a request, one at a time."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from edgekit_converters.data import batches
from edgekit_converters.progress import report_progress
from edgekit_converters.records import QuantizeRequest
from edgekit_runtime.errors import CalibrationError


def samples(request: QuantizeRequest) -> Iterator[list[np.ndarray]]:
    """Yield the calibration samples one at a time, each input (1, ...) as the model takes it, and report progress.

    Raises:
        CalibrationError: there are none.
    """
    data = request.calibration
    if data is None:
        raise CalibrationError(f"{request.scheme} needs calibration data", stage="quantize", advice="--calibrate DATA")
    for done, sample in enumerate(batches(data, request.inputs, 1)):
        if done % 16 == 0:
            report_progress(done, data.count)
        yield sample
