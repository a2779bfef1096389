"""OpenVINO IR on the device the variant names, and on no other."""

from __future__ import annotations

import os
from collections.abc import Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Any

import numpy as np

from edgekit_runtime.engines import Facts, Library, TensorInfo
from edgekit_runtime.errors import DelegateUnavailable, EngineError, EngineUnavailable

if TYPE_CHECKING:
    from edgekit_runtime.manifest import Variant
    from edgekit_runtime.tensors import Array

INSTALL = "pip install 'edgekit-runtime[openvino]'"
PRECISION = "INFERENCE_PRECISION_HINT"
PRECISIONS = {"f32": "float32", "f16": "float16", "bf16": "bfloat16"}  # as asked, and as reported
THREADS = "INFERENCE_NUM_THREADS"
DEVICE_ID = "DEVICE_ID"  # in a variant's settings: which of several GPUs
DEVICES = {"cpu": "CPU", "gpu": "GPU", "npu": "NPU"}


class Mapped:
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
    module = _openvino()
    version = str(module.__version__).split("-")[0]
    return Library("openvino", version, version, os.path.dirname(str(module.__file__)))


def _openvino() -> Any:
    with Mapped("OpenVINO is not installed or does not load", EngineUnavailable):
        import openvino

        return openvino


def open_model(path: str, variant: Variant, threads: int | None) -> OpenVINOEngine:
    """Compile an ``.xml``, its ``.bin`` beside it, for the lowest latency and with the variant's settings.

    Float arithmetic is float32 unless the settings say otherwise.

    Raises:
        EngineUnavailable: the library or the device is missing, the model is refused, or OpenVINO took
            another device or another precision than it was told.
        DelegateUnavailable: the variant wants a delegate; OpenVINO has none.
    """
    if variant.delegate is not None:
        raise DelegateUnavailable(f"OpenVINO takes no delegates, and the variant wants {variant.delegate!r}")
    core = _openvino().Core()
    kind = DEVICES[variant.device]
    refusals = []
    for device in _devices(core, kind, variant.settings.get(DEVICE_ID)):
        try:
            return _open_on(core, path, variant, device, threads)
        except EngineUnavailable as error:
            refusals.append(str(error))
    raise EngineUnavailable("; ".join(refusals))


def _devices(core: Any, kind: str, number: str | None) -> list[str]:
    """The machine's devices of a kind, in OpenVINO's order, or the one that the settings name.

    Raises:
        EngineUnavailable: there is none.
    """
    with Mapped("OpenVINO does not tell its devices", EngineUnavailable):
        known = [str(name) for name in core.available_devices]
    found = [name for name in known if name.split(".")[0] == kind]
    if number is not None:
        found = [name for name in found if name == f"{kind}.{number}" or (name == kind and number == "0")]
    if not found:
        wanted = f"{kind}.{number}" if number is not None else kind
        raise EngineUnavailable(f"OpenVINO finds no {wanted} here, only {', '.join(known) or 'nothing'}")
    return found


def _open_on(core: Any, path: str, variant: Variant, device: str, threads: int | None) -> OpenVINOEngine:
    # Left alone, OpenVINO computes in bfloat16, float16 or float32, whichever the processor is fastest in. NPUs
    # have no choice; elsewhere the numbers must not depend on the machine.
    pinned = {} if device.startswith("NPU") else {PRECISION: "f32"}
    settings = {key: value for key, value in variant.settings.items() if key != DEVICE_ID}
    options: dict[str, Any] = {"PERFORMANCE_HINT": "LATENCY", **pinned, **settings}
    if threads is not None and device == "CPU":
        options[THREADS] = threads
    with Mapped(f"OpenVINO cannot run {os.path.basename(path)} on {device}", EngineUnavailable):
        compiled = core.compile_model(path, device, options)
        _refuse_other(compiled, device, options.get(PRECISION))
        return OpenVINOEngine(compiled, _facts(compiled, device))


def _refuse_other(compiled: Any, device: str, precision: str | None) -> None:
    """OpenVINO may fall back without a word: read back what it really took."""
    taken = [str(name) for name in compiled.get_property("EXECUTION_DEVICES")]
    if any(name.split(".")[0] != device.split(".", maxsplit=1)[0] for name in taken):
        raise EngineUnavailable(f"OpenVINO took {', '.join(taken)} when it was told {device}")
    computed = _computed(compiled)
    if precision in PRECISIONS and computed != PRECISIONS[precision]:
        raise EngineUnavailable(f"OpenVINO computes in {computed} when it was told {precision}")


def _computed(compiled: Any) -> str | None:
    """The precision of float arithmetic: OpenVINO's type prints as ``<Type: 'bfloat16'>``."""
    if PRECISION not in compiled.get_property("SUPPORTED_PROPERTIES"):
        return None
    said = str(compiled.get_property(PRECISION))
    return next((name for name in PRECISIONS.values() if f"'{name}'" in said), said)


def _facts(compiled: Any, device: str) -> Facts:
    known = compiled.get_property("SUPPORTED_PROPERTIES")
    threads = int(compiled.get_property(THREADS)) if THREADS in known else None
    return Facts(device, _computed(compiled), threads)


class OpenVINOEngine:
    """A compiled model and one request, whose tensors are filled and read in place."""

    def __init__(self, compiled: Any, facts: Facts) -> None:
        self.facts = facts
        self.inputs = tuple(_info(i, port) for i, port in enumerate(compiled.inputs))
        self.outputs = tuple(_info(i, port) for i, port in enumerate(compiled.outputs))
        self._compiled = compiled
        self._request = compiled.create_infer_request()
        self._in = [self._request.get_input_tensor(i).data for i in range(len(self.inputs))]
        self._mapped = Mapped("OpenVINO failed while running the model", EngineError)

    def run(self, arrays: Sequence[Array]) -> list[Array]:
        """Fill, infer, copy out."""
        request = self._request
        with self._mapped:
            for tensor, array in zip(self._in, arrays):
                np.copyto(tensor, array)
            request.infer()
            return [request.get_output_tensor(i).data.copy() for i in range(len(self.outputs))]

    def twin(self) -> OpenVINOEngine:
        """One more request of the same compiled model."""
        with self._mapped:
            return OpenVINOEngine(self._compiled, self.facts)

    def close(self) -> None:
        """Drop the request, and with the last one the compiled model."""
        self._compiled = None
        self._in = []
        self._request = None


def _info(place: int, port: Any) -> TensorInfo:
    names = sorted(port.get_names())
    shape = tuple(dim.get_length() if dim.is_static else -1 for dim in port.get_partial_shape())
    return TensorInfo(place, names[0] if names else "", shape, np.dtype(port.get_element_type().to_dtype()).name)
