"""From :class:`Options` to a :class:`Plan`: every decision that is made before any toolchain starts."""

from __future__ import annotations

import dataclasses
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from edgekit.plan import postprocessing
from edgekit.plan.budget import Budget
from edgekit.plan.checks import check, check_outputs
from edgekit.plan.declaration import given
from edgekit.plan.input_shape import parse_input_shape
from edgekit.plan.options import (
    AUTO,
    DATA,
    BudgetOptions,
    ConversionOptions,
    ModelInput,
    PostprocessingOptions,
    PreprocessingOptions,
)
from edgekit.plan.profiles import DeviceProfile, load_profile
from edgekit_converters.formats import FORMATS, engines_for_framework, engines_for_scheme
from edgekit_converters.formats.recipe_check import check_corrections, check_schemes
from edgekit_converters.frameworks.loaders import frameworks_of
from edgekit_converters.load import kind_of
from edgekit_converters.recipe import toml
from edgekit_converters.recipe.recipe import Recipe
from edgekit_converters.recipe.schemes import SCHEMES, scheme
from edgekit_converters.records import OwnMetric, SourceRequest
from edgekit_converters.verify import user_metric
from edgekit_runtime.errors import PlanError, SourceError
from edgekit_runtime.format.manifest import Preprocessing

DEFAULT_MAX_DROP = 0.01  # of a race
MAX_DEFAULT_JOBS = 4  # per engine: a toolchain takes up to a GiB in each
DEFAULT_DEVICES = ("generic-arm64", "x86-64")  # without --device: TFLite and IR, in an order that suits most


@dataclass(frozen=True)
class VariantPlan:
    """One variant to be made."""

    engine: str
    device: str
    scheme: str
    precision: str  # what the engine is pinned to for float arithmetic
    delegate: str | None = None  # the library that runs it, such as "edgetpu"; without one the engine itself runs it

    @property
    def name(self) -> str:
        """The variant's name in the bundle, such as ``litert-int8-static`` or ``openvino-gpu-float16``."""
        unit = self.delegate or self.device
        return f"{self.engine}-{self.scheme}" if unit == "cpu" else f"{self.engine}-{unit}-{self.scheme}"

    @property
    def artifact(self) -> tuple[str, str]:
        """What it shares its file with: every variant of the same engine and scheme."""
        return self.engine, self.scheme


@dataclass(frozen=True)
class Plan:
    """A request that can be met, with every decision in it."""

    source: SourceRequest
    output: Path
    name: str
    version: str
    devices: tuple[DeviceProfile, ...]
    variants: tuple[VariantPlan, ...]  # in order of preference
    preferred: dict[str, tuple[str, ...]]  # device: its variants' names, the best first
    preprocessing: Preprocessing | None
    calibrate: str | None
    evaluate: str | None
    metric: OwnMetric | None
    max_drop: float | None
    recipe: Recipe | None  # how the artifacts of its scheme are made
    race: Budget | None  # the variants are all that may be tried; the race leaves the best of them
    jobs: int  # workers an engine may have: candidates, or parts of an evaluation, at once
    ray: str | None  # the cluster that does these instead
    samples: int | Literal["auto"] | None  # of calibration
    layout: str | None
    labels: Path | None
    postprocessing: PostprocessingOptions | None
    report: Path | None
    remedies: bool  # whether findings come to anything
    cache: bool
    notes: tuple[str, ...]

    @property
    def schemes(self) -> tuple[str, ...]:
        """The schemes in use, each once."""
        return tuple(dict.fromkeys(variant.scheme for variant in self.variants))

    def schemes_of(self, engine: str) -> tuple[str, ...]:
        """The schemes to be made for an engine, each once."""
        return tuple(dict.fromkeys(variant.scheme for variant in self.variants if variant.engine == engine))

    def recipe_of(self, scheme: str) -> Recipe:
        """How the artifacts of a scheme are made."""
        return self.recipe if self.recipe and self.recipe.scheme == scheme else Recipe(scheme)

    @property
    def engines(self) -> tuple[str, ...]:
        """The engines in use, each once."""
        return tuple(dict.fromkeys(variant.engine for variant in self.variants))


