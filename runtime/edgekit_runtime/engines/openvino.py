"""OpenVINO IR on the device the variant names, and on no other."""

from __future__ import annotations

from collections.abc import Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Any

import numpy as np

from edgekit_runtime.engines import Library, TensorInfo
from edgekit_runtime.errors import DelegateUnavailable, EngineError, EngineUnavailable

if TYPE_CHECKING:
    from pathlib import Path

    from edgekit_runtime.manifest import Variant
    from edgekit_runtime.tensors import Array

INSTALL = "pip install 'edgekit-runtime[openvino]'"
PRECISION = "INFERENCE_PRECISION_HINT"
PRECISIONS = {"f32": "float32", "f16": "float16", "bf16": "bfloat16"}  # as asked, and as reported
DEVICES = {"cpu": "CPU", "gpu": "GPU", "npu": "NPU"}


class _Mapped:
    """The one place where OpenVINO's exceptions become ours. Reused: entering costs nothing."""

    def __init__(self, what: str, kind: type[EngineError]) -> None:
        self._what = what
        self._kind = kind

    def __enter__(self) -> None:
        return None

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if isinstance(error, ImportError):
            raise EngineUnavailable(f"{self._what} ({error}): {INSTALL}") from error
        if isinstance(error, (RuntimeError, ValueError, TypeError, OSError)):
            raise self._kind(f"{self._what}: {_gist(str(error))}") from error


def _gist(message: str) -> str:
    """The line of OpenVINO's message that says what happened; the others say where in its sources."""
    lines = [line.strip() for line in message.splitlines() if line.strip()]
    telling = [line for line in lines if not line.startswith(("Exception from", "Check '", "FrontEnd API failed"))]
    return (telling or lines or ["no reason given"])[0]


def library() -> Library:
    """OpenVINO.

    Raises:
        EngineUnavailable: it is not installed, or does not load.
    """
    version = str(_openvino().__version__).split("-")[0]
    return Library("openvino", version, version)


def _openvino() -> Any:
    with _Mapped("OpenVINO is not installed or does not load", EngineUnavailable):
        import openvino

        return openvino


def open_model(path: Path, variant: Variant, threads: int | None) -> OpenVINOEngine:
    """Compile an ``.xml``, its ``.bin`` beside it, for the lowest latency and with the variant's settings.

    Float arithmetic is float32 unless the settings say otherwise.

    Raises:
        EngineUnavailable: the library or the device is missing, the model is refused, or OpenVINO took
            another device or another precision than it was told.
        DelegateUnavailable: the variant wants a delegate; OpenVINO has none.
    """
    if variant.delegate is not None:
        raise DelegateUnavailable(f"OpenVINO takes no delegates, and the variant wants {variant.delegate!r}")
    openvino = _openvino()
    device = DEVICES[variant.device]
    # Left alone, OpenVINO computes in bfloat16, float16 or float32, whichever the processor is fastest in. NPUs
    # have no choice; elsewhere the numbers must not depend on the machine.
    pinned = {} if device == "NPU" else {PRECISION: "f32"}
    options: dict[str, Any] = {"PERFORMANCE_HINT": "LATENCY", **pinned, **variant.settings}
    if threads is not None and device == "CPU":
        options["INFERENCE_NUM_THREADS"] = threads
    with _Mapped(f"OpenVINO cannot run {path.name} on {device}", EngineUnavailable):
        compiled = openvino.Core().compile_model(str(path), device, options)
        _refuse_other(compiled, device, options.get(PRECISION))
        return OpenVINOEngine(compiled)


def _refuse_other(compiled: Any, device: str, precision: str | None) -> None:
    """OpenVINO may fall back without a word: read back what it really took."""
    taken = [str(name) for name in compiled.get_property("EXECUTION_DEVICES")]
    if any(name.split(".")[0] != device for name in taken):
        raise EngineUnavailable(f"OpenVINO took {', '.join(taken)} when it was told {device}")
    computed = str(compiled.get_property(PRECISION)) if precision in PRECISIONS else ""
    if precision in PRECISIONS and f"'{PRECISIONS[precision]}'" not in computed:
        raise EngineUnavailable(f"OpenVINO computes in {computed} when it was told {precision}")


class OpenVINOEngine:
    """A compiled model and one request, whose tensors are filled and read in place."""

    def __init__(self, compiled: Any) -> None:
        self.inputs = tuple(_info(i, port) for i, port in enumerate(compiled.inputs))
        self.outputs = tuple(_info(i, port) for i, port in enumerate(compiled.outputs))
        self._request = compiled.create_infer_request()
        self._in = [self._request.get_input_tensor(i).data for i in range(len(self.inputs))]
        self._mapped = _Mapped("OpenVINO failed while running the model", EngineError)

    def run(self, arrays: Sequence[Array]) -> list[Array]:
        """Fill, infer, copy out."""
        request = self._request
        with self._mapped:
            for tensor, array in zip(self._in, arrays):
                np.copyto(tensor, array)
            request.infer()
            return [request.get_output_tensor(i).data.copy() for i in range(len(self.outputs))]

    def close(self) -> None:
        """Drop the request and with it the compiled model."""
        self._in = []
        self._request = None


def _info(place: int, port: Any) -> TensorInfo:
    names = sorted(port.get_names())
    shape = tuple(dim.get_length() if dim.is_static else -1 for dim in port.get_partial_shape())
    return TensorInfo(place, names[0] if names else "", shape, np.dtype(port.get_element_type().to_dtype()).name)
