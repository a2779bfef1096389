"""The variants to make: for each device, its engines and units in the requested schemes."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path

from edgekit.plan.options import AUTO, DATA, TargetOptions
from edgekit.plan.profiles import DeviceProfile, load_profile
from edgekit_converters.formats import FORMATS, engines_for_framework, engines_for_scheme
from edgekit_converters.formats.recipe_check import check_corrections, check_schemes
from edgekit_converters.frameworks.loaders import frameworks_of
from edgekit_converters.recipe import toml
from edgekit_converters.recipe.recipe import Recipe
from edgekit_converters.recipe.schemes import SCHEMES, scheme
from edgekit_runtime.errors import PlanError

DEFAULT_DEVICES = ("generic-arm64", "x86-64")  # without --device: TFLite and IR, in an order that suits most


@dataclass(frozen=True)
class VariantPlan:
    """A variant of the bundle."""

    engine: str
    device: str
    scheme: str
    precision: str  # of float arithmetic, which the engine is set to
    delegate: str | None = None  # such as "edgetpu"; None: the engine itself

    @property
    def name(self) -> str:
        """The variant's name in the bundle, such as ``litert-int8-static`` or ``openvino-gpu-float16``."""
        unit = self.delegate or self.device
        return f"{self.engine}-{self.scheme}" if unit == "cpu" else f"{self.engine}-{unit}-{self.scheme}"

    @property
    def artifact(self) -> tuple[str, str]:
        """Engine and scheme; variants with the same ones share an artifact."""
        return self.engine, self.scheme


@dataclass(frozen=True)
class TargetPlan:
    """The devices, and their variants."""

    devices: tuple[DeviceProfile, ...]
    variants: tuple[VariantPlan, ...]  # in order of preference
    preferred: dict[str, tuple[str, ...]]  # device: its variants' names, the best first
    recipe: Recipe | None = None  # for the artifacts of its scheme
    search: bool = False  # --quantize auto: the variants are all candidates
    auto_fix: bool = True  # whether findings of the examination change the graph
    notes: tuple[str, ...] = ()

    @property
    def schemes(self) -> tuple[str, ...]:
        """The schemes in use, each once."""
        return tuple(dict.fromkeys(variant.scheme for variant in self.variants))

    def schemes_of(self, engine: str) -> tuple[str, ...]:
        """Return the schemes of an engine, each once."""
        return tuple(dict.fromkeys(variant.scheme for variant in self.variants if variant.engine == engine))

    def recipe_of(self, scheme: str) -> Recipe:
        """Return the recipe of a scheme's artifacts."""
        return self.recipe if self.recipe and self.recipe.scheme == scheme else Recipe(scheme)

    @property
    def engines(self) -> tuple[str, ...]:
        """The engines in use, each once."""
        return tuple(dict.fromkeys(variant.engine for variant in self.variants))


def plan_targets(options: TargetOptions, kind: str, calibrate: str | None) -> TargetPlan:
    """Cross devices and schemes, for a kind of model.

    Args:
        options: of the command.
        kind: of the model file, from ``kind_of``.
        calibrate: the calibration data, where there are any.

    Raises:
        PlanError: a device can run none of the schemes, or a scheme or the recipe cannot be made.
    """
    search = AUTO in options.quantize
    if search and len(options.quantize) > 1:
        raise PlanError(f"--quantize {AUTO} tries every scheme that the devices allow: give no other scheme")
    if search and options.recipe:
        raise PlanError(f"--quantize {AUTO} makes its own recipes: leave out --recipe")
    devices = tuple(map(load_profile, options.device)) or _default_devices(kind)
    recipe = toml.read(Path(options.recipe)) if options.recipe else None
    schemes = tuple(SCHEMES) if search else _schemes(options.quantize, recipe, calibrate)
    variants, preferred, notes = _variants(devices, schemes, kind)
    _check_calibration(calibrate, (*schemes, *(recipe.schemes if recipe else ())))
    if recipe:
        _check_recipe(recipe, devices, variants)
    return TargetPlan(devices, variants, preferred, recipe, search, options.auto_fix, notes)


def keep_scheme(targets: TargetPlan, model: str, loaded: str) -> TargetPlan:
    """Return the targets of a model that is quantized already: they get it in its own scheme.

    Args:
        targets: as planned.
        model: the name of the model file.
        loaded: the scheme that the opened model has; float32 changes nothing.

    Raises:
        PlanError: a device is left without any variant, or there is a recipe.
    """
    if loaded == "float32":
        return targets
    if targets.recipe:
        raise PlanError(f"{model} is already {loaded}: there is nothing left for --recipe to quantize")
    kept = {
        variant.name: dataclasses.replace(variant, scheme=loaded)
        for variant in targets.variants
        if variant.engine in engines_for_scheme(loaded)
    }
    preferred = {
        device: tuple(dict.fromkeys(kept[name].name for name in names if name in kept))
        for device, names in targets.preferred.items()
    }
    for device, names in preferred.items():
        if not names:
            raise PlanError(
                f"{device}: {model} is already {loaded}, which only {', '.join(engines_for_scheme(loaded))} runs"
            )
    note = f"the model is already {loaded} and is bundled unchanged" + (": no search" if targets.search else "")
    variants = tuple({variant.name: variant for variant in kept.values()}.values())
    notes = (*targets.notes, note)
    return dataclasses.replace(targets, variants=variants, preferred=preferred, search=False, notes=notes)