def resolve(options: ConversionOptions) -> Plan:
    """Decide everything that can be decided without opening the model.

    Raises:
        PlanError: the request contradicts itself, or something it names is not there.
    """
    model, data, targets, outputs = options.model_input, options.data, options.targets, options.outputs
    source = _source(model)
    devices = tuple(map(load_profile, targets.device)) or _default_devices(source.kind)
    check(options)
    recipe = toml.read(Path(targets.recipe)) if targets.recipe else None
    schemes = _schemes(options, recipe)
    variants, preferred, notes = _variants(devices, schemes, source.kind)
    _check_calibration(data.calibrate, (*schemes, *(recipe.schemes if recipe else ())))
    if recipe:
        _check_recipe(recipe, devices, variants)
    output = Path(outputs.output or f"{_stem(model.model)}.edgekit")
    check_outputs(output, options)
    return Plan(
        source=source,
        output=output,
        name=model.name or _stem(model.model),
        version=outputs.version,
        devices=devices,
        variants=variants,
        preferred=preferred,
        preprocessing=_preprocessing(options.preprocessing),
        calibrate=data.calibrate,
        evaluate=data.evaluate,
        metric=user_metric.named(data.metric) if data.metric else None,
        max_drop=options.budget.max_drop,
        recipe=recipe,
        race=_budget(options.budget) if AUTO in targets.quantize else None,
        jobs=_jobs(options, variants),
        ray=options.execution.ray,
        samples=data.samples,
        layout=data.layout,
        labels=Path(outputs.labels) if outputs.labels else None,
        postprocessing=postprocessing.requested(options.postprocessing),
        report=Path(outputs.report) if outputs.report else None,
        remedies=targets.auto_fix,
        cache=options.execution.cache,
        notes=notes,
    )


def as_it_came(plan: Plan, came: str) -> Plan:
    """Return the plan for a model that came in a scheme: what came quantized is bundled in that scheme and no other.

    Raises:
        PlanError: a device is left without any variant.
    """
    if came == "float32":
        return plan
    if plan.recipe:
        raise PlanError(f"{plan.source.path.name} came as {came}: there is nothing left for --recipe to quantize")
    kept = {
        variant.name: dataclasses.replace(variant, scheme=came)
        for variant in plan.variants
        if variant.engine in engines_for_scheme(came)
    }
    preferred = {
        device: tuple(dict.fromkeys(kept[name].name for name in names if name in kept))
        for device, names in plan.preferred.items()
    }
    for device, names in preferred.items():
        if not names:
            raise PlanError(f"{device}: {plan.source.path.name} came as {came}, which only LiteRT runs")
    note = f"the model came as {came} and is bundled as it is" + (": there is nothing to race" if plan.race else "")
    variants = tuple({variant.name: variant for variant in kept.values()}.values())
    return dataclasses.replace(plan, variants=variants, preferred=preferred, race=None, notes=(*plan.notes, note))


def _budget(options: BudgetOptions) -> Budget:
    values = {one.name.replace("budget_", ""): getattr(options, one.name) for one in given(options)}
    return Budget(**{"max_drop": DEFAULT_MAX_DROP} | values)


def _jobs(options: ConversionOptions, variants: tuple[VariantPlan, ...]) -> int:
    if options.execution.ray:
        return 1
    return options.execution.jobs or default_jobs(len({variant.engine for variant in variants}))


