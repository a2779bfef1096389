"""`edgekit distill`: across frameworks, without labels, and resumed after a kill."""

import json
import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

from edgekit.plan.option_declaration import build
from edgekit.plan.options import StudentOptions, TeacherOptions
from edgekit.training import distill as distilling
from edgekit_runtime.errors import PlanError

pytestmark = [pytest.mark.needs_torch, pytest.mark.needs_rich]

SIDE, CLASSES = 8, 3
TEACHER = """
import torch

class Brightest(torch.nn.Module):
    def forward(self, image):
        return 40 * image.mean((2, 3))

def build():
    return Brightest()
"""
TORCH = """
from torch import nn

def build():
    return nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Dropout(0.1), nn.AdaptiveAvgPool2d(1),
                         nn.Flatten(), nn.Linear(8, {classes}))
"""


def images(count, seed):
    generator = np.random.default_rng(seed)
    labels = generator.integers(0, CLASSES, count)
    pixels = generator.normal(100, 30, (count, SIDE, SIDE, 3))
    pixels[np.arange(count), :, :, labels] += 20
    return np.clip(pixels, 0, 255).astype(np.uint8), labels


def student_options(**values):
    return build(StudentOptions, values)


def teacher_options(**values):
    return build(TeacherOptions, values)


@pytest.fixture
def folder(tmp_path, monkeypatch):
    (tmp_path / "teacher.py").write_text(TEACHER)
    (tmp_path / "student.py").write_text(TORCH.format(classes=CLASSES))
    x, y = images(400, 0)
    np.savez(tmp_path / "unlabelled.npz", x=x)
    np.savez(tmp_path / "train.npz", x=x, y=y)
    x, y = images(200, 1)
    np.savez(tmp_path / "test.npz", x=x, y=y)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def distill(*arguments):
    return subprocess.run(command(*arguments), capture_output=True, text=True, check=False)


def command(*arguments):
    shape = ("--teacher-input-shape", f"1,3,{SIDE},{SIDE}")
    start = [sys.executable, "-m", "edgekit", "distill", "--teacher", "teacher.py:build", *shape]
    return [*start, "--scale", str(1 / 255), "--quiet", "--json", *arguments]


@pytest.mark.needs_keras
def test_a_keras_student_learns_from_a_pytorch_teacher_without_labels(folder):
    import keras

    keras.utils.set_random_seed(1)
    image = keras.Input((SIDE, SIDE, 3))
    x = keras.layers.GlobalAveragePooling2D()(keras.layers.Conv2D(16, 3, activation="relu")(image))
    keras.Model(image, keras.layers.Dense(CLASSES, activation="softmax")(x)).save("student.keras")
    wrong = student_options(model="student.keras", train="unlabelled.npz", output="learned.h5")
    with pytest.raises(PlanError, match=r"-o learned\.h5: the model is saved as \.keras"):
        distilling.plan_distill(wrong, teacher_options(model="teacher.py:build"))
    heard = []
    data = {"train": "unlabelled.npz", "evaluate": "test.npz", "output": "learned.keras", "log_dir": "log"}
    how = {"epochs": 6, "learning_rate": 0.02, "batch_size": 20, "augment": ("flip",)}
    teacher = teacher_options(model="teacher.py:build", input_shape=(f"1,3,{SIDE},{SIDE}",), scale=1 / 255)
    student = student_options(model="student.keras", scale=1 / 255, **data, **how)
    report = json.loads(
        distilling.distill(distilling.plan_distill(student, teacher), lambda *told: heard.append(told)).to_json()
    )
    epochs = [told[4] for told in heard if told[0] == "train" and len(told) == 5]
    assert epochs[-1].startswith("epoch 6/6, loss ")
    assert ", agreement " in epochs[-1]
    assert report["metric"] == "agreement"
    assert report["after"] > 0.85 > report["before"]
    assert [epoch["number"] for epoch in report["history"]] == [1, 2, 3, 4, 5, 6]
    assert report["evaluated"]["teacher"] > 0.9
    assert report["evaluated"]["after"] > 0.85
    assert list((folder / "log").glob("events.out.tfevents.*"))
    test = np.load("test.npz")
    found = keras.saving.load_model("learned.keras").predict(test["x"] / 255, verbose=0).argmax(1)
    assert (found == test["y"]).mean() == pytest.approx(report["evaluated"]["after"], abs=0.011)


def test_a_killed_and_resumed_training_has_the_same_history(folder):
    asked = ["--student", "student.py:build", "--train", "train.npz", "--epochs", "25", "--batch-size", "16"]
    asked += ["--augment", "shift", "--learning-rate", "0.01", "--input-shape", f"1,3,{SIDE},{SIDE}"]
    asked += ["--quantize-aware", "int8"]  # whose ranges go on, too
    whole = distill(*asked, "--no-cache", "-o", "whole.pt2")
    assert whole.returncode == 0, whole.stderr

    kept = os.path.join(os.environ["EDGEKIT_CACHE"], "training")
    process = subprocess.Popen(command(*asked, "-o", "resumed.pt2"), stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    while not any("last.npz" in names for _, _, names in os.walk(kept)):
        assert process.poll() is None, process.stderr.read()
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not (folder / "resumed.pt2").exists()

    resumed = distill(*asked, "--resume", "-o", "resumed.pt2")
    assert resumed.returncode == 0, resumed.stderr
    first, second = json.loads(whole.stdout), json.loads(resumed.stdout)
    assert any("resumed after epoch" in note for note in second["notes"])
    for report in (first, second):
        for epoch in report["history"]:
            epoch.pop("seconds")
    assert second["history"] == first["history"]
    assert (second["best"], second["after"]) == (first["best"], first["after"])
    assert not os.listdir(kept)
    assert not [name for name in os.listdir(folder) if name.startswith(".")]
