"""Run OpenVINO IR on the device that the variant names, and on no other."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from contextlib import suppress
from functools import partial
from types import TracebackType
from typing import TYPE_CHECKING, Any, Callable

import numpy as np

from edgekit_runtime.engines import EngineInfo, Library, TensorInfo, compile_cache
from edgekit_runtime.engines.delegates import SIGNS, driver_versions
from edgekit_runtime.errors import DelegateUnavailable, EngineError, EngineUnavailable
from edgekit_runtime.host.machine import processor
from edgekit_runtime.host.signal_stack import keep_signal_stack

if TYPE_CHECKING:
    from edgekit_runtime.format.manifest import Variant
    from edgekit_runtime.tensors import Array

WHEELS = {"x86_64": ("openvino", "2.28", "sse4.2"), "aarch64": ("openvino", "2.35")}
INSTALL = "pip install 'edgekit-runtime[openvino]'"
PRECISION = "INFERENCE_PRECISION_HINT"
PRECISIONS = {"f32": "float32", "f16": "float16", "bf16": "bfloat16"}  # as in the hint, and as reported
THREADS = "INFERENCE_NUM_THREADS"
DEVICE_ID = "DEVICE_ID"  # in a variant's settings: which of several GPUs
MAX_IMPORT_TIME = 1 / 3  # of the compile time: a compiled model that imports slower is not cached
OPENVINO_ERRORS = (RuntimeError, ValueError, TypeError, OSError)  # what OpenVINO raises
DEVICES = {"cpu": "CPU", "gpu": "GPU", "npu": "NPU"}


class TranslateErrors:
    """Context manager that raises OpenVINO's exceptions as edgekit errors. It can be entered any number of times."""

    def __init__(self, failed: str, error_type: type[EngineError]) -> None:
        """Describe what failed, for the message, and the error to raise."""
        self._failed = failed
        self._error_type = error_type

    def __enter__(self) -> None:
        return None

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if isinstance(error, ImportError):
            raise EngineUnavailable(f"{self._failed} ({error}): {INSTALL}") from error
        if isinstance(error, OPENVINO_ERRORS):
            raise self._error_type(f"{self._failed}: {_one_line(str(error))}") from error


def _one_line(message: str) -> str:
    """Return the line of OpenVINO's message with the reason; the others name places in its sources."""
    lines = [line.strip() for line in message.splitlines() if line.strip()]
    reasons = [line for line in lines if not line.startswith(("Exception from", "Check '", "FrontEnd API failed"))]
    return (reasons or lines or ["no reason given"])[0]


def library() -> Library:
    """Import OpenVINO.

    Raises:
        EngineUnavailable: it is not installed, or does not load.
    """
    module = _openvino()
    version = str(module.__version__).split("-")[0]
    return Library("openvino", version, version, os.path.dirname(str(module.__file__)))


def _openvino() -> Any:
    with TranslateErrors("OpenVINO is not installed or does not load", EngineUnavailable):
        import openvino

        return openvino


def open_model(path: str, variant: Variant, threads: int | None, artifact: str = "") -> OpenVINOEngine:
    """Compile an ``.xml`` with its ``.bin`` for the lowest latency, with the variant's settings.

    Float arithmetic is float32 unless the settings name another precision.

    Raises:
        EngineUnavailable: the library or the device is missing, the model is refused, or OpenVINO selected
            another device or another precision than the variant's.
        DelegateUnavailable: the variant has a delegate; OpenVINO supports none.
    """
    if variant.delegate is not None:
        raise DelegateUnavailable(f"OpenVINO supports no delegates, and the variant names {variant.delegate!r}")
    module, kind, refusals = _openvino(), DEVICES[variant.device], []
    with keep_signal_stack():
        core = module.Core()
        for device in _devices(core, kind, variant.settings.get(DEVICE_ID)):
            try:
                return _open_on(core, path, device, _options(variant, device, threads), artifact)
            except EngineUnavailable as error:
                refusals.append(str(error))
    raise EngineUnavailable("; ".join(refusals))


def _devices(core: Any, kind: str, number: str | None) -> list[str]:
    """Return the machine's devices of a kind, in OpenVINO's order, or only the one with the given number.

    Raises:
        EngineUnavailable: there is no such device.
    """
    with TranslateErrors("OpenVINO does not list its devices", EngineUnavailable):
        known = [str(name) for name in core.available_devices]
    found = [name for name in known if name.split(".")[0] == kind]
    if number is not None:
        found = [name for name in found if name == f"{kind}.{number}" or (name == kind and number == "0")]
    if not found:
        wanted = f"{kind}.{number}" if number is not None else kind
        raise EngineUnavailable(f"OpenVINO finds no {wanted} here, only {', '.join(known) or 'nothing'}")
    return found


def _options(variant: Variant, device: str, threads: int | None) -> dict[str, Any]:
    # By default, OpenVINO selects the fastest precision of the processor. The outputs must not depend on the machine,
    # so the precision is fixed, except on NPUs, which support only one.
    pinned = {} if device.startswith("NPU") else {PRECISION: "f32"}
    settings = {key: value for key, value in variant.settings.items() if key != DEVICE_ID}
    options: dict[str, Any] = {"PERFORMANCE_HINT": "LATENCY", **pinned, **settings}
    if threads is not None and device == "CPU":
        options[THREADS] = threads
    return options


def _open_on(core: Any, path: str, device: str, options: dict[str, Any], artifact: str) -> OpenVINOEngine:
    with TranslateErrors(f"OpenVINO cannot run {os.path.basename(path)} on {device}", EngineUnavailable):
        compiled, libraries = _compiled(core, path, device, options, artifact)
        _refuse_other(compiled, device, options.get(PRECISION))
        # Requests of a model with one stream wait for each other, so with limited threads each clone is compiled anew.
        reopen = partial(_open_on, core, path, device, options, artifact) if THREADS in options else None
        return OpenVINOEngine(compiled, _facts(compiled, device, libraries), reopen)


