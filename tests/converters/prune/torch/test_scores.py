"""Channel scores of PyTorch modules, and the recalibration of a pruned module."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from edgekit_converters.data import DataRequest, DataSet, prepare
from edgekit_converters.load import load, open_source, reopen
from edgekit_converters.prune import (
    IMPORTANCES,
    AnalyzeRequest,
    CutChannelsRequest,
    RecalibrateRequest,
    ScoreRequest,
    analyze,
    cut_channels,
    recalibrate,
    score,
)
from edgekit_converters.records import ChannelCut, InputShape, Source, SourceRequest
from edgekit_runtime.errors import DataError, SourceError

pytestmark = pytest.mark.needs_torch

HERE = Path(__file__).parent


@pytest.fixture
def source() -> Source:
    return load(SourceRequest("python", HERE / "nets.py", "flattened", input_shapes=(InputShape((1, 3, 8, 8)),)), HERE)


@pytest.fixture
def data(source: Source, tmp_path: Path) -> Callable[..., DataSet]:
    def make(labels: np.ndarray | None = None) -> DataSet:
        x = np.random.default_rng(5).standard_normal((96, 8, 8, 3)).astype(np.float32)
        np.savez(tmp_path / "data.npz", x=x, **({} if labels is None else {"y": labels}))
        (tmp_path / "data").mkdir()
        return prepare(DataRequest(str(tmp_path / "data.npz"), source.inputs), tmp_path / "data")

    return make


@pytest.mark.parametrize("importance", IMPORTANCES)
def test_a_channel_that_nobody_reads_is_worth_nothing(
    importance: str, source: Source, data: Callable[..., DataSet], tmp_path: Path
) -> None:
    import torch

    live = open_source(source.request)
    dead, layers = 3, live.handle.module
    with torch.no_grad():
        for array in (layers[0].weight[dead], layers[1].weight[dead : dead + 1], layers[5].weight[:, 48:64]):
            array.zero_()
    try:
        found = np.load(score(ScoreRequest(source, source.inputs, importance, data()), tmp_path).path)
    finally:
        open_source.cache_clear()
    assert {name: found[name].shape for name in found} == {"0": (8,), "5": (16,)}
    assert all((found[name] >= 0).all() for name in found)
    if importance != "random":
        assert found["0"][dead] == 0.0 < np.delete(found["0"], dead).min()


def test_taylor_tells_what_the_loss_loses_with_a_channel(
    source: Source, data: Callable[..., DataSet], tmp_path: Path
) -> None:
    """The sum over the samples of |x·∂L/∂x|, channel by channel, by finite differences of what the layer reads."""
    import torch

    labels = np.arange(96) % 4
    samples = data(labels)
    found = np.load(score(ScoreRequest(source, source.inputs, "taylor", samples), tmp_path).path)["5"]
    model = reopen(source.request).handle.module.double()
    x = torch.from_numpy(np.load(samples.inputs[0])).movedim(-1, 1).double()

    def loss(channel: int, scale: float) -> torch.Tensor:
        hidden = model[:7](x)
        hidden[:, channel] *= scale
        each = torch.nn.functional.cross_entropy(model[7](hidden), torch.from_numpy(labels), reduction="none")
        return each.reshape(-1, 8).sum(1)  # a batch of 8

    with torch.no_grad():
        wanted = [float((loss(c, 1 + 1e-4) - loss(c, 1 - 1e-4)).div(2e-4).abs().mean()) for c in range(16)]
    np.testing.assert_allclose(found, wanted, rtol=1e-3)


def test_gradients_of_a_module_that_fixes_its_batch_are_those_of_its_samples(
    source: Source, data: Callable[..., DataSet], tmp_path: Path
) -> None:
    samples, found = data(), []
    for one in (source, replace(source, request=replace(source.request, function="one_by_one"))):
        path = score(ScoreRequest(one, one.inputs, "taylor", samples), tmp_path).path
        found.append(list(np.load(path).values()))
    for ours, theirs in zip(*found, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-4)


def test_gradients_need_data_that_fit(source: Source, data: Callable[..., DataSet], tmp_path: Path) -> None:
    with pytest.raises(DataError, match="for which it needs data"):
        score(ScoreRequest(source, source.inputs, "taylor"), tmp_path)
    with pytest.raises(DataError, match=r"sample 95 has the label 4, but output .* has classes 0\.\.3"):
        score(ScoreRequest(source, source.inputs, "gradient", data(np.r_[np.zeros(95, int), 4])), tmp_path)


def test_batch_norm_scales_are_asked_of_a_module_that_has_some(tmp_path: Path) -> None:
    request = SourceRequest("python", HERE / "nets.py", "gated", input_shapes=(InputShape((1, 16)),))
    gated = load(request, HERE)
    with pytest.raises(SourceError, match="choose another importance"):
        score(ScoreRequest(gated, gated.inputs, "batch-norm"), tmp_path)


def test_mending_brings_the_module_nearer_to_the_dense_one(
    source: Source, data: Callable[..., DataSet], tmp_path: Path
) -> None:
    import torch

    cuts = (ChannelCut("0", (0, 1, 3, 4, 6, 7)), ChannelCut("5", tuple(range(12))))
    samples = data()
    for name in ("dense", "small", "statistics", "solved"):
        (tmp_path / name).mkdir()
    dense = replace(source, request=recalibrate(RecalibrateRequest(source, source.inputs, samples), tmp_path / "dense"))
    seen = open_source(source.request).handle.module[0](torch.from_numpy(np.load(samples.inputs[0])).movedim(-1, 1))
    mean = reopen(dense.request).handle.module[1].running_mean
    torch.testing.assert_close(mean, seen.mean((0, 2, 3)), rtol=0, atol=1e-5)

    x = np.random.default_rng(6).standard_normal((64, 8, 8, 3)).astype(np.float32)
    small = replace(source, request=cut_channels(CutChannelsRequest(dense, cuts), tmp_path / "small"))
    asked = RecalibrateRequest(small, source.inputs, samples)
    recalibrated = recalibrate(asked, tmp_path / "statistics")
    solved = recalibrate(replace(asked, dense=dense, cuts=cuts), tmp_path / "solved")
    wanted = reopen(dense.request).run([x])[0]
    errors = [float(np.square(reopen(one).run([x])[0] - wanted).sum()) for one in (small.request, recalibrated, solved)]
    assert errors[2] < 0.5 * min(errors[:2])


@pytest.mark.needs_data
def test_resnet20_is_cut_through_its_shortcuts_without_parameters(
    shared_data: Path, repository: Path, tmp_path: Path
) -> None:
    request = SourceRequest(
        "python",
        repository / "benchmarks/models/resnet20.py",
        function="resnet20",
        weights=shared_data / "pytorch_resnet20" / "resnet20-12fca82f.th",
        input_shapes=(InputShape((1, 3, 32, 32)),),
    )
    source = load(request, tmp_path)
    graph = analyze(AnalyzeRequest(source), tmp_path)
    assert graph.widths["conv1"] == 16 and graph.widths["layer2.0.conv2"] == 8
    assert graph.unprunable == (("linear", "is an output of the model"),)
    assert graph.macs_at(graph.widths) == 40_551_040
    cuts = tuple(ChannelCut(group.name, tuple(range(0, group.width, 2))) for group in graph.groups)
    small = open_source(cut_channels(CutChannelsRequest(source, cuts), tmp_path)).handle.module
    assert (small.conv1.out_channels, small.layer3[2].conv2.out_channels) == (8, 32)
    assert (small.layer2[0].added, small.layer3[0].added) == (8, 16)


def test_pruning_without_torch_pruning_names_the_extra(tmp_path: Path) -> None:
    check = (
        "import sys; sys.modules['torch_pruning'] = None\n"
        "from pathlib import Path\n"
        "from edgekit_converters.load import load\n"
        "from edgekit_converters.prune import AnalyzeRequest, analyze\n"
        "from edgekit_converters.records import InputShape, SourceRequest\n"
        f"here = Path({str(HERE)!r})\n"
        "asked = SourceRequest('python', here / 'nets.py', 'gated', input_shapes=(InputShape((1, 16)),))\n"
        "analyze(AnalyzeRequest(load(asked, here)), here)"
    )
    done = subprocess.run([sys.executable, "-c", check], check=False, capture_output=True, text=True)
    assert "torch_pruning is not installed\npip install 'edgekit[torch]'" in done.stderr, done.stderr
