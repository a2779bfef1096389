"""All package formats: reproducible, complete or not written, with messages about missing options."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from edgekit.bundle.encryption import encrypt
from edgekit.bundle.signing import make_key, read_private_key, sign
from edgekit.cli import cli
from edgekit.package import FORMATS, OPTIONS, package
from edgekit.package.programs import PACKAGES
from edgekit.package.request import EARLIEST_EPOCH, make_request
from edgekit_runtime import open_bundle
from edgekit_runtime.errors import BundleError, PlanError, ToolchainError
from edgekit_runtime.store.install import InstallOptions, install_from

# What each format cannot do without; signatures are left out, since those of some kinds are random.
ASKED = {"swupdate": {"compatible": ("cam:1.0",)}, "mender": {"compatible": ("cam",)}}
PLAIN = [kind for kind in FORMATS if kind not in ("rauc", "mender", "c-array")]  # need no program, and any bundle


def folder_members(path: Path) -> dict[str, bytes]:
    files = [path] if path.is_file() else sorted(each for each in path.rglob("*") if each.is_file())
    return {str(each.relative_to(path.parent)): each.read_bytes() for each in files}


@pytest.mark.parametrize("kind", [*PLAIN, pytest.param("mender", marks=pytest.mark.needs_updaters)])
def test_the_same_bundle_gives_the_same_bytes_from_a_file_and_from_a_folder(write, make_bundle, kind):
    options = ASKED.get(kind, {})
    first = folder_members(write(kind, "one", **options))
    second = folder_members(write(kind, "two", of=make_bundle(folder=True), **options))
    assert list(first.values()) == list(second.values())
    assert sum(map(len, first.values())) > 1000


def test_the_current_generation_of_a_store_can_be_packaged(write, bundle, tmp_path):
    install_from(bundle, None, str(tmp_path / "store"), InstallOptions(commit=True))
    assert write("tar", "a.tar", of=tmp_path / "store").read_bytes() == write("tar", "b.tar").read_bytes()


@pytest.mark.parametrize("kind", ["tar", "deb", "oci", "swupdate"])
def test_the_date_is_that_of_the_build(write, monkeypatch, kind):
    monkeypatch.setenv("SOURCE_DATE_EPOCH", str(EARLIEST_EPOCH + 86400))
    later = folder_members(write(kind, "later", **ASKED.get(kind, {})))
    monkeypatch.delenv("SOURCE_DATE_EPOCH")
    assert list(folder_members(write(kind, "usual", **ASKED.get(kind, {}))).values()) != list(later.values())


@pytest.mark.parametrize("date", ["yesterday", "4294967296"])
def test_an_invalid_date_is_refused(write, monkeypatch, date):
    monkeypatch.setenv("SOURCE_DATE_EPOCH", date)
    with pytest.raises(PlanError, match=f"SOURCE_DATE_EPOCH is '{date}'"):
        write("tar", "x.tar")


@pytest.mark.needs_cryptography
def test_signatures_and_encrypted_artifacts_are_packaged(write, make_bundle, call, tmp_path):
    bundle = make_bundle()
    make_key(tmp_path / "key.pem", "p256")
    encrypt(bundle, bytes(32), tmp_path / "signed.edgekit")
    sign(tmp_path / "signed.edgekit", [read_private_key(tmp_path / "key.pem")])
    packed = write("tar", "overlay.tar", of=tmp_path / "signed.edgekit")
    assert call("tar", "-xf", packed, "-C", tmp_path).returncode == 0
    with open_bundle(tmp_path / "usr/share/edgekit/quarters", trust=[tmp_path / "key.pub.pem"]) as opened:
        opened.verify_all()
        assert any(file.encryption for file in opened.manifest.files)
    (tmp_path / "other").mkdir()
    assert (
        call("dpkg-deb", "-x", write("deb", "x.deb", of=tmp_path / "signed.edgekit"), tmp_path / "other").returncode
        == 0
    )
    packed = tmp_path / "other/usr/share/edgekit/quarters.edgekit"
    assert packed.read_bytes() == (tmp_path / "signed.edgekit").read_bytes()


@pytest.mark.parametrize("kind", PLAIN)
def test_a_damaged_bundle_is_refused_by_all_formats(bundle, tmp_path, kind):
    damaged = tmp_path / "damaged.edgekit"
    content = bytearray(bundle.read_bytes())
    with open_bundle(bundle) as opened:
        name = opened.manifest.files[-1].path.encode()
    content[content.index(name) + 200] ^= 1
    damaged.write_bytes(content)
    with pytest.raises(BundleError):
        package(kind, make_request(damaged, name="quarters", **ASKED.get(kind, {})), tmp_path / "out")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["damaged.edgekit"]


@pytest.mark.parametrize("kind", [kind for kind in FORMATS if FORMATS[kind].programs])
def test_a_missing_program_is_reported_with_its_package(write, signer, monkeypatch, tmp_path, kind):
    monkeypatch.setenv("PATH", "/nowhere")
    options = {"compatible": ("cam",), "key": signer.key}
    if kind == "rauc":
        options["cert"] = signer.cert
    with pytest.raises(ToolchainError, match=f"apt-get install {PACKAGES[FORMATS[kind].programs[0]]}"):
        write(kind, "out", **options)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("kind", FORMATS)
def test_missing_and_unaccepted_options_are_reported(bundle, tmp_path, kind):
    known = FORMATS[kind]
    assert set(known.required) <= set(known.options) <= OPTIONS.keys()
    if known.required:
        with pytest.raises(PlanError, match=f"--format {kind} needs --{known.required[0]}"):
            package(kind, make_request(bundle), tmp_path / "out")
    if "store" not in known.options:
        with pytest.raises(PlanError, match=f"--format {kind} does not accept --store, only "):
            package(kind, make_request(bundle, store="/data/model"), tmp_path / "out")


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"name": "Bad Name"}, "--name, of lower-case letters"),
        ({"version": "newest"}, "give --version, a digit first"),
        ({"path": "relative/path"}, "--path relative/path: give an absolute path"),
        ({"store": "/a/../b"}, "--store /a/../b: give an absolute path"),
        ({"store": '/a";reboot;"'}, "give an absolute path on the board, of plain names"),
        *(({"compatible": (name,)}, "one line of plain text") for name in ("", " cam", "cam\n", "caméra", "cam\\n")),
        ({"key": Path("/no/key.pem")}, "--key /no/key.pem: there is no such file"),
    ],
)
def test_an_invalid_request_is_refused(bundle, options, said):
    with pytest.raises(PlanError, match=said):
        make_request(bundle, **options)


def test_the_default_name_and_version_are_those_of_the_model(bundle):
    request = make_request(bundle)
    assert (request.name, request.version) == ("quarters-of-images", "1.2")


def test_an_existing_folder_is_not_overwritten(write):
    write("oci", "layout")
    with pytest.raises(PlanError, match="exists already"):
        write("oci", "layout")


def test_an_unwritable_folder_is_reported(write):
    with pytest.raises(PlanError, match="create its folder, or choose another"):
        write("tar", "no/such/folder/x.tar")


def test_a_full_disk_leaves_no_files(bundle, tmp_path):
    script = "import resource, sys; resource.setrlimit(resource.RLIMIT_FSIZE, (2048, 2048))\nimport signal\n" + (
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\nfrom edgekit.cli import main; main(sys.argv[1:])"
    )
    command = [sys.executable, "-c", script, "package", str(bundle), "-f", "tar", "-o", str(tmp_path / "x.tar")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, list(tmp_path.iterdir())) == (4, [])
    assert "cannot be written" in done.stderr
    assert "Traceback" not in done.stderr


def test_the_command_prints_text_and_json(bundle, tmp_path):
    def edgekit(*arguments: object) -> str:
        done = CliRunner().invoke(cli, ["package", *map(str, arguments)], catch_exceptions=False)
        assert done.exit_code == 0, done.output
        return done.output

    assert all(f"\n{kind} " in f"\n{edgekit('--list')}" for kind in FORMATS)
    assert json.loads(edgekit("--list", "--json"))["rauc"]["required"] == ["compatible", "key", "cert"]
    out = tmp_path / "x.tar"
    told = json.loads(edgekit(bundle, "-f", "tar", "-o", out, "--json"))
    assert (told["path"], told["size_bytes"]) == (str(out), out.stat().st_size)
    assert "note: unpack it over the root file system" in edgekit(bundle, "-f", "tar", "-o", out)


def test_a_usage_error_names_the_list():
    done = CliRunner().invoke(cli, ["package"])
    assert (done.exit_code, "edgekit package --list" in done.output) == (2, True)


def test_board_files_do_not_overwrite_other_files(write, tmp_path):
    board = tmp_path / "overlay"
    write("swupdate", "x.swu", board=board, compatible=("cam:1.0",))
    assert (board / "etc/hwrevision").read_text() == "cam 1.0\n"
    write("swupdate", "x.swu", board=board, compatible=("cam:1.0",))
    (board / "etc/hwrevision").write_text("other 3\n")
    with pytest.raises(PlanError, match="hwrevision exists already with other content"):
        write("swupdate", "new.swu", board=board, compatible=("cam:1.0",))
    assert not (tmp_path / "new.swu").exists()


@pytest.mark.parametrize(("there", "said"), [("etc", "etc: "), ("etc/hwrevision", "exists already")])
def test_conflicting_board_files_are_reported_before_writing(write, tmp_path, there, said):
    file = tmp_path / "overlay" / there
    file.parent.mkdir(parents=True)
    file.write_bytes(b"\xa7")
    with pytest.raises(PlanError, match=said):
        write("swupdate", "x.swu", board=tmp_path / "overlay", compatible=("cam:1.0",))
    assert not (tmp_path / "x.swu").exists()


def test_a_format_without_board_files_is_reported(write, tmp_path):
    with pytest.raises(PlanError, match="--format tar needs nothing on the board"):
        write("tar", "x.tar", board=tmp_path / "overlay")


def test_every_program_has_a_debian_package():
    assert {program for each in FORMATS.values() for program in each.programs} <= PACKAGES.keys()