def _compiled(core: Any, path: str, device: str, options: dict[str, Any], artifact: str) -> tuple[Any, dict[str, str]]:
    """Compile the model, or import it from the compile cache; also return the path of the cache entry, if used."""
    if not artifact:
        return core.compile_model(path, device, options), {}
    key = _key(core, device, options, artifact)
    cached = compile_cache.find(key)
    if cached is None:
        start = time.perf_counter()
        compiled = core.compile_model(path, device, options)
        _cache(core, compiled, device, options, key, time.perf_counter() - start)
        return compiled, {}
    with suppress(RuntimeError, OSError), open(cached, "rb") as file:  # if the import fails, compile
        content = file.read()
        if content:
            return core.import_model(content, device, options), {"compiled model": cached}
    return core.compile_model(path, device, options), {}


def _cache(
    core: Any, compiled: Any, device: str, options: dict[str, Any], key: dict[str, str], compiled_s: float
) -> None:
    """Cache a compiled model if importing it is much faster than compiling, as with int8; else an empty entry."""
    if compile_cache.temporary_path() is None:  # without a cache, the export would be wasted time
        return
    content = b""
    with suppress(RuntimeError):  # not every device's can be exported
        exported = bytes(compiled.export_model().getbuffer())
        start = time.perf_counter()
        core.import_model(exported, device, options)
        if time.perf_counter() - start < MAX_IMPORT_TIME * compiled_s:
            content = exported
    compile_cache.add_content(key, content)


def _key(core: Any, device: str, options: dict[str, Any], artifact: str) -> dict[str, str]:
    """Return everything that a compiled model depends on."""
    signs = SIGNS.get(("openvino", device.split(".", maxsplit=1)[0].lower()), "")
    return {
        "artifact": artifact,
        "openvino": str(_openvino().__version__),
        "device": f"{device} {core.get_property(device, 'FULL_DEVICE_NAME')}",
        "options": repr(sorted(options.items())),
        "cpu": processor(),
        "drivers": repr(driver_versions(signs)),
    }


def _refuse_other(compiled: Any, device: str, precision: str | None) -> None:
    """Refuse a silent fallback: read back the device and precision that OpenVINO selected."""
    selected = [str(name) for name in compiled.get_property("EXECUTION_DEVICES")]
    if any(name.split(".")[0] != device.split(".", maxsplit=1)[0] for name in selected):
        raise EngineUnavailable(f"OpenVINO selected {', '.join(selected)} instead of {device}")
    computed = _precision(compiled)
    if precision in PRECISIONS and computed != PRECISIONS[precision]:
        raise EngineUnavailable(f"OpenVINO computes in {computed} instead of {precision}")


def _precision(compiled: Any) -> str | None:
    """Return the precision of float arithmetic: OpenVINO's type prints as ``<Type: 'bfloat16'>``."""
    if PRECISION not in compiled.get_property("SUPPORTED_PROPERTIES"):
        return None
    text = str(compiled.get_property(PRECISION))
    return next((name for name in PRECISIONS.values() if f"'{name}'" in text), text)


def _facts(compiled: Any, device: str, libraries: dict[str, str]) -> EngineInfo:
    known = compiled.get_property("SUPPORTED_PROPERTIES")
    threads = int(compiled.get_property(THREADS)) if THREADS in known else None
    return EngineInfo(device, _precision(compiled), threads, None, libraries)


class OpenVINOEngine:
    """A compiled model and one request, whose tensors are filled and read in place."""

    def __init__(self, compiled: Any, facts: EngineInfo, reopen: Callable[[], OpenVINOEngine] | None = None) -> None:
        self.facts = facts
        self._reopen = reopen
        self.inputs = tuple(_info(i, port) for i, port in enumerate(compiled.inputs))
        self.outputs = tuple(_info(i, port) for i, port in enumerate(compiled.outputs))
        self._compiled = compiled
        self._request = compiled.create_infer_request()
        self._in = [self._request.get_input_tensor(i).data for i in range(len(self.inputs))]
        self._out = [self._request.get_output_tensor(i).data for i in range(len(self.outputs))]
        self._translate_errors = TranslateErrors("OpenVINO failed while running the model", EngineError)

    def run(self, arrays: Sequence[Array]) -> list[Array]:
        """Fill, infer, copy out."""
        try:  # try is free, while entering the context manager in each call would be measurable
            for tensor, array in zip(self._in, arrays):
                np.copyto(tensor, array)
            self._request.infer(share_outputs=True)  # else OpenVINO makes another copy of the outputs
            return [tensor.copy() for tensor in self._out]
        except OPENVINO_ERRORS:
            with self._translate_errors:
                raise

    def clone(self) -> OpenVINOEngine:
        """Make another request of the compiled model; compile the model again if its threads are limited."""
        if self._reopen is not None:
            return self._reopen()
        with self._translate_errors:
            return OpenVINOEngine(self._compiled, self.facts)

    def close(self) -> None:
        """Drop the request, and with the last one the compiled model."""
        self._compiled = None
        self._in, self._out = [], []
        self._request = None


def _info(index: int, port: Any) -> TensorInfo:
    names = sorted(port.get_names())
    shape = tuple(dim.get_length() if dim.is_static else -1 for dim in port.get_partial_shape())
    return TensorInfo(index, names[0] if names else "", shape, np.dtype(port.get_element_type().to_dtype()).name)
