"""OpenVINO IR on the device the variant names, and on no other."""

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
from edgekit_runtime.host.signal_stack import signal_stack_kept
from edgekit_runtime.placement.golden_check import processor

if TYPE_CHECKING:
    from edgekit_runtime.format.manifest import Variant
    from edgekit_runtime.tensors import Array

INSTALL = "pip install 'edgekit-runtime[openvino]'"
PRECISION = "INFERENCE_PRECISION_HINT"
PRECISIONS = {"f32": "float32", "f16": "float16", "bf16": "bfloat16"}  # as asked, and as reported
THREADS = "INFERENCE_NUM_THREADS"
DEVICE_ID = "DEVICE_ID"  # in a variant's settings: which of several GPUs
WORTH = 1 / 3  # of the time of compiling: what importing may take, for a compiled model to be kept
FOREIGN = (RuntimeError, ValueError, TypeError, OSError)  # what OpenVINO raises
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
        if isinstance(error, FOREIGN):
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


def open_model(path: str, variant: Variant, threads: int | None, artifact: str = "") -> OpenVINOEngine:
    """Compile an ``.xml``, its ``.bin`` beside it, for the lowest latency and with the variant's settings.

    Float arithmetic is float32 unless the settings say otherwise.

    Raises:
        EngineUnavailable: the library or the device is missing, the model is refused, or OpenVINO took
            another device or another precision than it was told.
        DelegateUnavailable: the variant wants a delegate; OpenVINO has none.
    """
    if variant.delegate is not None:
        raise DelegateUnavailable(f"OpenVINO takes no delegates, and the variant wants {variant.delegate!r}")
    module, kind, refusals = _openvino(), DEVICES[variant.device], []
    with signal_stack_kept():
        core = module.Core()
        for device in _devices(core, kind, variant.settings.get(DEVICE_ID)):
            try:
                return _open_on(core, path, device, _options(variant, device, threads), artifact)
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


def _options(variant: Variant, device: str, threads: int | None) -> dict[str, Any]:
    # Left alone, OpenVINO computes in bfloat16, float16 or float32, whichever the processor is fastest in. NPUs
    # have no choice; elsewhere the numbers must not depend on the machine.
    pinned = {} if device.startswith("NPU") else {PRECISION: "f32"}
    settings = {key: value for key, value in variant.settings.items() if key != DEVICE_ID}
    options: dict[str, Any] = {"PERFORMANCE_HINT": "LATENCY", **pinned, **settings}
    if threads is not None and device == "CPU":
        options[THREADS] = threads
    return options


def _open_on(core: Any, path: str, device: str, options: dict[str, Any], artifact: str) -> OpenVINOEngine:
    with Mapped(f"OpenVINO cannot run {os.path.basename(path)} on {device}", EngineUnavailable):
        compiled, libraries = _compiled(core, path, device, options, artifact)
        _refuse_other(compiled, device, options.get(PRECISION))
        # Requests of a model that has one stream wait for each other, however few threads they use.
        again = partial(_open_on, core, path, device, options, artifact) if THREADS in options else None
        return OpenVINOEngine(compiled, _facts(compiled, device, libraries), again)


def _compiled(core: Any, path: str, device: str, options: dict[str, Any], artifact: str) -> tuple[Any, dict[str, str]]:
    """The compiled model, and where it was kept if it was."""
    if not artifact:
        return core.compile_model(path, device, options), {}
    key = _key(core, device, options, artifact)
    kept = compile_cache.find(key)
    if kept is None:
        start = time.perf_counter()
        compiled = core.compile_model(path, device, options)
        _keep(core, compiled, device, options, key, time.perf_counter() - start)
        return compiled, {}
    with suppress(RuntimeError, OSError), open(kept, "rb") as file:  # it saves time; whoever refuses it compiles
        content = file.read()
        if content:
            return core.import_model(content, device, options), {"compiled model": kept}
    return core.compile_model(path, device, options), {}


def _keep(
    core: Any, compiled: Any, device: str, options: dict[str, Any], key: dict[str, str], compiled_s: float
) -> None:
    """Keep a compiled model where importing it is much quicker than compiling, as with int8; else, that it is not."""
    if compile_cache.aside() is None:  # exporting takes time, which nothing would give back
        return
    content = b""
    with suppress(RuntimeError):  # not every device's can be exported
        exported = bytes(compiled.export_model().getbuffer())
        start = time.perf_counter()
        core.import_model(exported, device, options)
        if time.perf_counter() - start < WORTH * compiled_s:
            content = exported
    compile_cache.keep_content(key, content)


def _key(core: Any, device: str, options: dict[str, Any], artifact: str) -> dict[str, str]:
    """All that a compiled model depends on."""
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


def _facts(compiled: Any, device: str, libraries: dict[str, str]) -> EngineInfo:
    known = compiled.get_property("SUPPORTED_PROPERTIES")
    threads = int(compiled.get_property(THREADS)) if THREADS in known else None
    return EngineInfo(device, _computed(compiled), threads, None, libraries)


class OpenVINOEngine:
    """A compiled model and one request, whose tensors are filled and read in place."""

    def __init__(self, compiled: Any, facts: EngineInfo, again: Callable[[], OpenVINOEngine] | None = None) -> None:
        self.facts = facts
        self._again = again
        self.inputs = tuple(_info(i, port) for i, port in enumerate(compiled.inputs))
        self.outputs = tuple(_info(i, port) for i, port in enumerate(compiled.outputs))
        self._compiled = compiled
        self._request = compiled.create_infer_request()
        self._in = [self._request.get_input_tensor(i).data for i in range(len(self.inputs))]
        self._out = [self._request.get_output_tensor(i).data for i in range(len(self.outputs))]
        self._mapped = Mapped("OpenVINO failed while running the model", EngineError)

    def run(self, arrays: Sequence[Array]) -> list[Array]:
        """Fill, infer, copy out."""
        try:  # which costs nothing, where entering the context manager each time would be felt
            for tensor, array in zip(self._in, arrays):
                np.copyto(tensor, array)
            self._request.infer(share_outputs=True)  # without which OpenVINO copies the outputs, too
            return [tensor.copy() for tensor in self._out]
        except FOREIGN:
            with self._mapped:
                raise

    def twin(self) -> OpenVINOEngine:
        """The model compiled once more, where it was given a part of the processor; else one more request of it."""
        if self._again is not None:
            return self._again()
        with self._mapped:
            return OpenVINOEngine(self._compiled, self.facts)

    def close(self) -> None:
        """Drop the request, and with the last one the compiled model."""
        self._compiled = None
        self._in, self._out = [], []
        self._request = None


def _info(place: int, port: Any) -> TensorInfo:
    names = sorted(port.get_names())
    shape = tuple(dim.get_length() if dim.is_static else -1 for dim in port.get_partial_shape())
    return TensorInfo(place, names[0] if names else "", shape, np.dtype(port.get_element_type().to_dtype()).name)
