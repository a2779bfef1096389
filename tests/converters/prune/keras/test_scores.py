"""Channel scores of Keras models, and how much accuracy recalibration recovers."""

import importlib
from dataclasses import replace

import numpy as np
import pytest

from edgekit_converters.records import ChannelCut, Source, SourceRequest
from edgekit_runtime.errors import DataError, SourceError

pytestmark = pytest.mark.needs_keras


@pytest.fixture(scope="module", params=["keras", "tf_keras"])
def net(request, tmp_path_factory):
    """A file, and its Source: two convolutions of which the second reads channels that are much alike."""
    from edgekit_converters.load import load

    keras = importlib.import_module(request.param)
    layers = keras.layers
    keras.utils.set_random_seed(0)
    x = keras.Input((8, 8, 3), name="image")
    y = layers.ReLU()(layers.BatchNormalization(name="norm")(layers.Conv2D(12, 3, padding="same", name="first")(x)))
    y = layers.ReLU()(layers.Conv2D(6, 3, name="second")(y))
    model = keras.Model(x, layers.Dense(4, activation="softmax", name="head")(layers.Flatten()(y)))
    generator = np.random.default_rng(0)
    few = generator.standard_normal((3, 3, 3, 4))
    model.get_layer("first").kernel.assign(few @ generator.standard_normal((4, 12)))
    model.get_layer("norm").gamma.assign(np.linspace(0.5, 1.5, 12))
    path = tmp_path_factory.mktemp(request.param) / ("net.h5" if request.param == "tf_keras" else "net.keras")
    model.save(path)
    return load(SourceRequest("keras", path), path.parent)


def images(count):
    return np.random.default_rng(1).uniform(-1, 1, (count, 8, 8, 3)).astype(np.float32)


@pytest.fixture
def prepared_for(tmp_path):
    def prepare(source, **arrays):
        from edgekit_converters.data import DataRequest, prepare

        folder = tmp_path / f"data-{len(list(tmp_path.iterdir()))}"
        folder.mkdir()
        np.savez(folder / "samples.npz", **arrays)
        return prepare(DataRequest(str(folder / "samples.npz"), source.inputs), folder)

    return prepare


def scored(source, importance, folder, data=None, seed=0):
    from edgekit_converters.prune import ScoreRequest, score

    with np.load(score(ScoreRequest(source, source.inputs, importance, data, seed), folder).path) as arrays:
        return dict(arrays)


def test_magnitudes_scales_and_chance(net, tmp_path):
    from edgekit_converters.load import open_source

    model = open_source(net.request).handle.model
    kernel = model.get_layer("first").kernel.numpy().reshape(-1, 12)
    assert np.allclose(scored(net, "l1", tmp_path)["first"], np.abs(kernel).sum(axis=0), rtol=1e-5)
    assert np.allclose(scored(net, "l2", tmp_path)["first"], np.linalg.norm(kernel, axis=0), rtol=1e-5)
    assert np.allclose(scored(net, "batch-norm", tmp_path)["first"], np.linspace(0.5, 1.5, 12))
    first, other = (scored(net, "random", tmp_path, seed=seed)["first"] for seed in (0, 1))
    assert np.array_equal(first, scored(net, "random", tmp_path)["first"])
    assert not np.allclose(first, other)


def test_taylor_is_what_the_loss_changes_by(net, tmp_path, prepared_for):
    """Against finite differences of the loss, in a channel's weights in the layer that uses it."""
    from edgekit_converters.load import reopen

    inputs, labels = images(8), np.arange(8) % 4
    found = scored(net, "taylor", tmp_path, prepared_for(net, x=inputs, y=labels))["first"]
    live = reopen(net.request)
    second = live.handle.model.get_layer("second")
    kernel = second.kernel.numpy()

    def loss(factor, channel):
        changed = kernel.copy()
        changed[:, :, channel] *= factor
        second.kernel.assign(changed)
        return -np.sum(np.log(live.handle.serve(inputs)[0].numpy()[np.arange(8), labels].astype(np.float64)))

    expected = [abs(loss(1.002, channel) - loss(0.998, channel)) / 0.004 for channel in range(12)]
    assert np.allclose(found, expected, rtol=0.03, atol=0.01 * max(expected))


def test_gradients_need_no_labels_but_data_that_fit(net, tmp_path, prepared_for):
    for importance in ("taylor", "gradient"):
        with pytest.raises(DataError, match=f"{importance!r} looks at gradients"):
            scored(net, importance, tmp_path)
        scores = scored(net, importance, tmp_path, prepared_for(net, x=images(20)))
        assert all(np.all(np.isfinite(one)) and one.min() >= 0 and one.max() > 0 for one in scores.values())
    with pytest.raises(DataError, match=r"sample 2 has the label 4, but output '.*' has classes 0\.\.3"):
        scored(net, "taylor", tmp_path, prepared_for(net, x=images(3), y=np.array([0, 1, 4])))
    with pytest.raises(DataError, match=r"labels of shape \(3, 2\) .* do not fit output"):
        scored(net, "taylor", tmp_path, prepared_for(net, x=images(3), y=np.ones((3, 2), np.float32)))
    with pytest.raises(DataError, match="are one-hot: give class numbers"):
        scored(net, "taylor", tmp_path, prepared_for(net, x=images(3), y=np.eye(4, dtype=np.float32)[:3]))


