"""Leaving out branches of PyTorch modules: traced, proven, and opened again from the user's own code."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from edgekit_converters.load import load, open_source, reopen
from edgekit_converters.load.save import SaveRequest, save
from edgekit_converters.prune import (
    AnalyzeRequest,
    CutChannelsRequest,
    DropBranchesRequest,
    analyze,
    cut_channels,
    drop_branches,
)
from edgekit_converters.records import ChannelCut, InputShape, Source, SourceRequest
from edgekit_runtime.errors import ConversionError

pytestmark = pytest.mark.needs_torch

NETS = Path(__file__).parent / "nets.py"
IMAGE = np.random.default_rng(3).standard_normal((1, 8, 8, 3)).astype(np.float32)


def source_of(name: str, tmp_path: Path) -> Source:
    return load(SourceRequest("python", NETS, function=name, input_shapes=(InputShape((1, 3, 8, 8)),)), tmp_path)


def test_blocks_go_and_the_rest_is_cut_and_saved(tmp_path: Path) -> None:
    import torch

    source = source_of("blocks", tmp_path)
    graph = analyze(AnalyzeRequest(source), tmp_path)
    assert {one.name for one in graph.branches} == {"first.add:0", "second.add:0", "third.add:0"}
    assert {one.stream for one in graph.branches if one.name != "third.add:0"} == {"(1, 8, 8, 8)"}
    short = load(drop_branches(DropBranchesRequest(source, ("first.add:0",)), tmp_path), tmp_path)
    live = open_source(source.request)
    for name in ("weight", "bias"):  # from here on it adds nothing
        getattr(live.handle.module.first.last, name).data.zero_()
    (ours,), (theirs,) = reopen(short.request).run([IMAGE]), live.run([IMAGE])
    np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-6)
    left = analyze(AnalyzeRequest(short), tmp_path)
    assert left.parameters < graph.parameters and "first.one" not in {one.layer for one in left.layer_costs}

    (tmp_path / "again").mkdir()
    twice = load(drop_branches(DropBranchesRequest(short, ("second.add:0",)), tmp_path / "again"), tmp_path)
    groups = analyze(AnalyzeRequest(twice), tmp_path).groups
    cuts = tuple(ChannelCut(one.name, tuple(range(0, one.width, 2))) for one in groups)
    request = cut_channels(CutChannelsRequest(twice, cuts), tmp_path)
    path = save(SaveRequest(load(request, tmp_path)), tmp_path).path
    program = torch.export.load(path).module()
    with torch.no_grad():
        out = program(torch.from_numpy(np.moveaxis(IMAGE, -1, 1).copy()))
    np.testing.assert_allclose(out.numpy(), reopen(request).run([IMAGE])[0], rtol=1e-4, atol=1e-5)


def test_a_pass_that_changes_what_others_read_is_refused(tmp_path: Path) -> None:
    source = source_of("overwriting", tmp_path)
    assert [one.name for one in analyze(AnalyzeRequest(source), tmp_path).branches] == ["block.add:0"]
    with pytest.raises(ConversionError, match="--no-depth-pruning"):
        drop_branches(DropBranchesRequest(source, ("block.add:0",)), tmp_path)


def test_a_pass_that_decides_by_what_it_gets_stays(tmp_path: Path) -> None:
    assert analyze(AnalyzeRequest(source_of("asking", tmp_path)), tmp_path).branches == ()
    with pytest.raises(ConversionError, match="there is no branch 'none'"):
        drop_branches(DropBranchesRequest(source_of("asking", tmp_path), ("none",)), tmp_path)


def test_a_pass_that_decides_by_an_argument_left_out_stays(tmp_path: Path) -> None:
    graph = analyze(AnalyzeRequest(source_of("optional", tmp_path)), tmp_path)
    assert graph.branches == () and "block.one.0" in {one.name for one in graph.groups}
