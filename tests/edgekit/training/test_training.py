"""What may be asked of a training, checked before anything starts."""

import dataclasses

import numpy as np
import pytest

from edgekit.plan.options import Options
from edgekit.training import training
from edgekit_converters.data import DataSet
from edgekit_converters.records import Source, SourceRequest
from edgekit_converters.train import Settings, TeacherOutputs, TrainRequest, augment
from edgekit_runtime.errors import DataError, PlanError, ToolchainError
from edgekit_runtime.format.manifest import InputSpec


@pytest.fixture
def options(tmp_path):
    """Options with data to train on."""
    np.savez(tmp_path / "train.npz", x=np.zeros((4, 2)))
    return lambda **given: Options(model="m.keras", train=str(tmp_path / "train.npz"), **given)


def test_what_is_not_said_is_as_settings_have_it(options):
    asked = training.asked(options())
    assert asked.settings == Settings()
    assert training.asked(Options(model="m.keras")) is None


def test_what_is_said_is_taken_and_a_zero_is_said(options):
    asked = training.asked(options(epochs=3, augment=("flip",), teacher_share=0.0, warm_up=0.0, hints=True, seed=7))
    assert asked.settings == Settings(epochs=3, augment=("flip",), teacher_share=0.0, warm_up=0.0, hints=True, seed=7)


@pytest.mark.parametrize(("name", "scheme"), [("int8", "int8-static"), ("w4", "int4-weights"), ("int8-dynamic", None)])
def test_integers_are_imitated_by_any_name_of_their_scheme(options, name, scheme):
    asked = training.asked(options(quantize_aware=name))
    assert asked.settings.quantize_aware == (scheme or name)
    assert training.aware(asked) == f"--quantize-aware {scheme or name}"
    assert training.aware(training.asked(options())) == training.aware(None) == ""


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"epochs": 0}, "--epochs 0: wanted a whole number of 1 or more"),
        ({"optimizer": "adagrad"}, "--optimizer adagrad: adam, rmsprop, sgd"),
        ({"schedule": "linear"}, "--schedule linear: cosine, step, constant"),
        ({"augment": ("flip", "rotate")}, "--augment rotate: flip, shift"),
        ({"learning_rate": 0.0}, "--learning-rate 0.0: wanted a number above 0"),
        ({"learning_rate": float("nan")}, "--learning-rate nan"),
        ({"batch_size": 1}, "--batch-size 1: wanted a whole number of 2 or more"),
        ({"teacher_share": 1.5}, "--teacher-share 1.5: wanted a number from 0"),
        ({"temperature": -1.0}, "--temperature -1.0"),
        ({"patience": -1}, "--patience -1"),
        ({"weight_decay": -0.1}, "--weight-decay -0.1"),
        ({"warm_up": float("inf")}, "--warm-up inf"),
        ({"seed": -1}, "--seed -1"),
        ({"quantize_aware": "fp16"}, "--quantize-aware fp16: float16 rounds next to nothing; one of int8-static"),
        ({"quantize_aware": "int8", "mixed_precision": True}, "--mixed-precision rounds to 8 bits itself"),
        ({"quantize_aware": "int7"}, "unknown quantization scheme 'int7'"),
    ],
)
def test_what_no_training_can_be_is_refused(options, given, said):
    with pytest.raises(PlanError, match=said):
        training.asked(options(**given))


def test_every_setting_of_numbers_has_limits():
    numbers = {field.name for field in dataclasses.fields(Settings) if str(field.type) in ("int", "float")}
    assert numbers == set(training.LIMITS)


@pytest.mark.parametrize("given", [{"epochs": 0}, {"resume": True}, {"augment": ("flip",)}, {"quantize_aware": "int8"}])
def test_settings_without_data_to_train_on_are_refused(given):
    with pytest.raises(PlanError, match=f"{training.option(next(iter(given)))} needs --train DATA"):
        training.asked(Options(model="m.keras", **given))


def test_data_that_are_not_there_are_refused(options, tmp_path):
    with pytest.raises(DataError, match="--validate nowhere: no such file"):
        training.asked(options(validate="nowhere"))
    with pytest.raises(PlanError, match=r"--log-dir .*: is a file"):
        training.asked(options(log_dir=str(tmp_path / "train.npz")))


def test_what_cannot_be_told_or_varied_is_refused_before_anything_is_made(options, monkeypatch):
    vector = InputSpec("x", (1, 2), "float32")
    with pytest.raises(DataError, match=r"--augment flip is for images, but the inputs are x \(1, 2\)"):
        training.material(None, None, (vector,), training.asked(options(augment=("flip",))))
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ToolchainError, match="wandb is not installed"):
        training.asked(options(wandb="edges"))


def test_nothing_to_go_on_with_is_said_and_several_trainings_begin(tmp_path):
    (tmp_path / "net.py").write_text("")
    student = Source(SourceRequest("python", tmp_path / "net.py"), "torch", (), (), ())
    data = DataSet((), None, (), 0, "digest", ())
    request = TrainRequest(student, (), (), data, Settings())
    with pytest.raises(PlanError, match="--resume: nothing of this training is there to go on with"):
        training._checkpoints(request, None, resume=True, begin=False)
    assert not training._checkpoints(request, None, resume=True, begin=True).exists()


def test_more_epochs_for_which_a_teacher_says_more_are_the_same_training(tmp_path):
    (tmp_path / "net.py").write_text("")
    (tmp_path / "teacher.tflite").write_text("")
    student = Source(SourceRequest("python", tmp_path / "net.py"), "torch", (), (), ())
    teacher = training.Teacher(Source(SourceRequest("tflite", tmp_path / "teacher.tflite"), "tflite", (), (), ()), ())

    def folder(*, count=0, **settings):
        lessons = TeacherOutputs((), (), augment.variants(Settings(**settings)))
        data = DataSet((), None, (), count, f"{count}", ())
        request = TrainRequest(student, (), (), data, Settings(**settings), lessons)
        return training._checkpoints(request, teacher, resume=False, begin=False)

    few = folder(epochs=4, augment=("flip",))
    assert folder(epochs=20, augment=("flip",), learning_rate=0.1) == few
    assert few not in (folder(epochs=4), folder(epochs=4, augment=("flip",), seed=1), folder(count=1, epochs=4))
    (tmp_path / "teacher.tflite").write_text("another")
    assert folder(epochs=4, augment=("flip",)) != few
