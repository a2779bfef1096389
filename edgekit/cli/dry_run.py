"""``edgekit convert --dry-run``: the plan, before any toolchain starts."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from edgekit.plan.plan import ConversionPlan
from edgekit.pruning.options import PruningPlan
from edgekit_converters.recipe import toml


def describe(plan: ConversionPlan, pruning: PruningPlan | None = None) -> dict[str, Any]:
    """Return the plan as JSON-able data."""
    source, data, targets = plan.model.source, plan.data, plan.targets
    return {
        "model": str(source.path) + (f":{source.function}" if source.function else ""),
        "kind": source.kind,
        "toolchains": sorted({source.toolchain, *targets.engines}),
        "output": str(plan.output),
        "name": plan.model.name,
        "version": plan.version,
        "devices": {device.name: list(targets.preferred[device.name]) for device in targets.devices},
        "variants": [dataclasses.asdict(variant) | {"name": variant.name} for variant in targets.variants],
        "preprocessing": dataclasses.asdict(data.preprocessing) if data.preprocessing else None,
        "postprocessing": dataclasses.asdict(plan.postprocessing) if plan.postprocessing else None,
        "calibrate": data.calibrate,
        "evaluate": data.evaluate,
        "metric": data.metric.name if data.metric else None,
        "max_drop": plan.max_drop,
        "recipe": toml.write(targets.recipe) if targets.recipe else None,
        "jobs": plan.execution.jobs,
        "ray": plan.execution.ray,
        "race": dataclasses.asdict(plan.budget) if plan.budget else None,
        "samples": data.samples,
        "remedies": targets.auto_fix,
        "notes": list(targets.notes),
        "pruning": _pruning(pruning) if pruning else None,
    }


def _pruning(pruning: PruningPlan) -> dict[str, Any]:
    return {
        "goal": str(pruning),
        "prunes": pruning.prunes,
        "importance": pruning.importance,
        "rounds": pruning.rounds,
        "depth": pruning.depth,
        "limits": dataclasses.asdict(pruning.limits),
        "training": dataclasses.asdict(pruning.training) if pruning.training else None,
    }


def text(plan: Mapping[str, Any]) -> str:
    """Return the plan as text."""
    lines = [f"model      {plan['model']} ({plan['kind']})", f"bundle     {plan['output']}"]
    lines += [f"device     {device}: {', '.join(names)}" for device, names in plan["devices"].items()]
    lines += [f"variant    {variant['name']}" for variant in plan["variants"]]
    lines += [
        f"{key:<10} {plan[key]}"
        for key in ("calibrate", "evaluate", "metric", "max_drop", "samples")
        if plan[key] is not None
    ]
    if plan["race"]:
        limits = (f"{key} {value}" for key, value in plan["race"].items() if value is not None)
        lines.append(f"race       {', '.join(limits)}")
    if plan["pruning"]:
        training = plan["pruning"]["training"]
        trained = f", trained on {training['data']} for {training['settings']['epochs']} epochs" if training else ""
        lines.append(f"{'prune' if plan['pruning']['prunes'] else 'train':<10} {plan['pruning']['goal']}{trained}")
    if plan["recipe"]:
        lines += [f"recipe     {line}" for line in plan["recipe"].splitlines() if line]
    if plan["preprocessing"]:
        lines.append(f"preprocess {plan['preprocessing']}")
    if plan["postprocessing"]:
        given = {key: value for key, value in plan["postprocessing"].items() if value is not None}
        lines.append(f"outputs    {', '.join(f'{key} {value}' for key, value in given.items())}")
    lines.append(f"toolchains {', '.join(plan['toolchains'])}")
    return "\n".join(lines + [f"note       {note}" for note in plan["notes"]])
