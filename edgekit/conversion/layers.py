"""``edgekit layers``: a model's layers, and the nodes that compute each of them in the artifacts."""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass

from edgekit.conversion import open_model, stages
from edgekit.plan.plan import ArtifactPlan
from edgekit_converters.execution.runner import Watch
from edgekit_converters.recipe.recipe import Layer
from edgekit_converters.trace import MATCH, LayerMap


@dataclass(frozen=True)
class LayersReport:
    """The report of ``edgekit layers``: the layers in the order of execution."""

    model: str
    framework: str
    layers: tuple[Layer, ...]  # their nodes are in ``nodes``
    nodes: dict[str, tuple[tuple[str, ...], ...]]  # engine: the nodes of each layer, in the order of ``layers``
    notes: tuple[str, ...]

    def to_json(self) -> str:
        """Return it as JSON: each layer with its nodes by engine."""
        layers = [
            {
                "name": layer.name,
                "operator": layer.operator,
                "shape": layer.shape,
                "parameters": layer.parameters,
                "macs": layer.macs,
                "nodes": {engine: nodes[place] for engine, nodes in self.nodes.items()},
            }
            for place, layer in enumerate(self.layers)
        ]
        whole = {"model": self.model, "framework": self.framework, "layers": layers, **self.totals, "notes": self.notes}
        return json.dumps(whole, indent=2) + "\n"

    @property
    def totals(self) -> dict[str, int]:
        """Parameters and multiplications of the whole model."""
        return {key: sum(getattr(layer, key) for layer in self.layers) for key in ("parameters", "macs")}


def list_layers(plan: ArtifactPlan, watch: Watch | None = None) -> LayersReport:
    """Lower the model for every engine of the plan, and find its layers there.

    Raises:
        EdgekitError: a stage refused.
    """
    with open_model.start_runner(plan.execution, watch) as runner:
        context = open_model.prepare_context(runner, plan, open_model.load_source(runner, plan, MATCH.name))
        maps = [stages.map_layers(context, stages.lower(context, engine)) for engine in plan.targets.engines]
    return LayersReport(
        model=plan.model.name,
        framework=context.source.framework,
        layers=tuple(dataclasses.replace(layer, nodes=()) for layer in maps[0].layers),
        nodes={found.engine: tuple(layer.nodes for layer in found.layers) for found in maps},
        notes=(
            *plan.targets.notes,
            *context.source.notes,
            *(note for found in maps for note in unmatched_layers(found)),
        ),
    )


def unmatched_layers(found: LayerMap) -> tuple[str, ...]:
    """Return a note on the layers with weights that no node was found for."""
    names = ", ".join(layer.name for layer in found.unmatched)
    return (f"{found.engine}: no node was found for {names}, so recipe rules do not apply to them",) if names else ()
