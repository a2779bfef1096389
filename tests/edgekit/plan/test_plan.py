"""The plan of a conversion, and the options that are refused before a toolchain starts."""

import json

import pytest

from edgekit.cli.dry_run import describe
from edgekit.plan.execution import MAX_DEFAULT_JOBS, default_jobs
from edgekit.plan.input_shape import parse_input_shape
from edgekit.plan.option_declaration import build
from edgekit.plan.options import ConversionOptions
from edgekit.plan.plan import plan_conversion
from edgekit.plan.plan_file import read_plan
from edgekit.plan.targets import keep_scheme
from edgekit_converters.recipe.recipe import Recipe
from edgekit_converters.records import InputShape
from edgekit_runtime.errors import DataError, PlanError, ProfileError, SourceError


@pytest.fixture(autouse=True)
def _here(tmp_path, monkeypatch):
    """Data that are there, by a relative path."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "d.npz").write_bytes(b"not opened here")
    (tmp_path / "latin1.txt").write_bytes(b"caf\xe9")


@pytest.fixture
def model(tmp_path):
    path = tmp_path / "net.keras"
    path.write_bytes(b"not opened here")
    return str(path)


def planned(options, **change):
    """Return the plan of options by name, some of them changed."""
    return plan_conversion(build(ConversionOptions, options | change))


@pytest.fixture
def options(model, tmp_path):
    return {"model": model, "output": str(tmp_path / "net.edgekit")}


def test_the_simplest_request_makes_float32_for_both_engines(options):
    plan = planned(options)
    assert [variant.name for variant in plan.targets.variants] == ["litert-float32", "openvino-float32"]
    assert plan.model.name == "net"


def test_with_calibration_data_int8_is_the_default(options):
    plan = planned(options, calibrate="d.npz")
    assert plan.targets.schemes == ("int8-static",)


def test_devices_decide_formats_and_order(options):
    plan = planned(options, device=("intel-cpu", "raspberry-pi-5"), quantize=("float32", "int8"), calibrate="d.npz")
    assert plan.targets.preferred["raspberry-pi-5"] == ("litert-int8-static", "litert-float32")
    assert plan.targets.preferred["intel-cpu"] == ("openvino-int8-static", "openvino-float32")
    assert [variant.name for variant in plan.targets.variants] == [
        *plan.targets.preferred["intel-cpu"],
        *plan.targets.preferred["raspberry-pi-5"],
    ]


def test_an_accelerator_and_its_fallback_share_one_artifact(options):
    plan = planned(options, device=("intel-igpu",), quantize=("float16",))
    gpu, cpu = plan.targets.variants
    assert (gpu.name, cpu.name) == ("openvino-gpu-float16", "openvino-float16")
    assert gpu.artifact == cpu.artifact
    assert (gpu.precision, cpu.precision) == ("f16", "f32")


@pytest.mark.parametrize(
    ("alias", "name"),
    [("int8", "int8-static"), ("W8A8", "int8-static"), ("fp16", "float16"), ("w8a16", "int16x8-static")],
)
def test_aliases_of_schemes_are_accepted(options, alias, name):
    device = ("raspberry-pi-5",)
    assert planned(options, device=device, quantize=(alias,), calibrate="d.npz").targets.schemes == (name,)


def test_an_unsupported_scheme_is_skipped_with_a_note(options):
    plan = planned(options, device=("x86-64", "intel-cpu"), quantize=("int8-dynamic", "float32"))
    assert "openvino-int8-dynamic" not in [variant.name for variant in plan.targets.variants]
    assert any("intel-cpu: no int8-dynamic" in note for note in plan.targets.notes)


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"model": ""}, PlanError, "no model"),
        ({"model": "missing.keras"}, SourceError, "no such file"),
        ({"quantize": ("int3",)}, PlanError, "known: float32"),
        ({"quantize": ("int8-static",)}, PlanError, "--calibrate"),
        ({"quantize": ("int8-dynamic",), "device": ("intel-cpu",)}, PlanError, "it supports"),
        ({"device": ("raspberry-pi-6",)}, ProfileError, "raspberry-pi-5"),
        ({"max_drop": 0.01}, PlanError, "--evaluate"),
        ({"metric": "m.py:score"}, PlanError, "--metric needs --evaluate"),
        ({"metric": "m.py:score", "evaluate": "d.npz"}, DataError, "m.py: no such file"),
        ({"max_drop": -1.0, "evaluate": "d.npz"}, PlanError, "0 or more"),
        ({"samples": 0}, PlanError, "1 or more"),
        ({"samples": "many"}, PlanError, "--samples many: expected auto, or a whole number of 1 or more"),
        ({"samples": True}, PlanError, "1 or more"),
        ({"samples": "auto"}, PlanError, "--samples auto needs --calibrate"),
        ({"jobs": 2}, PlanError, "--jobs goes with --evaluate or --quantize auto"),
        ({"ray": "auto"}, PlanError, "--ray goes with --evaluate or --quantize auto"),
        ({"jobs": 0, "quantize": ("auto",)}, PlanError, "--jobs 0: expected a whole number of 1 or more"),
        ({"jobs": 2, "ray": "auto", "quantize": ("auto",), "calibrate": "d.npz"}, PlanError, "leave out --jobs"),
        (
            {"ray": "auto", "cache": False, "quantize": ("auto",), "calibrate": "d.npz"},
            PlanError,
            "leave out --no-cache",
        ),
        ({"weights": "w.pth"}, PlanError, "FILE.py:function"),
        ({"custom_objects": "missing.py"}, SourceError, "missing.py"),
        ({"max_drop": float("nan"), "evaluate": "d.npz"}, PlanError, "0 or more"),
        ({"std": (1.0, 0.0, 1.0)}, PlanError, "--std 1.0,0.0,1.0"),
        ({"std": (float("nan"),)}, PlanError, "--std"),
        ({"mean": (float("inf"),)}, PlanError, "--mean"),
        ({"scale": 0.0}, PlanError, "--scale"),
        ({"scale": float("inf")}, PlanError, "--scale"),
        ({"resize": (8, 8, 8)}, PlanError, "--resize"),
        ({"resize": (8.0, 8.0)}, PlanError, "--resize"),
        ({"layout": "HWC"}, PlanError, "expected one of NHWC, NCHW"),
        ({"calibrate": "missing.npz"}, DataError, "--calibrate missing.npz"),
        ({"evaluate": "missing.py:samples"}, DataError, "--evaluate missing.py:samples"),
        ({"boxes": "output0"}, PlanError, "--boxes needs --box-format"),
        ({"labels": "missing.txt"}, DataError, "missing.txt"),
        ({"labels": "latin1.txt"}, DataError, "latin1.txt"),
        ({"output": "net.keras"}, PlanError, "-o net.keras"),
        ({"output": "d.npz", "calibrate": "d.npz"}, PlanError, "-o d.npz"),
        ({"report": "net.edgekit"}, PlanError, "--report net.edgekit"),
        ({"output": "no/such/folder/out.edgekit"}, PlanError, "no folder"),
        ({"report": "no/such/folder/r.json"}, PlanError, "--report"),
        ({"input_shape": ("3,32,32",)}, PlanError, "batch"),
    ],
)
def test_options_that_cannot_be_met_are_refused(options, change, error, message):
    with pytest.raises(error, match=message):
        planned(options, **change)


def test_a_folder_as_output_is_refused(options, tmp_path):
    with pytest.raises(PlanError, match="folder"):
        planned(options, output=str(tmp_path))


def test_onnx_cannot_go_to_a_board_that_runs_tflite(options, tmp_path):
    (tmp_path / "net.onnx").write_bytes(b"")
    with pytest.raises(PlanError, match="raspberry-pi-5 runs litert"):
        planned(options, model=str(tmp_path / "net.onnx"), device=("raspberry-pi-5",))


def test_a_python_file_needs_a_function(options, tmp_path):
    (tmp_path / "net.py").write_text("")
    with pytest.raises(SourceError, match=r"net\.py:build"):
        planned(options, model=str(tmp_path / "net.py"))
    assert planned(options, model=str(tmp_path / "net.py:make")).model.source.function == "make"


@pytest.mark.parametrize("text", ["", "a", "1,x,3", "1,0", "1,-3", "1.5", "x=", "1,3:int7"])
def test_a_malformed_input_shape_is_refused(text):
    with pytest.raises(PlanError, match="--input-shape"):
        parse_input_shape(text)


def test_input_shapes_may_carry_a_name_and_a_dtype():
    assert parse_input_shape("1,3,32,32") == InputShape((1, 3, 32, 32))
    assert parse_input_shape("ids=1,128:int64") == InputShape((1, 128), "ids", "int64")


def test_a_plan_file_accepts_the_options(tmp_path, model):
    (tmp_path / "plan.toml").write_text(
        f"""
        model = "{model}"
        device = ["raspberry-pi-5"]
        quantize = "int8"
        calibrate = "d.npz"
        samples = 64
        [preprocessing]
        resize = [224, 224]
        scale = 0.00392156862745098
        mean = [0.485, 0.456, 0.406]
        std = [0.229, 0.224, 0.225]
        [postprocessing]
        activation = "softmax"
        top = 3
        """
    )
    plan = planned(read_plan(tmp_path / "plan.toml"), output=str(tmp_path / "o.edgekit"))
    assert plan.data.calibrate == str(tmp_path / "d.npz")  # relative to the file
    assert plan.data.preprocessing.resize == (224, 224)
    assert plan.data.preprocessing.mean == (0.485, 0.456, 0.406)
    assert (plan.postprocessing.activation, plan.postprocessing.top, plan.postprocessing.boxes) == ("softmax", 3, None)
    assert plan.data.samples == 64
    json.dumps(describe(plan))


def test_a_plan_file_accepts_automatic_samples(tmp_path):
    (tmp_path / "plan.toml").write_text('samples = "auto"')
    assert read_plan(tmp_path / "plan.toml") == {"samples": "auto"}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("modell = 'x'", "unknown key 'modell'"),
        ("samples = '12'", "samples"),
        ("name = 1", "name"),
        ("top = 'auto'", "top"),
        ("samples = true", "samples"),
        ("allow_pickle = 1", "allow_pickle"),
        ("device = [1]", "device"),
        ("[preprocessing]\nmeans = [1]", r"\[preprocessing\]: unknown key 'means'"),
        ("[postprocessing]\nmean = [1]", r"\[postprocessing\]: unknown key 'mean'"),
        ("postprocessing = 3", r"is not the table \[postprocessing\]"),
        ("top = 1\n[postprocessing]\ntop = 2", "'top' is given twice"),
        ("[postprocessing]\ntop = 1.5", "top"),
        ("mean = [1]\n[preprocessing]\nmean = [2]", "'mean' is given twice"),
        ("model = ", "not TOML"),
    ],
)
def test_a_plan_file_with_a_mistake_is_refused(tmp_path, text, message):
    (tmp_path / "plan.toml").write_text(text)
    with pytest.raises(PlanError, match=message):
        read_plan(tmp_path / "plan.toml")


def test_a_missing_plan_file_is_refused(tmp_path):
    with pytest.raises(PlanError, match="cannot be read"):
        read_plan(tmp_path / "plan.toml")


def test_a_device_profile_is_relative_to_the_plan_file(tmp_path):
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "plan.toml").write_text('device = ["intel-cpu", "my-board.toml"]')
    assert read_plan(tmp_path / "sub" / "plan.toml")["device"] == ("intel-cpu", str(tmp_path / "sub" / "my-board.toml"))


@pytest.fixture
def with_recipe(options, tmp_path):
    """Options with a recipe of this text, calibration data, and other options."""

    def write(text, **more):
        (tmp_path / "r.toml").write_text(text)
        return options | {"recipe": "r.toml", "calibrate": "d.npz"} | more

    return write


FLOAT_HEAD = 'scheme = "int8"\n[[rule]]\nscheme = "float32"\ndepth = "last"'


def test_a_recipe_sets_the_scheme_and_the_rules(with_recipe):
    plan = planned(with_recipe(FLOAT_HEAD))
    assert plan.targets.schemes == ("int8-static",)
    assert plan.targets.recipe_of("int8-static") == plan.targets.recipe
    assert plan.targets.recipe.rules[0].scheme == "float32"
    assert 'depth = ["last"]' in describe(plan)["recipe"]


def test_other_schemes_beside_a_recipe_use_no_rules(with_recipe):
    plan = planned(with_recipe(FLOAT_HEAD, quantize=("float16",)))
    assert set(plan.targets.schemes) == {"float16", "int8-static"}
    assert plan.targets.recipe_of("float16") == Recipe("float16")


def test_a_recipe_is_relative_to_the_plan_file(with_recipe, tmp_path):
    with_recipe(FLOAT_HEAD)
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "plan.toml").write_text('recipe = "../r.toml"')
    assert planned(with_recipe(FLOAT_HEAD, **read_plan(tmp_path / "sub" / "plan.toml"))).targets.recipe is not None


@pytest.mark.parametrize(
    ("text", "more", "message"),
    [
        ("scheme = ", {}, "r.toml: not TOML"),
        (FLOAT_HEAD, {"recipe": "missing.toml"}, "missing.toml: cannot be read"),
        (FLOAT_HEAD, {"calibrate": None}, "int8-static needs calibration data"),
        (FLOAT_HEAD, {"output": "r.toml"}, "-o r.toml"),
        (FLOAT_HEAD.replace("float32", "int16x8"), {}, "openvino cannot do int16x8-static; it can do float32"),
        (FLOAT_HEAD.replace("float32", "int8-weights"), {"device": ("coral-usb",)}, "coral-usb does not support the"),
        (FLOAT_HEAD.replace('"int8"', '"float32"').replace('"float32"\nd', '"int8"\nd'), {}, "its coarsest"),
        ('scheme = "int4-weights"\nblock_size = 32', {}, "litert cannot do block_size 32"),
        ('scheme = "int8-static"\ncorrections = ["smooth"]', {}, "litert: corrections: 'smooth' is not supported"),
        ('scheme = "float16"\ncorrections = ["bias"]', {}, "'bias' needs a calibrated scheme"),
    ],
)
def test_a_recipe_that_cannot_be_met_is_refused(with_recipe, text, more, message):
    with pytest.raises(PlanError, match=message):
        planned(with_recipe(text, **more))


def test_a_recipe_for_a_quantized_model_is_refused(with_recipe):
    with pytest.raises(PlanError, match="nothing left for --recipe"):
        keep_scheme(planned(with_recipe(FLOAT_HEAD)).targets, "net.keras", "int8-static")


def test_cores_are_shared_among_engines(monkeypatch):
    for cores, engines, jobs in ((2, 2, 1), (1, 2, 1), (8, 2, 4), (64, 2, MAX_DEFAULT_JOBS), (3, 1, 3)):
        monkeypatch.setattr("os.sched_getaffinity", lambda _, cores=cores: set(range(cores)))
        assert default_jobs(engines) == jobs