def test_batch_norm_needs_one(tmp_path):
    import keras

    from edgekit_converters.load import load

    x = keras.Input((4,))
    keras.Model(x, keras.layers.Dense(2)(keras.layers.Dense(5)(x))).save(tmp_path / "plain.keras")
    source = load(SourceRequest("keras", tmp_path / "plain.keras"), tmp_path)
    with pytest.raises(SourceError, match="choose another importance, such as l2"):
        scored(source, "batch-norm", tmp_path)


def snr_db(reference, output):
    return 10 * np.log10(np.sum(reference**2) / np.sum((reference - output) ** 2))


def halved(source: Source, folder):
    """Cut half of each group; gives the cuts and the smaller Source."""
    from edgekit_converters.load import load
    from edgekit_converters.prune import AnalyzeRequest, CutChannelsRequest, analyze, cut_channels

    groups = analyze(AnalyzeRequest(source), folder).groups
    cuts = tuple(ChannelCut(one.name, tuple(range(0, one.width, 2))) for one in groups)
    return cuts, load(cut_channels(CutChannelsRequest(source, cuts), folder), folder)


def test_mending_undoes_most_of_a_cut(net, tmp_path, prepared_for):
    from edgekit_converters.load import reopen
    from edgekit_converters.prune import RecalibrateRequest, recalibrate

    cuts, small = halved(net, tmp_path)
    asked = RecalibrateRequest(small, small.inputs, prepared_for(net, x=images(200)))
    fresh = np.random.default_rng(2).uniform(-1, 1, (50, 8, 8, 3)).astype(np.float32)
    reference = reopen(net.request).run([fresh])[0]
    found = []
    for step, request in enumerate((None, asked, replace(asked, dense=net, cuts=cuts))):
        folder = tmp_path / f"recalibrated-{step}"
        folder.mkdir()
        source = recalibrate(request, folder) if request else small.request
        assert source.path.is_file()
        found.append(snr_db(reference, reopen(source).run([fresh])[0]))
    assert found[2] > found[0] + 3
    assert found[2] > found[1] + 3


def test_statistics_become_those_of_the_data(net, tmp_path, prepared_for):
    from edgekit_converters.load import open_source, reopen
    from edgekit_converters.prune import RecalibrateRequest, recalibrate

    _, small = halved(net, tmp_path)
    untouched = [one.numpy() for one in open_source(small.request).handle.model.weights]
    data = images(70)
    folder = tmp_path / "recalibrated"
    folder.mkdir()
    model = reopen(recalibrate(RecalibrateRequest(small, small.inputs, prepared_for(net, x=data)), folder)).handle.model
    taken = model.get_layer("first")(data).numpy().reshape(-1, 6).astype(np.float64)
    norm = model.get_layer("norm")
    assert np.allclose(norm.moving_mean.numpy(), taken.mean(axis=0), atol=1e-4)
    assert np.allclose(norm.moving_variance.numpy(), taken.var(axis=0), rtol=1e-3)
    for before, after in zip(untouched, open_source(small.request).handle.model.weights, strict=True):
        assert np.array_equal(before, after.numpy())  # what others have open is not changed


@pytest.mark.needs_data
def test_a_real_net_is_mended(tmp_path, shared_data):
    """ResNet-8 with 30 % of its channels cut, on other images than it was recalibrated with."""
    from edgekit_converters.data import DataRequest, prepare
    from edgekit_converters.load import load, reopen
    from edgekit_converters.prune import (
        AnalyzeRequest,
        CutChannelsRequest,
        RecalibrateRequest,
        analyze,
        cut_channels,
        recalibrate,
    )

    path = shared_data / "mlperf_tiny" / "image_classification" / "pretrainedResnet.h5"
    source = load(SourceRequest("keras", path), tmp_path)
    data = prepare(DataRequest(str(shared_data / "cifar10" / "calibration.npz"), source.inputs, samples=200), tmp_path)
    scores = scored(source, "l2", tmp_path)
    cuts = tuple(
        ChannelCut(one.name, tuple(sorted(np.argsort(-scores[one.name])[: round(0.7 * one.width)].tolist())))
        for one in analyze(AnalyzeRequest(source), tmp_path).groups
    )
    small = load(cut_channels(CutChannelsRequest(source, cuts), tmp_path), tmp_path)
    folder = tmp_path / "recalibrated"
    folder.mkdir()
    recalibrated = recalibrate(RecalibrateRequest(small, small.inputs, data, source, cuts), folder)
    with np.load(shared_data / "cifar10" / "test.npz") as arrays:
        test = arrays["x"][:500].astype(np.float32)
    reference, before, after = (reopen(one).run([test])[0] for one in (source.request, small.request, recalibrated))
    assert snr_db(reference, after) > snr_db(reference, before) + 4
    agreeing = [np.mean(one.argmax(1) == reference.argmax(1)) for one in (before, after)]
    assert agreeing[1] > 2 * agreeing[0]
