"""Which channels hang together in a PyTorch module: edgekit's rules beside torch-pruning's DependencyGraph.

Both tools halve the channel groups they find: some groups alone, each in a fresh copy of the module, then all at once.
The check depends on neither tool. Before pruning, the entries of each parameter are set to distinct values, so that the
pruned module's parameters show which entries were removed. The dense module with exactly these entries set to zero must
give the same outputs as the pruned module. If it does not, the pruned module mixes up channels, or normalizes by other
statistics.

torchvision and timm are used where they are installed; the other networks are in this repository.
"""

from __future__ import annotations

import argparse
import copy
import importlib.metadata
import importlib.util
import logging
import signal
import tempfile
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import nn

from benchmarks.models import channel_idioms as idioms
from benchmarks.models.resnet20 import resnet20
from edgekit_converters.load.torch_module import from_module
from edgekit_converters.prune import CutChannelsRequest
from edgekit_converters.prune.torch import stages
from edgekit_converters.records import ChannelCut, InputShape, Source, SourceRequest
from edgekit_runtime.errors import EdgekitError

CLOSE = 1e-4  # of the largest output
LIMIT_S = 300  # of processor time for torch-pruning, whose graph has a loop that may not end
ALONE = 6  # groups of a network that are pruned alone, evenly spaced
NETS = Path(__file__).parents[2] / "tests/converters/prune/torch/nets.py"
ERRORS = (Exception,)  # either tool may raise anything here
NORMALIZATIONS = (nn.LayerNorm, nn.GroupNorm)  # divide by statistics of channels together
TORCHVISION = {
    "ResNet-18": "resnet18",
    "MobileNetV2": "mobilenet_v2",
    "MobileNetV3 (squeeze-and-excitation)": "mobilenet_v3_small",
    "EfficientNet-B0": "efficientnet_b0",
    "DenseNet-121 (concatenation)": "densenet121",
    "ShuffleNetV2 (chunk, channel shuffle)": "shufflenet_v2_x0_5",
    "RegNetX (grouped convolution)": "regnet_x_400mf",
    "SqueezeNet": "squeezenet1_1",
    "ConvNeXt (LayerNorm, layer scale)": "convnext_tiny",
}


@dataclass(frozen=True)
class Case:
    """A network and the shape of its input; token numbers where ``dtype`` is an integer."""

    name: str
    build: Callable[[], nn.Module]
    shape: tuple[int, ...]
    dtype: str = "float32"
    heads: tuple[str, ...] = ()  # names of the linear layers that torch-pruning has to be told the heads of
    count: int = 0  # of heads


@dataclass
class Outcome:
    """What a tool did with one network."""

    groups: Counter[str]  # verdict: number of channel groups pruned alone
    together: str  # verdict on all groups pruned at once
    left: float  # of the parameters, then
    note: str = ""

    def __str__(self) -> str:
        groups = ", ".join(f"{count} {verdict}" for verdict, count in self.groups.items()) or "none"
        return f"{groups}; all: {self.together}, {self.left:.0%} left{self.note and f' ({self.note})'}"


