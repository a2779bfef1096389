"""Which variants are tried, and in which order."""

from __future__ import annotations

from typing import TYPE_CHECKING

from edgekit_runtime.errors import EngineUnavailable, ProfileError
from edgekit_runtime.placement.requirements import machine

if TYPE_CHECKING:
    from edgekit_runtime.engines.delegates import Options
    from edgekit_runtime.format.manifest import Manifest, Variant

# What left the libraries and is still asked for.
GONE = {
    "myriad": "OpenVINO dropped the Neural Compute Stick 2 (MYRIAD) after 2022.3, which no Python since 3.10 runs: "
    "use the CPU, or the NPU of a newer Intel processor"
}


def candidates(
    manifest: Manifest,
    device: str = "auto",
    require: str | None = None,
    delegate: str | None = None,
    delegate_options: Options | None = None,
) -> list[Variant]:
    """The variants to try, best first, with the caller's delegate in those that it drives.

    Raises:
        ProfileError: the bundle has no profile of that name.
        EngineUnavailable: none is what was required.
        DelegateUnavailable: there is no such delegate.
    """
    variants = order(manifest, device)
    if delegate is not None or delegate_options:
        from edgekit_runtime.engines.delegates import with_delegate

        variants = with_delegate(variants, delegate, delegate_options)
    return required(manifest, variants, require)


def order(manifest: Manifest, device: str = "auto", here: str = "") -> list[Variant]:
    """All variants, those that the device's profile prefers first.

    Args:
        manifest: what the bundle says.
        device: a profile's name, or ``"auto"`` for those of the machine's architecture.
        here: that architecture, where it is another machine's.

    Raises:
        ProfileError: ``device`` is neither ``"auto"`` nor a profile of the bundle.
    """
    known = {str(profile["name"]): profile for profile in manifest.devices}
    if device != "auto" and device not in known:
        names = ", ".join(["auto", *known])
        raise ProfileError(
            "; ".join([f"the bundle {manifest.model_name!r} has no device {device!r}, only {names}", *gone(device)])
        )
    here = here or machine()
    chosen = [p for name, p in known.items() if name == device or (device == "auto" and p.get("arch") == here)]
    preferred = [name for profile in chosen for name in profile.get("variants", ())]
    by_name = {variant.name: variant for variant in manifest.variants}
    return [by_name[name] for name in dict.fromkeys([*preferred, *by_name])]


def gone(asked: str) -> list[str]:
    """Why what was asked for is nowhere any more."""
    return [why for name, why in GONE.items() if name in asked.lower()]


def answers(variant: Variant) -> dict[str, str]:
    """Every word that ``require`` may use for the variant, and what kind of word it is."""
    words = {
        variant.name: "variant",
        variant.scheme: "scheme",
        variant.device: "device",
        variant.engine: "engine",
        f"{variant.engine}:{variant.device}": "engine and device",
    }
    if variant.delegate is None:
        return words
    from edgekit_runtime.engines.delegates import DELEGATES

    units = {"npu": "device"} if variant.delegate in DELEGATES else {}
    return {**words, **units, variant.delegate: "delegate"}


def _is(variant: Variant, require: str) -> bool:
    """Whether the variant is what is required: case matters in names that the bundle gave, and nowhere else."""
    return require in answers(variant) or (":" in require and require.lower() in answers(variant))


def required(manifest: Manifest, variants: list[Variant], require: str | None) -> list[Variant]:
    """The variants that are what is required.

    Raises:
        EngineUnavailable: none is.
    """
    if require is None:
        return variants
    found = [variant for variant in variants if _is(variant, require)]
    why = gone(require)
    if why and not found:
        raise EngineUnavailable(f"{require!r} was required: {why[0]}")
    if not found:
        words = dict.fromkeys(word for variant in variants for word in answers(variant))
        raise EngineUnavailable(
            f"no variant of {manifest.model_name!r} is what was required, {require!r}; there are {', '.join(words)}"
        )
    return found