def _schemes(quantize: tuple[str, ...], recipe: Recipe | None, calibrate: str | None) -> tuple[str, ...]:
    """Return the requested schemes, each once."""
    wanted = (*quantize, *([recipe.scheme] if recipe else []))
    wanted = wanted or (("int8-static",) if calibrate else ("float32",))
    return tuple(dict.fromkeys(scheme(name).name for name in wanted))


def _check_calibration(calibrate: str | None, schemes: tuple[str, ...]) -> None:
    calibrated = [name for name in schemes if SCHEMES[name].calibrated]
    if calibrated and not calibrate:
        raise PlanError(f"{calibrated[0]} needs calibration data: add --calibrate DATA ({DATA}; 100 samples or more)")


def _check_recipe(recipe: Recipe, devices: tuple[DeviceProfile, ...], variants: tuple[VariantPlan, ...]) -> None:
    """Refuse a recipe that a format or a device does not support."""
    for engine in dict.fromkeys(one.engine for one in variants if one.scheme == recipe.scheme):
        check_schemes(engine, recipe.schemes, recipe.block_size)
        check_corrections(engine, recipe)
    for device in devices:
        lacking = [name for name in recipe.schemes if name not in (*device.schemes, "float32")]
        if recipe.scheme in device.schemes and lacking:
            raise PlanError(
                f"{device.name} does not support the recipe's {lacking[0]}; it supports {', '.join(device.schemes)}"
            )


def _engines(kind: str) -> tuple[str, ...]:
    """Return the engines that a kind of model file can be lowered for."""
    possible = {engine for name in frameworks_of(kind) for engine in engines_for_framework(name)}
    return tuple(engine for engine in FORMATS if engine in possible)


def _default_devices(kind: str) -> tuple[DeviceProfile, ...]:
    """Return the default devices that can run this kind of model: ONNX models become IR only."""
    possible = _engines(kind)
    devices = map(load_profile, DEFAULT_DEVICES)
    return tuple(one for one in devices if any(target.partition(":")[0] in possible for target in one.targets))


def _variants(
    devices: tuple[DeviceProfile, ...], schemes: tuple[str, ...], kind: str
) -> tuple[tuple[VariantPlan, ...], dict[str, tuple[str, ...]], tuple[str, ...]]:
    """Combine the targets of each device with the schemes; unsupported combinations are skipped, with a note."""
    variants: dict[str, VariantPlan] = {}
    preferred: dict[str, tuple[str, ...]] = {}
    notes: list[str] = []
    possible = _engines(kind)
    for device in devices:
        names = []
        for target in device.targets:
            engine, _, unit = target.partition(":")
            for wanted in device.schemes:  # the device's order, not the order of the command line
                if wanted in schemes and engine in possible and engine in engines_for_scheme(wanted):
                    variant = VariantPlan(engine, unit, wanted, _precision(device, unit), device.delegates.get(target))
                    names.append(variants.setdefault(variant.name, variant).name)
        _refuse_or_note(device, schemes, names, possible, notes)
        preferred[device.name] = tuple(names)
    return tuple(variants.values()), preferred, tuple(notes)


def _precision(device: DeviceProfile, unit: str) -> str:
    """Return the precision of float arithmetic; the CPU fallback of an accelerator computes in f32."""
    accelerated = any(not target.endswith(":cpu") for target in device.targets)
    return "f32" if unit == "cpu" and accelerated else device.precision


def _refuse_or_note(
    device: DeviceProfile,
    schemes: tuple[str, ...],
    names: list[str],
    possible: tuple[str, ...],
    notes: list[str],
) -> None:
    engines = [target.partition(":")[0] for target in device.targets]
    supported = [name for name in device.schemes if any(engine in engines_for_scheme(name) for engine in engines)]
    if not set(engines) & set(possible):
        raise PlanError(
            f"{device.name} runs {' and '.join(dict.fromkeys(engines))}, but this kind of model can only be converted "
            f"for {' and '.join(possible)}"
        )
    if not names:
        raise PlanError(f"{device.name} supports none of {', '.join(schemes)}; it supports {', '.join(supported)}")
    requested = schemes if schemes != tuple(SCHEMES) else ()  # a search requests no scheme by name
    skipped = [name for name in requested if not any(variant.endswith(name) for variant in names)]
    if skipped:
        notes.append(f"{device.name}: no {', '.join(skipped)}; it supports {', '.join(supported)}")
    if device.accelerator and device.accelerator not in device.delegates.values():
        notes.append(
            f"{device.name}: these variants run on its CPU; its {device.accelerator} is not used, because "
            f"edgekit does not call the vendor's compiler"
        )
