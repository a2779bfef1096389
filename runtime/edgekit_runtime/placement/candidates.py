"""Select the variants to try, and their order."""

from __future__ import annotations

from typing import TYPE_CHECKING

from edgekit_runtime.errors import EngineUnavailable, ProfileError
from edgekit_runtime.host.machine import architecture

if TYPE_CHECKING:
    from edgekit_runtime.format.manifest import Manifest, Variant
    from edgekit_runtime.placement.load_options import LoadOptions

# Devices that the libraries no longer support and that users still ask for.
UNSUPPORTED = {
    "myriad": "OpenVINO dropped the Neural Compute Stick 2 (MYRIAD) after 2022.3, which does not run on Python 3.10 or "
    "newer: use the CPU, or the NPU of a newer Intel processor"
}


def candidates(manifest: Manifest, options: LoadOptions) -> list[Variant]:
    """Return the variants to try, best first, with the caller's delegate in those that it can drive.

    Raises:
        ProfileError: the bundle has no device profile of that name.
        EngineUnavailable: no variant matches ``require``.
        DelegateUnavailable: there is no such delegate.
    """
    variants = order(manifest, options.device)
    if options.delegate is not None or options.delegate_options:
        from edgekit_runtime.engines.delegates import with_delegate

        variants = with_delegate(variants, options.delegate, options.delegate_options)
    return matching(manifest, variants, options.require)


def order(manifest: Manifest, device: str = "auto", arch: str = "") -> list[Variant]:
    """Return all variants, those that the device profile prefers first.

    Args:
        manifest: the bundle's manifest.
        device: the name of a profile, or ``"auto"`` for the profiles of the machine's architecture.
        arch: the machine's architecture; by default, this machine's.

    Raises:
        ProfileError: ``device`` is neither ``"auto"`` nor a profile of the bundle.
    """
    profiles = {str(profile["name"]): profile for profile in manifest.devices}
    if device != "auto" and device not in profiles:
        names = ", ".join(["auto", *profiles])
        raise ProfileError(
            "; ".join(
                [f"the bundle {manifest.model_name!r} has no device {device!r}, only {names}", *unsupported(device)]
            )
        )
    arch = arch or architecture()
    selected = [p for name, p in profiles.items() if name == device or (device == "auto" and p.get("arch") == arch)]
    preferred = [name for profile in selected for name in profile.get("variants", ())]
    by_name = {variant.name: variant for variant in manifest.variants}
    return [by_name[name] for name in dict.fromkeys([*preferred, *by_name])]


def unsupported(device: str) -> list[str]:
    """Explain why a device is no longer supported; empty if it is not known to be so."""
    return [reason for name, reason in UNSUPPORTED.items() if name in device.lower()]


def selectors(variant: Variant) -> dict[str, str]:
    """Return every value of ``require`` that matches the variant, with the property it stands for."""
    found = {
        variant.name: "variant",
        variant.scheme: "scheme",
        variant.device: "device",
        variant.engine: "engine",
        f"{variant.engine}:{variant.device}": "engine and device",
    }
    if variant.delegate is None:
        return found
    from edgekit_runtime.engines.delegates import DELEGATES

    device = {"npu": "device"} if variant.delegate in DELEGATES else {}
    return {**found, **device, variant.delegate: "delegate"}


def _matches(variant: Variant, require: str) -> bool:
    """Whether the variant matches; only ``engine:device`` ignores case, since the bundle did not choose its words."""
    return require in selectors(variant) or (":" in require and require.lower() in selectors(variant))


def matching(manifest: Manifest, variants: list[Variant], require: str | None) -> list[Variant]:
    """Return the variants that match ``require``; all of them for None.

    Raises:
        EngineUnavailable: none does.
    """
    if require is None:
        return variants
    found = [variant for variant in variants if _matches(variant, require)]
    reasons = unsupported(require)
    if reasons and not found:
        raise EngineUnavailable(f"{require!r} was required: {reasons[0]}")
    if not found:
        known = dict.fromkeys(name for variant in variants for name in selectors(variant))
        raise EngineUnavailable(
            f"no variant of {manifest.model_name!r} matches require={require!r}; it has {', '.join(known)}"
        )
    return found
