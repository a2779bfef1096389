"""Packages for build systems: overlay, recipe and Buildroot package; tested with tar, oelint-adv, kconfiglib, make."""

from __future__ import annotations

import pytest

from edgekit_runtime import load

# What stands in for the whole of Buildroot around one package: this tests the package's own lines, and no more.
AROUND = """\
include {package}.mk
TARGET_DIR = {target}
model/.stamp_target_installed: ; $(EDGEKIT_MODEL_QUARTERS_INSTALL_TARGET_CMDS)
"""


def test_the_overlay_is_the_bundle_as_a_folder(write, call, make_bundle, tmp_path):
    (tmp_path / "root").mkdir()
    assert call("tar", "-xf", write("tar", "overlay.tar"), "-C", tmp_path / "root").returncode == 0
    where = tmp_path / "root/usr/share/edgekit/quarters"
    assert call("diff", "-r", where, make_bundle(folder=True)).returncode == 0
    with load(where) as model:
        assert model.manifest.model_version == "1.2"


def test_an_overlay_is_written_to_the_given_path(write, call):
    listed = call("tar", "-tf", write("tar", "overlay.tar", path="/opt/models/quarters")).stdout.split()
    assert listed[:2] == ["opt/", "opt/models/"]
    assert "opt/models/quarters/manifest.json" in listed


@pytest.mark.needs_judges
@pytest.mark.parametrize("options", [{}, {"path": "/opt/models/quarters", "version": "2.0.1"}])
def test_oelint_accepts_the_recipe(write, call, judges, options):
    (recipe,) = write("yocto", "recipe", **options).glob("*.bb")
    done = call(judges / "oelint-adv", "--quiet", "--suppress", "oelint.vars.homepageping", "--", recipe)
    found = [line for line in done.stdout.splitlines() if ":warning:" in line or ":error:" in line]
    assert found == []
    assert call(judges / "oelint-adv", "--quiet", "--", "/nowhere.bb").returncode != 0


def test_the_recipe_is_next_to_the_bundle(write, call, make_bundle):
    folder = write("yocto", "recipe")
    assert [path.name for path in folder.glob("*.bb")] == ["edgekit-model-quarters_1.2.bb"]
    assert call("diff", "-r", folder / "files/quarters", make_bundle(folder=True)).returncode == 0


def test_special_characters_are_removed_from_names_in_recipes(write, make_bundle):
    evil = make_bundle(model_name='a"; FOO = "${@os.system(1)}`x`')
    text = next(write("yocto", "recipe", of=evil).glob("*.bb")).read_text()
    assert "${@" not in text
    assert all(line.count('"') in (0, 2) for line in text.splitlines())


@pytest.mark.needs_updaters
def test_the_package_installs_the_folder(write, call, make_bundle, tmp_path):
    package, target = write("buildroot", "package"), tmp_path / "target"
    (package / "model/.stamp_configured").touch()  # as Buildroot leaves them
    (package / "Makefile").write_text(AROUND.format(package="edgekit-model-quarters", target=target))
    done = call("make", "-C", package, "model/.stamp_target_installed")
    assert done.returncode == 0, done.stdout
    assert call("diff", "-r", target / "usr/share/edgekit/quarters", make_bundle(folder=True)).returncode == 0


@pytest.mark.needs_judges
def test_kconfig_reads_the_option_of_the_package(write, call, judges):
    package = write("buildroot", "package")
    script = (
        "import kconfiglib, sys; print(*(s.name for s in kconfiglib.Kconfig(sys.argv[1], warn=False).defined_syms))"
    )
    done = call(judges / "python", "-c", script, package / "Config.in")
    assert done.stdout.split() == ["BR2_PACKAGE_EDGEKIT_MODEL_QUARTERS"], done.stdout
