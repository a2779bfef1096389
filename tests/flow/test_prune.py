"""Pruning as part of a conversion, and to a model file that its framework loads without edgekit."""

import json
import subprocess
import sys

import numpy as np
import pytest

import edgekit
from edgekit_runtime.errors import PlanError, SourceError

SIDE, CLASSES = 16, 4
TORCH = """
import torch
from torch import nn

class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 16, 3, padding=1, bias=False), nn.BatchNorm2d(16), nn.ReLU())
        self.body = nn.Sequential(nn.Conv2d(16, 24, 3, stride=2), nn.BatchNorm2d(24), nn.ReLU())
        self.head = nn.Linear(24, {classes})

    def forward(self, image):
        return self.head(self.body(self.stem(image)).mean((2, 3)))

def build():
    torch.manual_seed(0)
    return Net()
"""


def images(count, seed):
    """Images whose brightest corner says their class."""
    generator = np.random.default_rng(seed)
    labels = generator.integers(0, CLASSES, count)
    pixels = generator.normal(100, 40, (count, SIDE, SIDE, 3))
    for row, label in enumerate(labels):
        down, right = SIDE // 2 * (label // 2), SIDE // 2 * (label % 2)
        pixels[row, down : down + SIDE // 2, right : right + SIDE // 2] *= 1 + 0.3 * (label + 1)
    return np.clip(pixels, 0, 255).astype(np.uint8), labels


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("prune")
    for name, count, seed in (("train", 400, 0), ("test", 200, 1)):
        x, y = images(count, seed)
        np.savez(folder / f"{name}.npz", x=x, y=y)
    (folder / "net.py").write_text(TORCH.format(classes=CLASSES))
    return folder


def python(folder, *arguments):
    """What a Python process says; it must end well."""
    done = subprocess.run([sys.executable, *arguments], cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def keras_net(folder):
    """A trained Keras model."""
    import keras
    from keras import layers

    keras.utils.set_random_seed(1)
    image = keras.Input((SIDE, SIDE, 3), name="image")
    stem = layers.Conv2D(32, 3, padding="same", use_bias=False, name="stem")(image)
    x = layers.ReLU()(layers.BatchNormalization()(stem))
    y = layers.ReLU()(layers.BatchNormalization()(layers.Conv2D(32, 3, padding="same", name="inner")(x)))
    x = layers.Add()([x, layers.Conv2D(32, 3, padding="same", name="outer")(y)])
    x = layers.GlobalAveragePooling2D()(layers.Conv2D(48, 3, strides=2, activation="relu", name="last")(x))
    model = keras.Model(image, layers.Dense(CLASSES, activation="softmax", name="scores")(x))
    model.compile("adam", "sparse_categorical_crossentropy")
    x, y = images(400, 0)
    model.fit(x / 255.0, y, epochs=3, batch_size=32, verbose=0)
    model.save(folder / "net.keras")
    return "net.keras"


@pytest.fixture(scope="module")
def converted(folder, keras_net, _own_cache):
    """The report of a conversion that prunes by the times of this machine, and writes their table."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        return edgekit.convert(
            keras_net,
            "net.edgekit",
            prune_to="latency=0.9",
            keep="stem",
            write_latency_table="table.json",
            train="train.npz",
            epochs=2,
            evaluate="test.npz",
            scale=1 / 255,
            device="generic-arm64",
            quantize=["float32", "int8-static"],
            report="report.json",
        )


@pytest.mark.needs_keras
@pytest.mark.needs_jsonschema
def test_one_command_prunes_and_converts(folder, repository, converted):
    import jsonschema

    written = json.loads((folder / "report.json").read_text())
    jsonschema.validate(written, json.loads((repository / "docs" / "report.schema.json").read_text()))
    pruning = converted.pruning
    left = {group.name: (group.width, group.left) for group in pruning.groups}
    assert left["stem"] == (32, 32)
    assert any(cut < width for width, cut in left.values())
    assert pruning.measured <= 0.9
    assert pruning.measured_in == "litert int8-static"
    assert [(one.model, one.scheme) for one in pruning.models] == [
        (model, scheme) for model in ("dense", "pruned") for scheme in ("float32", "int8-static")
    ]
    dense, pruned = pruning.models[0], pruning.models[2]
    assert pruned.parameters < dense.parameters
    assert pruned.macs < dense.macs
    assert pruned.size_bytes < dense.size_bytes
    assert len(pruning.rounds[0].history) == 2
    assert sum(cost.stage == "examine" for cost in converted.stages) >= 2  # both are quantized as the bundle's is
    assert converted.source.accuracy == pytest.approx(pruning.dense)  # losses are counted from the dense model
    for variant in converted.variants:
        assert variant.drop == pytest.approx(pruning.dense - variant.accuracy)
        assert variant.parity.snr_db > 20  # from the pruned one
    assert json.loads((folder / "table.json").read_text())["engine"] == "litert"


@pytest.mark.needs_keras
def test_a_latency_table_of_another_machine_is_used(folder, converted, monkeypatch):
    import keras

    monkeypatch.chdir(folder)
    table = json.loads((folder / "table.json").read_text())
    for row in table["rows"]:  # of a machine that multiplies one by one and does nothing else
        each = row["positions"] * int(np.prod(row["kernel"]))
        row["ms"] = [[1e-6 * each * ins * outs for outs in row["outs"]] for ins in row["ins"]]
    (folder / "board.json").write_text(json.dumps(table | {"whole_ms": 0.0}))
    report = edgekit.prune("net.keras", "small.keras", prune_to="latency=0.5", latency_table="board.json")
    assert report.pruning.measured is None
    assert 0.4 < report.pruning.counted <= 0.5
    dense, pruned = report.pruning.models
    assert pruned.macs / dense.macs == pytest.approx(report.pruning.counted, abs=0.03)
    assert any("no data to recover the accuracy with" in note for note in report.notes)
    assert keras.saving.load_model("small.keras").count_params() == pruned.parameters


@pytest.mark.needs_keras
@pytest.mark.needs_openvino
def test_a_latency_table_of_another_engine_is_refused(folder, converted, monkeypatch):
    monkeypatch.chdir(folder)
    with pytest.raises(PlanError, match="--latency-table is of litert, but the pruned model runs in openvino"):
        edgekit.prune("net.keras", prune_to="latency=0.5", latency_table="table.json", device="intel-cpu")


@pytest.mark.needs_torch
@pytest.mark.needs_rich
def test_a_module_is_pruned_in_rounds_and_made_sparse_from_the_command_line(folder, _own_cache):
    import torch

    command = "net.py:build --input-shape 1,3,16,16 --scale 0.00392156862745098 --prune-to macs=0.5 --sparsity 0.5"
    command += (
        " --rounds 2 --train train.npz --epochs 2 --evaluate test.npz --importance l2 --exclude-layer head --quiet"
    )
    command += " --samples 20 --report page.html -o small.pt2"
    shown = python(folder, "-m", "edgekit", "prune", *command.split())
    assert "--prune-to macs=0.5 --sparsity 0.5" in shown
    assert "round 2: held-out accuracy" in shown
    assert "not pruned: head: is an output of the model" in shown
    assert "note: calibration: only 20 samples" in shown
    assert "<svg" in (folder / "page.html").read_text()
    net = torch.export.load(folder / "small.pt2").module()
    assert net(torch.zeros(1, 3, 16, 16)).shape == (1, CLASSES)
    dense = 3 * 9 * 16 + 2 * 16 + 16 * 9 * 24 + 24 + 2 * 24 + 24 * CLASSES + CLASSES
    assert sum(one.numel() for one in net.parameters()) < 0.6 * dense
    kernels = [(one.numel(), int((one == 0).sum())) for one in net.parameters() if one.ndim > 1]
    assert kernels[-1][1] == 0
    assert [zeros for _, zeros in kernels[:-1]] == [weights - round(weights / 2) for weights, _ in kernels[:-1]]


@pytest.mark.needs_litert
def test_a_model_without_training_framework_is_not_pruned(tmp_path, _own_cache):
    from edgekit_converters.prune.latency.table import LayerTiming
    from edgekit_converters.prune.latency.tflite_layer import write_layer

    write_layer(LayerTiming("dense", 4, 4, 1), tmp_path / "net.tflite", int8=False)
    with pytest.raises(SourceError, match="a tflite model can be run, but not pruned or trained"):
        edgekit.prune(tmp_path / "net.tflite", prune=0.5)


@pytest.mark.needs_torch
def test_impossible_goals_are_refused_and_no_file_is_left(folder, tmp_path, monkeypatch, _own_cache):
    monkeypatch.chdir(folder)
    given = {"input_shape": (1, 3, 16, 16)}
    with pytest.raises(PlanError, match=r"--exclude-layer neck: no layer has such a name"):
        edgekit.prune("net.py:build", tmp_path / "s.pt2", prune=0.5, keep="neck", **given)
    with pytest.raises(PlanError, match=r"out of reach.*% of the macs is left"):
        edgekit.prune("net.py:build", tmp_path / "s.pt2", prune_to="macs=0.01", **given)
    with pytest.raises(PlanError, match="nothing can be pruned"):
        edgekit.prune("net.py:build", tmp_path / "s.pt2", prune=0.5, keep="*", **given)
    with pytest.raises(PlanError, match=r"saved as \.pt2"):
        edgekit.prune("net.py:build", tmp_path / "s.keras", prune=0.5, **given)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.needs_torch
def test_a_model_that_no_format_supports_is_written_and_cannot_be_resumed(folder, _own_cache):
    (folder / "rare.py").write_text(TORCH.format(classes=CLASSES).replace("return self.head", "return 2 * self.rare"))
    with (folder / "rare.py").open("a") as file:
        file.write("Net.rare = lambda self, x: torch.special.i1e(self.head(x))\n")
    command = "prune rare.py:build --input-shape 1,3,16,16 --train train.npz --epochs 1 --samples 20 -o rare.pt2"
    shown = python(folder, "-m", "edgekit", *command.split(), "--prune-to", "macs=0.6")
    assert (
        "note: pruning: not measured in litert: lower (litert): litert-torch has no lowering for aten.special_i1e"
        in shown
    )
    assert "note: training: only 400 samples" in shown
    assert (folder / "rare.pt2").is_file()
    for goal in (["--prune-to", "macs=0.6"], ["--sparsity", "0.5"]):
        again = [sys.executable, "-m", "edgekit", *command.split(), *goal, "--resume"]
        done = subprocess.run(again, cwd=folder, capture_output=True, text=True, check=False)
        assert done.returncode == 3
        assert "--resume: there is no checkpoint of this training" in done.stderr


@pytest.mark.needs_keras
@pytest.mark.needs_jsonschema
def test_a_conversion_reports_the_effect_of_sparsity(folder, keras_net, repository, monkeypatch, _own_cache):
    import jsonschema

    monkeypatch.chdir(folder)
    report = edgekit.convert(
        keras_net,
        "sparse.edgekit",
        sparsity="1:4",
        keep="scores",
        calibrate="train.npz",
        scale=1 / 255,
        device="generic-arm64",
        quantize="int8-static",
        report="sparse.json",
    )
    written = json.loads((folder / "sparse.json").read_text())
    jsonschema.validate(written, json.loads((repository / "docs" / "report.schema.json").read_text()))
    pruning = report.pruning
    assert [(one.layer, one.zeros / one.weights) for one in pruning.sparse] == [
        (name, 0.75) for name in ("inner", "outer", "last")
    ]
    assert pruning.counted == 0.25
    assert any("stem stays dense: takes 3 inputs" in note for note in report.notes)
    for dense, sparse in zip(pruning.models[:2], pruning.models[2:], strict=True):
        assert (sparse.parameters, sparse.macs) == (dense.parameters, dense.macs)
        assert sparse.compressed_bytes < 0.7 * dense.compressed_bytes
        assert any(note.startswith(f"sparsity: litert {sparse.scheme} has 100 %") for note in report.notes)
