"""Equal input gives equal bytes: IR written in processes with different earlier nodes is identical."""

import json
import os
import subprocess
import sys

import pytest

from edgekit_converters.execution.worker import ENVIRONMENT

pytestmark = [pytest.mark.needs_openvino, pytest.mark.needs_keras, pytest.mark.needs_torch]

# OpenVINO counts every node of the process in the names it gives; the two counts differ in length, too, so that
# whatever is sorted by such a name is sorted differently
NODES_BEFORE = (0, 12345)
MAKE = """
import json, sys
from pathlib import Path
import numpy as np
from openvino import opset13
from edgekit_converters.execution.stage_cache import digest
from edgekit_converters.data import DataRequest, prepare
from edgekit_converters.load import load
from edgekit_converters.lower import lower
from edgekit_converters.quantize import quantize
from edgekit_converters.recipe.recipe import Recipe
from edgekit_converters.records import LowerRequest, QuantizeRequest, SourceRequest

root, nodes = Path(sys.argv[1]), int(sys.argv[2])
held = [opset13.constant(0) for _ in range(nodes)]
made = {}
for kind, name in (("keras", "net.keras"), ("keras", "loop.keras"), ("torch_program", "net.pt2")):
    folder = root / f"{name}-{nodes}"
    folder.mkdir()
    source = load(SourceRequest(kind, root / name), folder)
    np.save(folder / "samples.npy", np.random.default_rng(0).random((32, *source.inputs[0].shape[1:]), np.float32))
    data = prepare(DataRequest(str(folder / "samples.npy"), source.inputs), folder)
    artifact = lower(LowerRequest(source, "openvino"), folder)
    made[name] = [digest(path) for path in artifact.files]
    for scheme in ("float16", "int8-weights", "int8-static"):
        (folder / scheme).mkdir()
        held += [opset13.constant(0) for _ in range(nodes)]
        files = quantize(QuantizeRequest(artifact, Recipe(scheme), source.inputs, data), folder / scheme).files
        made[name] += [digest(path) for path in files]
print("made:", json.dumps(made))
"""


def keras_net(path):
    import keras
    from keras import layers

    keras.utils.set_random_seed(0)
    image = keras.Input((8, 8, 3))
    x = layers.BatchNormalization()(layers.Conv2D(4, 3, activation="relu")(image))
    x = layers.GlobalAveragePooling2D()(layers.Conv2D(8, 3, strides=2)(x))
    keras.Model(image, layers.Dense(3, activation="softmax", name="telling")(x)).save(path)


def keras_loop(path):
    import keras
    from keras import layers

    keras.utils.set_random_seed(0)
    series = keras.Input((5, 3))
    keras.Model(series, layers.Dense(2)(layers.SimpleRNN(4)(series))).save(path)


def torch_net(path):
    import torch
    from torch import nn

    torch.manual_seed(0)
    layers = [nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 8, 3), nn.Flatten(), nn.Linear(128, 5)]
    torch.export.save(torch.export.export(nn.Sequential(*layers).eval(), (torch.zeros(1, 3, 8, 8),)), path)


def make(folder, nodes):
    done = subprocess.run(
        [sys.executable, "-c", MAKE, str(folder), str(nodes)],
        env=os.environ | ENVIRONMENT | {"PYTHONPATH": os.pathsep.join(sys.path)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.rpartition("made:")[2])


def test_earlier_nodes_of_the_process_do_not_change_the_bytes(tmp_path):
    keras_net(tmp_path / "net.keras")
    keras_loop(tmp_path / "loop.keras")
    torch_net(tmp_path / "net.pt2")
    first, second = (make(tmp_path, nodes) for nodes in NODES_BEFORE)
    assert first == second
    assert "/telling" in (tmp_path / "net.keras-0" / "model.xml").read_text()
