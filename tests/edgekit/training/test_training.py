"""Options of training, checked before anything starts."""

import dataclasses

import numpy as np
import pytest

from edgekit.plan.option_declaration import build, declarations
from edgekit.plan.options import ConversionOptions, TrainingOptions
from edgekit.training import training
from edgekit_converters.data import DataSet
from edgekit_converters.records import Source, SourceRequest
from edgekit_converters.train import Settings, TeacherOutputs, TrainRequest, augment
from edgekit_runtime.errors import DataError, PlanError, ToolchainError
from edgekit_runtime.format.manifest import InputSpec


def training_options(**values):
    return build(ConversionOptions, values).training


@pytest.fixture
def options(tmp_path):
    """Options with data to train on."""
    np.savez(tmp_path / "train.npz", x=np.zeros((4, 2)))
    return lambda **given: training_options(train=str(tmp_path / "train.npz"), **given)


def test_options_that_are_not_given_have_the_defaults_of_settings(options):
    asked = training.plan_training(options())
    assert asked.settings == Settings()
    assert training.plan_training(training_options()) is None


def test_a_zero_is_a_given_value(options):
    given = options(epochs=3, augment=("flip",), distillation_weight=0.0, warmup_epochs=0.0, attention_transfer=True)
    asked = training.plan_training(given)
    assert asked.settings == Settings(
        epochs=3, augment=("flip",), distillation_weight=0.0, warmup_epochs=0.0, attention_transfer=True
    )


@pytest.mark.parametrize(("name", "scheme"), [("int8", "int8-static"), ("w4", "int4-weights"), ("int8-dynamic", None)])
def test_quantize_aware_accepts_aliases_of_schemes(options, name, scheme):
    asked = training.plan_training(options(quantize_aware=name))
    assert asked.settings.quantize_aware == (scheme or name)
    assert training.quantize_aware_text(asked) == f"--quantize-aware {scheme or name}"
    assert training.quantize_aware_text(training.plan_training(options())) == training.quantize_aware_text(None) == ""


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"epochs": 0}, "--epochs 0: expected a whole number of 1 or more"),
        ({"optimizer": "adagrad"}, "--optimizer adagrad: expected one of adam, rmsprop, sgd"),
        ({"schedule": "linear"}, "--schedule linear: expected one of cosine, step, constant"),
        ({"augment": ("flip", "rotate")}, "--augment flip,rotate: expected one of flip, shift"),
        ({"learning_rate": 0.0}, "--learning-rate 0.0: expected a number above 0"),
        ({"learning_rate": float("nan")}, "--learning-rate nan"),
        ({"batch_size": 1}, "--batch-size 1: expected a whole number of 2 or more"),
        ({"distillation_weight": 1.5}, "--distillation-weight 1.5: expected a number from 0"),
        ({"temperature": -1.0}, "--temperature -1.0"),
        ({"patience": -1}, "--patience -1"),
        ({"weight_decay": -0.1}, "--weight-decay -0.1"),
        ({"warmup_epochs": float("inf")}, "--warmup-epochs inf"),
        ({"seed": -1}, "--seed -1"),
        (
            {"quantize_aware": "fp16"},
            "--quantize-aware fp16: float16 rounds too little to train for; use one of",
        ),
        ({"quantize_aware": "int8", "mixed_precision": True}, "--mixed-precision already rounds to 8 bits"),
        ({"quantize_aware": "int7"}, "unknown quantization scheme 'int7'"),
    ],
)
def test_invalid_settings_are_refused(options, given, message):
    with pytest.raises(PlanError, match=message):
        training.plan_training(options(**given))


def test_every_setting_has_an_option():
    options_of_training = {one.name for one in declarations(TrainingOptions)}
    assert set(training.SETTINGS) <= options_of_training
    of_pruning = {"sparsity", "keep"}
    assert set(training.SETTINGS) == {field.name for field in dataclasses.fields(Settings)} - of_pruning


@pytest.mark.parametrize("given", [{"epochs": 3}, {"resume": True}, {"augment": ("flip",)}, {"quantize_aware": "int8"}])
def test_settings_without_data_to_train_on_are_refused(given):
    with pytest.raises(PlanError, match=f"{training.flag(next(iter(given)))} needs --train DATA"):
        training.plan_training(training_options(**given))


def test_missing_data_are_refused(options, tmp_path):
    with pytest.raises(DataError, match="--validate nowhere: no such file"):
        training.plan_training(options(validate="nowhere"))
    with pytest.raises(PlanError, match=r"--log-dir .*: is a file"):
        training.plan_training(options(log_dir=str(tmp_path / "train.npz")))


def test_impossible_augmentation_and_missing_wandb_are_refused_at_once(options, monkeypatch):
    vector = InputSpec("x", (1, 2), "float32")
    with pytest.raises(DataError, match=r"--augment flip is for images, but the inputs are x \(1, 2\)"):
        training.prepare_training_data(None, None, (vector,), training.plan_training(options(augment=("flip",))))
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ToolchainError, match="wandb is not installed"):
        training.plan_training(options(wandb="edges"))


def test_resume_without_checkpoints_is_refused_but_for_one_of_several_trainings(tmp_path):
    (tmp_path / "net.py").write_text("")
    student = Source(SourceRequest("python", tmp_path / "net.py"), "torch", (), (), ())
    data = DataSet((), None, (), 0, "digest", ())
    request = TrainRequest(student, (), (), data, Settings())
    with pytest.raises(PlanError, match="--resume: there is no checkpoint of this training"):
        training._checkpoint_folder(request, None, resume=True, begin=False)
    assert not training._checkpoint_folder(request, None, resume=True, begin=True).exists()


def test_more_epochs_are_the_same_training(tmp_path):
    (tmp_path / "net.py").write_text("")
    (tmp_path / "teacher.tflite").write_text("")
    student = Source(SourceRequest("python", tmp_path / "net.py"), "torch", (), (), ())
    teacher = training.OpenedModel(
        Source(SourceRequest("tflite", tmp_path / "teacher.tflite"), "tflite", (), (), ()), ()
    )

    def folder(*, count=0, **settings):
        lessons = TeacherOutputs((), (), augment.variants(Settings(**settings)))
        data = DataSet((), None, (), count, f"{count}", ())
        request = TrainRequest(student, (), (), data, Settings(**settings), lessons)
        return training._checkpoint_folder(request, teacher, resume=False, begin=False)

    few = folder(epochs=4, augment=("flip",))
    assert folder(epochs=20, augment=("flip",), learning_rate=0.1) == few
    assert few not in (folder(epochs=4), folder(epochs=4, augment=("flip",), seed=1), folder(count=1, epochs=4))
    (tmp_path / "teacher.tflite").write_text("another")
    assert folder(epochs=4, augment=("flip",)) != few