def default_jobs(engines: int) -> int:
    """Return how many workers each engine has by default: its share of the cores, at most ``MAX_DEFAULT_JOBS``."""
    return min(MAX_DEFAULT_JOBS, max(1, len(os.sched_getaffinity(0)) // max(1, engines)))


def _check_recipe(recipe: Recipe, devices: tuple[DeviceProfile, ...], variants: tuple[VariantPlan, ...]) -> None:
    """Refuse a recipe that a format, or a device that gets what it makes, cannot do."""
    for engine in dict.fromkeys(one.engine for one in variants if one.scheme == recipe.scheme):
        check_schemes(engine, recipe.schemes, recipe.block_size)
        check_corrections(engine, recipe)
    for device in devices:
        lacking = [name for name in recipe.schemes if name not in (*device.schemes, "float32")]
        if recipe.scheme in device.schemes and lacking:
            raise PlanError(f"{device.name} cannot do the recipe's {lacking[0]}; it can do {', '.join(device.schemes)}")


def _schemes(options: ConversionOptions, recipe: Recipe | None) -> tuple[str, ...]:
    """Return the requested schemes, each once."""
    if AUTO in options.targets.quantize:
        return tuple(SCHEMES)
    wanted = (*options.targets.quantize, *([recipe.scheme] if recipe else []))
    wanted = wanted or (("int8-static",) if options.data.calibrate else ("float32",))
    return tuple(dict.fromkeys(scheme(name).name for name in wanted))


def _stem(model: str) -> str:
    return Path(model.partition(".py:")[0]).stem or "model"


def _source(options: ModelInput) -> SourceRequest:
    if not options.model:
        raise PlanError("no model given; try: edgekit convert model.keras -o model.edgekit")
    text, function = options.model, None
    if ".py:" in text:
        text, _, function = text.rpartition(":")
    path = Path(text)
    kind = kind_of(path)
    if kind == "python" and not function:
        raise SourceError(f"{path}: name the function that returns the model, such as {path.name}:build")
    if options.weights and kind != "python":
        raise PlanError("--weights goes with FILE.py:function; other models contain their weights")
    return SourceRequest(
        kind=kind,
        path=path.absolute(),
        function=function,
        weights=Path(options.weights).absolute() if options.weights else None,
        input_shapes=tuple(parse_input_shape(text) for text in options.input_shape),
        custom_objects=Path(options.custom_objects).absolute() if options.custom_objects else None,
        allow_pickle=options.allow_pickle,
        keep_layout=options.keep_layout,
    )


def _engines(kind: str) -> tuple[str, ...]:
    """Return the engines that a kind of model file can be lowered for."""
    possible = {engine for name in frameworks_of(kind) for engine in engines_for_framework(name)}
    return tuple(engine for engine in FORMATS if engine in possible)


def _default_devices(kind: str) -> tuple[DeviceProfile, ...]:
    """Return the default devices that run what this kind of model can be made into: ONNX becomes IR alone."""
    possible = _engines(kind)
    devices = map(load_profile, DEFAULT_DEVICES)
    return tuple(one for one in devices if any(target.partition(":")[0] in possible for target in one.targets))


def _variants(
    devices: tuple[DeviceProfile, ...], schemes: tuple[str, ...], kind: str
) -> tuple[tuple[VariantPlan, ...], dict[str, tuple[str, ...]], tuple[str, ...]]:
    """Cross devices, their targets and the schemes; what cannot be is left out and said."""
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
    """Return what float arithmetic is pinned to; the CPU an accelerator falls back to computes f32."""
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
    able = [name for name in device.schemes if any(engine in engines_for_scheme(name) for engine in engines)]
    if not set(engines) & set(possible):
        raise PlanError(
            f"{device.name} runs {' and '.join(dict.fromkeys(engines))}, but this kind of model can only be made into "
            f"{' and '.join(possible)} artifacts"
        )
    if not names:
        raise PlanError(f"{device.name} can do none of {', '.join(schemes)}; it can do {', '.join(able)}")
    asked = schemes if schemes != tuple(SCHEMES) else ()  # who asked for any is not told of each
    left = [name for name in asked if not any(made.endswith(name) for made in names)]
    if left:
        notes.append(f"{device.name}: no {', '.join(left)}; it can do {', '.join(able)}")
    if device.accelerator and device.accelerator not in device.delegates.values():
        notes.append(
            f"{device.name}: these variants run on its CPU; nothing in the bundle uses its {device.accelerator}, "
            f"whose vendor's compiler edgekit does not call"
        )


def _check_calibration(calibrate: str | None, schemes: tuple[str, ...]) -> None:
    calibrated = [name for name in schemes if SCHEMES[name].calibrated]
    if calibrated and not calibrate:
        raise PlanError(f"{calibrated[0]} needs calibration data: add --calibrate DATA ({DATA}; 100 samples or more)")


def _preprocessing(options: PreprocessingOptions) -> Preprocessing | None:
    if options == PreprocessingOptions():
        return None
    return Preprocessing(
        resize=options.resize,
        scale=1.0 if options.scale is None else options.scale,
        mean=options.mean,
        std=options.std,
    )
