"""The known delegates and accelerators: one line each in the tables below.

A delegate is a library that LiteRT loads to run a model's operators on an accelerator. A bundle names one in a
variant's ``delegate``, with its options in ``settings``; a caller passes its name, or the path of its library, in
``load(..., delegate=, delegate_options=)``.
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Iterable, Mapping, Sequence
from glob import glob
from typing import TYPE_CHECKING, Union

from edgekit_runtime.errors import DelegateUnavailable, EngineUnavailable
from edgekit_runtime.record import dataclass, field, replace

if TYPE_CHECKING:
    from edgekit_runtime.format.manifest import Variant

    Options = Union[str, Mapping[str, object]]


@dataclass(frozen=True)
class Delegate:
    """A delegate that is known by name."""

    hardware: str  # its name, for messages
    files: str  # file names of its library, one for each platform
    signs: str = ""  # where its hardware shows: globs, usb:VENDOR:PRODUCT, or /sys/module paths of its driver
    option: str = ""  # the name of an option that is given without a name
    defaults: dict[str, str] = field(default_factory=dict)
    advice: str = "it comes with the board's own system image"


CORAL = "see coral.ai/software for libedgetpu1-std"
DELEGATES = {
    "edgetpu": Delegate(
        "Coral Edge TPU",
        "libedgetpu.so.1 libedgetpu.1.dylib edgetpu.dll",
        "/dev/apex_* usb:1a6e:089a usb:18d1:9302 /sys/module/apex",
        option="device",  # usb, pci, or :N for the Nth device
        advice=CORAL,
    ),
    "ethosu": Delegate("Arm Ethos-U", "libethosu_delegate.so", "/dev/ethosu* /sys/module/ethosu", option="device_name"),
    "vx": Delegate("Verisilicon NPU", "libvx_delegate.so", "/dev/galcore /sys/module/galcore"),
    "neutron": Delegate("NXP eIQ Neutron", "libneutron_delegate.so", "/dev/neutron* /sys/module/neutron"),
    "qnn": Delegate(
        "Qualcomm NPU",
        "libQnnTFLiteDelegate.so QnnTFLiteDelegate.dll",
        "/dev/fastrpc-* /dev/adsprpc-smd /sys/module/fastrpc",
        option="backend_type",
        defaults={"backend_type": "htp"},
        advice="it comes with Qualcomm's AI Engine Direct SDK",
    ),
}

# Where Linux shows the accelerators that an engine runs on without a delegate, and the drivers whose version matters.
SIGNS = {
    ("openvino", "gpu"): "/dev/dri/renderD* /dev/dxg /sys/module/i915 /sys/module/xe",
    ("openvino", "npu"): "/dev/accel/accel* /sys/module/intel_vpu",
    ("litert", "gpu"): "/dev/dri/renderD* /dev/mali* /dev/kgsl-3d0 /dev/dxg "
    "/usr/share/vulkan/icd.d/*.json /etc/vulkan/icd.d/*.json $VK_DRIVER_FILES $VK_ICD_FILENAMES",
}
# The libraries that engines load for them, besides their own.
PLUGINS = {
    ("openvino", "gpu"): "libs/*openvino_intel_gpu_plugin*",
    ("openvino", "npu"): "libs/*openvino_intel_npu_plugin*",
    ("litert", "gpu"): "*LiteRt*Accelerator*",
}
SUFFIXES = {"linux": ".so", "darwin": ".dylib", "win32": ".dll"}
FOLDERS = ("/usr/lib", "/usr/local/lib", "/lib", "/usr/lib64", "/usr/lib/*-linux-gnu*", "/opt/*/lib")


def with_delegate(variants: Sequence[Variant], delegate: str | None, options: Options | None) -> list[Variant]:
    """Return the variants with the caller's delegate, followed by all variants unchanged.

    The delegate applies to LiteRT's variants for the CPU, and to variants that name it, by its name or its library's.

    Raises:
        ValueError: there are options without a delegate.
        DelegateUnavailable: the delegate is neither a known name nor a path.
    """
    if delegate is None:
        if options:
            raise ValueError("delegate_options need a delegate: name one, as in delegate='edgetpu'")
        return list(variants)
    if delegate not in DELEGATES and not _is_path(delegate):
        raise DelegateUnavailable(_unknown(delegate))
    chosen = delegate if delegate in DELEGATES else os.path.abspath(delegate)
    settings = parse_options(delegate, options or {})
    delegated = [
        replace(variant, delegate=chosen, settings={**variant.settings, **settings})
        for variant in variants
        if variant.engine == "litert" and _supports(chosen, variant)
    ]
    return [*delegated, *variants]


def _supports(delegate: str, variant: Variant) -> bool:
    if variant.delegate is None:
        return variant.device == "cpu"
    known = DELEGATES.get(variant.delegate)
    return variant.delegate == delegate or bool(known and os.path.basename(delegate) in known.files.split())


def _is_path(delegate: str) -> bool:
    return os.sep in delegate or delegate.endswith(tuple(SUFFIXES.values())) or ".so." in delegate


def parse_options(delegate: str, options: Options) -> dict[str, str]:
    """Parse the caller's options for a delegate to names and values.

    Raises:
        ValueError: as ``read_options``.
    """
    return read_options(options, DELEGATES[delegate].option if delegate in DELEGATES else "")


def read_options(options: Options, option: str = "") -> dict[str, str]:
    """Parse ``{"device": "usb"}``, ``"device=usb,verbosity=3"``, or the bare ``"usb"`` as the value of ``option``.

    Raises:
        ValueError: a bare value for a delegate that takes none.
    """
    if not isinstance(options, str):
        return {str(key): str(value) for key, value in options.items()}
    pairs = [part.strip().partition("=") for part in options.split(",") if part.strip()]
    if not all(sign or option for _, sign, _ in pairs):
        raise ValueError(f"delegate options are written name=value, separated by commas, not {options!r}")
    return {(name if sign else option): (value if sign else name) for name, sign, value in pairs}


def library_path(delegate: str) -> str:
    """Return the path of a delegate's library, as the system's loader finds it.

    Raises:
        DelegateUnavailable: it is not installed, or the name is unknown.
    """
    if _is_path(delegate):
        if not os.path.isfile(delegate):
            raise DelegateUnavailable(f"there is no delegate library {delegate}")
        return delegate
    if delegate not in DELEGATES:
        raise DelegateUnavailable(_unknown(delegate))
    known = DELEGATES[delegate]
    for name in known.files.split():
        found = _find(name) if SUFFIXES.get(sys.platform, ".so") in name else None
        if found:
            return found
    hardware = "its hardware was found" if find_signs(known.signs) else f"its hardware was not found ({known.signs})"
    first = known.files.split()[0]
    raise DelegateUnavailable(
        f"the library of the {known.hardware}, {first}, is not installed; {hardware}: {known.advice}"
    )


def _unknown(delegate: str) -> str:
    return (
        f"there is no delegate {delegate!r} in this edgekit-runtime, only {', '.join(DELEGATES)}: "
        "give the path of its library, as in load(..., delegate='/usr/lib/libmy_delegate.so')"
    )


def options_for(variant: Variant) -> dict[str, str]:
    """Return the options of a variant's delegate: its defaults, overridden by the variant's settings."""
    known = DELEGATES.get(variant.delegate or "")
    return {**(known.defaults if known else {}), **variant.settings}


def can_crash(variant: Variant) -> bool:
    """Return whether the variant loads a library that can crash the process: a delegate, or a plugin in ``SIGNS``."""
    return (variant.engine == "litert" and variant.delegate is not None) or (variant.engine, variant.device) in SIGNS


def signs_of(variant: Variant) -> str:
    """Return the signs of the hardware that the variant runs on."""
    if variant.delegate is not None:
        return DELEGATES[variant.delegate].signs if variant.delegate in DELEGATES else ""
    return SIGNS.get((variant.engine, variant.device), "")


def libraries_of(variant: Variant, folder: str) -> list[str]:
    """Return the libraries that the variant loads besides the engine's own, which is installed in ``folder``.

    Raises:
        DelegateUnavailable: as ``library_path``.
    """
    if variant.delegate is not None:
        return [library_path(variant.delegate)]
    files = PLUGINS.get((variant.engine, variant.device))
    return sorted(glob(os.path.join(folder, files))) if files else []


def find_signs(signs: str, root: str = "/") -> list[str]:
    """Return the signs that are present below ``root``, without drivers, which may be loaded without hardware."""
    return [sign for sign in signs.split() if not sign.startswith("/sys/module/") and _is_present(sign, root)]


def check_hardware(variant: Variant, library: str, found: Sequence[str]) -> None:
    """Refuse a variant whose hardware, used by the engine's own library, was not found.

    Raises:
        EngineUnavailable: none of its signs is present.
    """
    signs = signs_of(variant)
    if variant.delegate is None and signs and not found:
        raise EngineUnavailable(f"no {variant.device.upper()} was found that {library} could use ({signs})")


def driver_versions(signs: str) -> dict[str, str]:
    """Return the version of each loaded driver among the signs; ``"loaded"`` if it has none."""
    versions = {}
    for module in (sign for sign in signs.split() if sign.startswith("/sys/module/") and os.path.isdir(sign)):
        texts = (_text(os.path.join(module, name)) for name in ("version", "srcversion"))
        versions[os.path.basename(module)] = next(filter(None, texts), "loaded")
    return versions


def _is_present(sign: str, root: str) -> bool:
    if sign.startswith("$"):
        return bool(os.environ.get(sign[1:]))
    if not sign.startswith("usb:"):
        return bool(glob(os.path.join(root, sign.lstrip("/"))))
    devices = (os.path.dirname(path) for path in glob(os.path.join(root, "sys/bus/usb/devices/*/idVendor")))
    ids = (":".join(_text(os.path.join(at, name)) for name in ("idVendor", "idProduct")) for at in devices)
    return sign[len("usb:") :] in ids


def _text(path: str) -> str:
    try:
        with open(path, encoding="utf-8") as file:
            return file.read().strip()
    except (OSError, ValueError):
        return ""


def _find(name: str) -> str | None:
    """Find a library by its file name: in LD_LIBRARY_PATH, the loader's cache, and the usual folders."""
    configured: Iterable[str] = filter(None, os.environ.get("LD_LIBRARY_PATH", "").split(os.pathsep))
    usual = (folder for pattern in FOLDERS for folder in sorted(glob(pattern)))
    paths = [os.path.join(folder, name) for folder in configured]
    paths += [*_cached(name), *(os.path.join(folder, name) for folder in usual)]
    return next((path for path in paths if os.path.isfile(path)), None)


def _cached(name: str) -> list[str]:
    """Return the paths of a library in glibc's cache, where they are plain strings."""
    try:
        with open("/etc/ld.so.cache", "rb") as file:
            content = file.read()
    except OSError:
        return []
    return [path.decode() for path in re.findall(rb"/[ -~]*/" + re.escape(name.encode()) + rb"(?=\0)", content)]
