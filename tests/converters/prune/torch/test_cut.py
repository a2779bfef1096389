"""What cutting a PyTorch module must never change, on every pattern that nets are made of."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgekit_converters.frameworks.loaded_model import LoadedModel
from edgekit_converters.load import open_source, reopen
from edgekit_converters.load.save import SaveRequest, save
from edgekit_converters.prune import AnalyzeRequest, CutChannelsRequest, PruningGraph, analyze, cut_channels
from edgekit_converters.records import ChannelCut, Source, SourceRequest
from edgekit_runtime.errors import ConversionError, SourceError

pytestmark = pytest.mark.needs_torch

HERE = Path(__file__).parent
INPUT = [np.random.default_rng(3).standard_normal((1, 8, 8, 3)).astype(np.float32)]
# function of nets.py: (input shape, kinds of groups that it must have)
NETS = {
    "residual": ("1,3,8,8", {"channels"}),
    "concatenated": ("1,3,8,8", {"channels"}),
    "growing": ("1,3,8,8", {"channels"}),
    "inverted": ("1,3,8,8", {"channels"}),
    "grouped": ("1,3,8,8", {"channels"}),
    "two_groups": ("1,3,8,8", {"channels"}),
    "flattened": ("1,3,8,8", {"channels", "neurons"}),
    "squeezed": ("1,3,8,8", {"channels", "neurons"}),
    "group_normalized": ("1,3,8,8", {"channels"}),
    "padded": ("1,3,8,8", {"channels"}),
    "shuffled": ("1,3,8,8", {"channels"}),
    "gated": ("1,16", {"neurons"}),
    "scaled": ("1,3,8,8", {"channels"}),
    "computed": ("1,3,8,8", {"channels"}),
    "upsampled": ("1,3,8,8", {"channels"}),
    "frozen": ("1,3,8,8", {"channels"}),
    "hidden_size": ("1,3,8,8", {"channels"}),
    "repeated": ("1,3,8,8", {"channels", "neurons"}),
    "hand_written": ("1,6,16", {"heads", "neurons"}),
    "fused": ("1,6,16", {"heads"}),
    "encoder": ("1,6:int64", {"heads", "neurons"}),
    "attending": ("1,6,16", {"heads"}),
}


def source_of(name: str, shape: str) -> Source:
    from edgekit.plan.input_shape import parse_input_shape
    from edgekit_converters.load import load

    request = SourceRequest("python", HERE / "nets.py", function=name, input_shapes=(parse_input_shape(shape),))
    return load(request, HERE)


def inputs_of(live: LoadedModel) -> list[np.ndarray]:
    generator = np.random.default_rng(7)
    return [
        generator.standard_normal(spec.shape).astype(spec.dtype)
        if spec.dtype == "float32"
        else generator.integers(0, 9, spec.shape).astype(spec.dtype)
        for spec in live.inputs
    ]


def every_other(graph: PruningGraph) -> tuple[ChannelCut, ...]:
    return tuple(ChannelCut(group.name, tuple(range(0, group.width, 2))) for group in graph.groups)


def silence(live: LoadedModel, graph: PruningGraph, cuts: tuple[ChannelCut, ...]) -> None:
    """Zero all weights by which any layer reads what the cuts take away."""
    import torch

    from edgekit_converters.prune.torch import stages
    from edgekit_converters.prune.torch.channel_groups import positions

    groups = stages.analysis_of(live).groups
    removed = groups.removed_roots({one.group: one.kept for one in cuts})
    for (layer, side), ids in groups.layer_roots().items():
        module: Any = dict(live.handle.module.named_modules()).get(layer)
        if side == "in" and getattr(module, "groups", 1) == 1 and (out := positions(ids, removed)):
            with torch.no_grad():
                module.weight.transpose(0, int(not getattr(module, "transposed", False)))[out] = 0


@pytest.mark.filterwarnings("ignore::FutureWarning")
@pytest.mark.parametrize("name", NETS)
def test_channels_that_nobody_reads_can_be_cut_without_a_trace(name: str, tmp_path: Path) -> None:
    shape, kinds = NETS[name]
    source = source_of(name, shape)
    graph = analyze(AnalyzeRequest(source), tmp_path)
    assert {group.kind for group in graph.groups} == kinds, graph.groups
    cuts = every_other(graph)
    live = open_source(source.request)
    if name not in ("encoder", "attending"):  # whose attention is another module after a cut
        silence(live, graph, cuts)
    wanted = live.run(inputs_of(live))
    small = open_source(cut_channels(CutChannelsRequest(source, cuts), tmp_path))
    got = small.run(inputs_of(small))
    if name not in ("encoder", "attending"):
        for one, other in zip(wanted, got, strict=True):
            np.testing.assert_allclose(one, other, atol=1e-5 * max(1.0, np.abs(one).max()))
    open_source.cache_clear()


@pytest.mark.parametrize("name", ["residual", "hand_written", "grouped", "attending", "upsampled", "scaled"])
def test_costs_are_what_the_anatomy_says_before_and_after(name: str, tmp_path: Path) -> None:
    source = source_of(name, NETS[name][0])
    graph = analyze(AnalyzeRequest(source), tmp_path)
    cuts = every_other(graph)
    widths = graph.widths | {one.group: len(one.kept) for one in cuts}
    assert counted(open_source(source.request)) == (
        graph.parameters_at(graph.widths),
        graph.macs_at(graph.widths),
    )
    small = open_source(cut_channels(CutChannelsRequest(source, cuts), tmp_path))
    assert counted(small) == (graph.parameters_at(widths), graph.macs_at(widths))
    assert graph.macs_at(widths) < graph.macs_at(graph.widths)


def counted(live: LoadedModel) -> tuple[int, int]:
    """Parameters, and MACs as PyTorch itself counts them while the module runs."""
    import torch
    from torch.nn.attention import SDPBackend, sdpa_kernel
    from torch.utils.flop_counter import FlopCounterMode

    from edgekit_converters.frameworks.torch_calls import example_inputs
    from edgekit_converters.prune.torch.stages import prunable_copy

    model = prunable_copy(live)  # PyTorch does not see into its own fused attention
    counter = FlopCounterMode(display=False)
    with counter, sdpa_kernel(SDPBackend.MATH), torch.no_grad():
        model(*example_inputs(live))
    return sum(one.numel() for one in model.parameters()), counter.get_total_flops() // 2


def test_the_saved_program_runs_without_edgekit_for_any_batch(tmp_path: Path) -> None:
    source = source_of("encoder", NETS["encoder"][0])
    graph = analyze(AnalyzeRequest(source), tmp_path)
    request = cut_channels(CutChannelsRequest(source, every_other(graph)), tmp_path)
    small = open_source(request)
    rows = np.random.default_rng(7).integers(0, 9, (3, 6))
    np.save(tmp_path / "x.npy", rows)
    np.save(tmp_path / "wanted.npy", small.run([rows])[0])
    path = save(SaveRequest(replace(source, request=request)), tmp_path).path
    check = (
        "import sys, numpy, torch\n"
        f"small = torch.export.load({str(path)!r}).module()\n"
        f"got = small(torch.from_numpy(numpy.load({str(tmp_path / 'x.npy')!r}))).detach().numpy()\n"
        f"assert numpy.allclose(got, numpy.load({str(tmp_path / 'wanted.npy')!r}), atol=1e-5)\n"
        "assert not any(name.startswith(('edgekit', 'torch_pruning')) for name in sys.modules)"
    )
    subprocess.run([sys.executable, "-c", check], check=True, env={"PATH": ""}, cwd=tmp_path)


def test_the_same_request_opens_the_same_module_and_a_second_cut_joins_the_first(tmp_path: Path) -> None:
    source = source_of("padded", NETS["padded"][0])
    graph = analyze(AnalyzeRequest(source), tmp_path)
    first = cut_channels(CutChannelsRequest(source, every_other(graph)), tmp_path)
    once, again = open_source(first).run(INPUT), reopen(first).run(INPUT)
    np.testing.assert_array_equal(once[0], again[0])
    smaller = replace(source, request=first)
    narrow = analyze(AnalyzeRequest(smaller), tmp_path)
    assert narrow.widths == {name: (width + 1) // 2 for name, width in graph.widths.items()}
    (tmp_path / "second").mkdir()
    second = cut_channels(CutChannelsRequest(smaller, every_other(narrow)), tmp_path / "second")
    assert {one.group: one.kept for one in second.cuts}["first.0"] == (0, 4, 8, 12)
    assert analyze(AnalyzeRequest(replace(source, request=second)), tmp_path).parameters < narrow.parameters


def test_frozen_layers_are_cut_and_stay_frozen(tmp_path: Path) -> None:
    source = source_of("frozen", NETS["frozen"][0])
    graph = analyze(AnalyzeRequest(source), tmp_path)
    small = open_source(cut_channels(CutChannelsRequest(source, every_other(graph)), tmp_path)).handle.module
    assert not any(one.requires_grad for one in small.parameters())
    assert small.first[0].out_channels == 6


def test_a_layer_gives_what_it_gave_where_attention_was_opened(tmp_path: Path) -> None:
    from edgekit_converters.frameworks.torch_calls import example_inputs
    from edgekit_converters.prune.torch.stages import prunable_copy

    for name in ("encoder", "attending"):
        live = open_source(source_of(name, NETS[name][0]).request)
        one, other = live.handle.module(*example_inputs(live)), prunable_copy(live)(*example_inputs(live))
        assert float((one - other).abs().max()) < 1e-5


@pytest.mark.parametrize(
    ("name", "shape", "says"),
    [
        ("alone", "1,8", "no layer of the module can be cut"),
        ("constant_size", "1,3,8,8", "stem.0: its forward pass stores their number"),
        ("decides", "1,8", "torch.export cannot follow"),
        ("sorted_channels", "1,3,8,8", "stem.0: goes into sort, which has no propagation rule"),
        ("tied", "1,8", "shares its weights: first.weight, second.weight"),
        ("reads_a_channel", "1,3,8,8", "is indexed in"),
    ],
)
def test_what_cannot_be_cut_is_named(name: str, shape: str, says: str, tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="") as refused:
        analyze(AnalyzeRequest(source_of(name, shape)), tmp_path)
    assert says in str(refused.value)


@pytest.mark.filterwarnings("ignore::FutureWarning")  # of weight_norm, which many models still have
def test_a_layer_whose_weights_are_computed_is_named_where_others_are_cut(tmp_path: Path) -> None:
    whole = analyze(AnalyzeRequest(source_of("computed", NETS["computed"][0])), tmp_path).unprunable
    assert ("stem", "the weights of its conv2d are not those of a supported layer") in whole


def test_a_saved_program_is_refused_as_something_to_cut(tmp_path: Path) -> None:
    from edgekit_converters.load import load

    path = save(SaveRequest(source_of("residual", NETS["residual"][0])), tmp_path).path
    with pytest.raises(SourceError, match="give the module it was made from"):
        analyze(AnalyzeRequest(load(SourceRequest("torch_program", path), tmp_path)), tmp_path)


@pytest.mark.parametrize(
    ("cuts", "says"),
    [
        ((ChannelCut("stem.0", ()),), "would remove all channels of stem.0"),
        ((ChannelCut("first.0", tuple(range(12))),), "remove no channel"),
        ((ChannelCut("head", (0,)),), "head cannot be cut: is an output of the model"),
        ((ChannelCut("nobody", (0,)),), "no group 'nobody'"),
        ((ChannelCut("stem.0", (1, 0)),), "ascending"),
    ],
)
def test_cuts_that_make_no_sense_are_refused(cuts: tuple[ChannelCut, ...], says: str, tmp_path: Path) -> None:
    with pytest.raises(ConversionError) as refused:
        cut_channels(CutChannelsRequest(source_of("residual", NETS["residual"][0]), cuts), tmp_path)
    assert says in str(refused.value)