def main() -> None:
    """Print a line a network and tool."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default="", help="part of a network's name")
    only = parser.parse_args().only
    warnings.simplefilter("ignore")
    logging.disable(logging.WARNING)
    for name in ("torch", "torch-pruning", "torchvision", "timm"):
        if importlib.util.find_spec(name.replace("-", "_")):
            print(name, importlib.metadata.version(name), end="  ")
    print(flush=True)
    for case in cases():
        if only in case.name:
            print(case.name)
            for tool, measure in (("torch-pruning", _torch_pruning), ("edgekit", _edgekit)):
                print(f"  {tool:<14} {measure(case)}", flush=True)


def cases() -> Iterator[Case]:
    """Yield the networks."""
    yield Case("ResNet-20, option A (strided slice, padded channels)", resnet20, (1, 3, 32, 32))
    if importlib.util.find_spec("torchvision"):
        models = __import__("torchvision").models
        for name, function in TORCHVISION.items():
            yield Case(name, getattr(models, function), (1, 3, 64, 64))
        yield Case("ResNet-18, frozen parameters", lambda: models.resnet18().requires_grad_(False), (1, 3, 64, 64))
        yield Case("FCN head on ResNet-50 (upsampling)", lambda: _segmentation(models), (1, 3, 64, 64))
    if importlib.util.find_spec("timm"):
        timm: Any = __import__("timm")
        size = {"img_size": 32, "patch_size": 8, "embed_dim": 64, "depth": 2, "num_heads": 4, "num_classes": 5}
        yield Case(
            "ViT (fused qkv)", lambda: timm.models.VisionTransformer(**size), (1, 3, 32, 32), "float32", ("qkv",), 4
        )
        yield Case("LeViT", lambda: timm.create_model("levit_128s"), (1, 3, 224, 224))
    yield Case("BERT, 2 layers (Transformers)", _bert, (1, 6), "int64", ("query", "key", "value"), 4)
    yield Case("PixelShuffle", idioms.Upscaler, (1, 3, 16, 16))
    yield Case("LSTM between Linear layers", idioms.Tagger, (1, 6, 12))
    yield Case("split and concatenate (C2f)", idioms.SplitConcat, (1, 3, 16, 16))
    yield Case("mean over channels, used element-wise", idioms.NormalizedChannels, (1, 3, 16, 16))
    yield Case("product of two feature matrices", idioms.ScoreMatrix, (1, 3, 8, 8))
    nets = _nets()
    for name, shape in SMALL.items():
        dtype, heads = ("int64" if name == "encoder" else "float32"), HEADS.get(name, ())
        yield Case(f"small: {name}", getattr(nets, name), shape, dtype, heads, 4 if heads else 0)


SMALL = {
    **dict.fromkeys(("residual", "concatenated", "inverted", "grouped", "flattened", "squeezed"), (1, 3, 8, 8)),
    **dict.fromkeys(("group_normalized", "padded", "shuffled", "scaled", "computed", "upsampled"), (1, 3, 8, 8)),
    **dict.fromkeys(("hidden_size", "repeated", "constant_size", "sorted_channels", "blocks"), (1, 3, 8, 8)),
    **{"gated": (1, 16), "tied": (1, 8), "hand_written": (1, 6, 16), "fused": (1, 6, 16), "attending": (1, 6, 16)},
    "encoder": (1, 6),
}
HEADS = {"hand_written": ("q", "k", "v"), "fused": ("qkv",)}


def _nets() -> ModuleType:
    spec = importlib.util.spec_from_file_location("nets", NETS)
    if spec is None or spec.loader is None:
        raise SystemExit(f"{NETS} is not there")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def _segmentation(models: Any) -> nn.Module:
    net: nn.Module = models.segmentation.fcn_resnet50(weights=None, weights_backbone=None)
    return net


def _bert() -> nn.Module:
    from transformers import BertConfig, BertForSequenceClassification

    sizes = {"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 128}
    net: nn.Module = BertForSequenceClassification(BertConfig(vocab_size=50, **sizes))
    return net


def _sample(case: Case, shape: tuple[int, ...]) -> torch.Tensor:
    generator = torch.Generator().manual_seed(1)
    if case.dtype == "int64":
        return torch.randint(0, 9, shape, generator=generator)
    return torch.randn(shape, generator=generator)


def _made(case: Case) -> nn.Module:
    """Return a network in evaluation mode, each of whose parameters holds distinct values; it has run once."""
    torch.manual_seed(0)
    model = case.build().eval()
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for values in (*model.parameters(), *(one for one in model.buffers() if one.is_floating_point())):
            count = values.numel()
            order = (torch.randperm(count, generator=generator) + 0.5) / count
            overhead_terms = 2 * order - 1 if values.dim() > 1 else 0.5 + order
            gain = (3 * values.shape[0] / count) ** 0.5 if values.dim() > 1 else 1.0
            values.copy_((overhead_terms * gain).reshape(values.shape))
        model(_sample(case, case.shape))
    return model


def _verdict(dense: nn.Module, small: nn.Module, inputs: torch.Tensor) -> str:
    """Compare a pruned module with the dense one that has zeros in place of what was removed."""
    if _count(small) == _count(dense):
        return "unchanged"
    with torch.no_grad():
        try:
            got = _outputs(small(inputs))
        except ERRORS as error:
            return f"does not run ({type(error).__name__})"
        wanted = _outputs(_silenced(dense, small)(inputs))
    if [one.shape for one in wanted] != [one.shape for one in got]:
        return "other output shape"
    error = max(float((a - b).abs().max() / a.abs().max().clamp_min(1e-6)) for a, b in zip(wanted, got, strict=True))
    return "exact" if error <= CLOSE else "WRONG"


def _silenced(dense: nn.Module, small: nn.Module) -> nn.Module:
    """Return the dense module with zeros for all entries that the pruned one no longer has."""
    silenced, left = copy.deepcopy(dense), small.state_dict()
    with torch.no_grad():
        for name, values in silenced.state_dict().items():
            if values.is_floating_point() and not name.endswith("running_var"):
                values.mul_(torch.isin(values, left[name]))
    return silenced


def _spaced(number: int) -> list[int]:
    return sorted({place * number // ALONE for place in range(ALONE)}) if number else []


def _outputs(result: Any) -> list[torch.Tensor]:
    leaves = torch.utils._pytree.tree_leaves(dict(result) if hasattr(result, "keys") else result)
    return [leaf for leaf in leaves if isinstance(leaf, torch.Tensor)]


def _count(module: nn.Module) -> int:
    return sum(one.numel() for one in module.parameters())


def _torch_pruning(case: Case) -> Outcome:
    """Prune with its MagnitudePruner, as its readme does: half of each group, output layers ignored."""
    dense, inputs = _made(case), _sample(case, case.shape)
    signal.signal(signal.SIGVTALRM, _too_long)
    signal.setitimer(signal.ITIMER_VIRTUAL, LIMIT_S)
    try:
        number = sum(1 for _ in _steps(case, copy.deepcopy(dense), inputs))
        groups: Counter[str] = Counter()
        for place in _spaced(number):
            small = copy.deepcopy(dense)
            groups[_attempt(case, dense, small, inputs, place)] += 1
        small = copy.deepcopy(dense)
        together = _attempt(case, dense, small, inputs, None)
    except ERRORS as error:
        return Outcome(Counter(), f"refused ({type(error).__name__}: {str(error).splitlines()[:1]})", 1.0)
    finally:
        signal.setitimer(signal.ITIMER_VIRTUAL, 0)
    return Outcome(groups, together, _count(small) / _count(dense))


def _too_long(*_: object) -> None:
    raise TimeoutError(f"not done after {LIMIT_S} s of processor time")


def _steps(case: Case, model: nn.Module, inputs: torch.Tensor) -> Iterator[Any]:
    import torch_pruning

    linear = [one for name, one in model.named_modules() if name.rpartition(".")[2] in case.heads]
    pruner = torch_pruning.pruner.MagnitudePruner(
        model,
        inputs,
        importance=torch_pruning.importance.MagnitudeImportance(p=2),
        pruning_ratio=0.5,
        ignored_layers=_last_layers(model, inputs),
        num_heads=dict.fromkeys(linear, case.count),
        prune_num_heads=bool(linear),
        prune_head_dims=not linear,
        head_pruning_ratio=0.5,
        in_channel_groups={},
        out_channel_groups={},
    )
    before = {layer: layer.out_features for layer in linear}
    yield from pruner.step(interactive=True)
    _set_heads(model, case, before)


def _set_heads(model: nn.Module, case: Case, before: dict[Any, int]) -> None:
    """Set the attributes that hold a number of heads, which torch-pruning leaves to its user."""
    for module in model.modules():
        layer: Any = next((part for name, part in module.named_children() if name in case.heads), None)
        if layer is None:
            continue
        width = layer.out_features // (3 if case.heads == ("qkv",) else 1)
        count = layer.out_features * case.count // before[layer]
        values = {"num_heads": count, "heads": count, "num_attention_heads": count, "attn_dim": width}
        for name, value in (values | {"all_head_size": width, "all": width}).items():
            if hasattr(module, name):
                setattr(module, name, value)


def _attempt(case: Case, dense: nn.Module, small: nn.Module, inputs: torch.Tensor, place: int | None) -> str:
    """Prune one group, or all of them, and compare."""
    statistics = False
    try:
        for number, group in enumerate(_steps(case, small, inputs)):
            if place is None or number == place:
                statistics |= any(isinstance(step.target.module, NORMALIZATIONS) for step, _ in group)
                group.prune()
    except ERRORS as error:
        return f"refused ({type(error).__name__})"
    verdict = _verdict(dense, small, inputs)
    return "other statistics" if verdict == "WRONG" and statistics else verdict


def _last_layers(model: nn.Module, inputs: torch.Tensor) -> list[nn.Module]:
    """Return the last layer that ran: by torch-pruning's readme the user names the layers that give the outputs."""
    ran: list[nn.Module] = []
    layers = [one for one in model.modules() if isinstance(one, (nn.Linear, nn.modules.conv._ConvNd))]
    hooks = [one.register_forward_hook(lambda module, *_: ran.append(module)) for one in layers]
    with torch.no_grad():
        model(inputs)
    for hook in hooks:
        hook.remove()
    return ran[-1:]


def _edgekit(case: Case) -> Outcome:
    request = SourceRequest("python", NETS, input_shapes=(InputShape(case.shape, dtype=case.dtype),), keep_layout=True)
    inputs = _sample(case, case.shape)
    try:
        live = from_module(_made(case), request)
        graph = stages.analyze(live)
    except EdgekitError as error:
        return Outcome(Counter(), "refused", 1.0, str(error).splitlines()[0][:100])
    dense = stages.prunable_copy(live)
    halves = [ChannelCut(group.name, tuple(range(0, group.width, 2))) for group in graph.groups]
    groups: Counter[str] = Counter()
    try:
        for place in _spaced(len(halves)):
            small, _ = _cut(case, live, request, (halves[place],))
            groups[_verdict(dense, small, inputs)] += 1
        small, predicted = _cut(case, live, request, tuple(halves))
    except EdgekitError as error:
        return Outcome(groups, "refused", 1.0, str(error).splitlines()[0][:200])
    right = "" if predicted == _count(small) else f"{predicted} parameters predicted"
    return Outcome(groups, _verdict(dense, small, inputs), _count(small) / _count(dense), right)


def _cut(case: Case, live: Any, request: SourceRequest, cuts: tuple[ChannelCut, ...]) -> tuple[nn.Module, int]:
    """Return a module cut and opened again as the product does it, and the number of parameters that was predicted."""
    graph = stages.analyze(live)
    with tempfile.TemporaryDirectory() as folder:
        source = Source(request, "torch", live.inputs, live.outputs, live.transposed)
        left = stages.cut_channels(live, CutChannelsRequest(source, cuts), Path(folder))
        small = from_module(_made(case), left).handle.module
    return small, graph.parameters_at(graph.widths | {one.group: len(one.kept) for one in cuts})


if __name__ == "__main__":
    main()
