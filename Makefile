# `make` lists the targets. It needs Python 3.11 or newer and make.
# PIP_OPTIONS is passed to every pip install; see CONTRIBUTING.md.

PYTHON ?= $(shell command -v python3.11 || echo python3)
PIP_OPTIONS ?=
VENV := .venv
BASE := .venv-base
MODEL_SIGNING := .venv-model-signing
JUDGES := .venv-judges
PINS := pyproject.toml runtime/pyproject.toml constraints.txt
INSTALL = -m pip install --quiet --disable-pip-version-check $(PIP_OPTIONS) -c constraints.txt
DEMO := edgekit/demo
ARM := arm64 armhf
# Files keep their order: xdist would run files with few tests last, and these take longest, each on one core.
# No worker is restarted after a crash: xdist would then wait forever for the tests of the lost worker.
ON_ALL_CORES := --numprocesses logical --dist loadfile --no-loadscope-reorder --max-worker-restart 0

# Recipes show the commands that a user would type; the environment is first in PATH.
export PATH := $(CURDIR)/$(VENV)/bin:$(PATH)

.PHONY: help environments demo test test-arm test-signing test-packages test-base lint bench clean

help:  ## list the targets
	@awk -F ':|## ' '/^[a-z-]+:.*## / { printf "  make %-10s %s\n", $$1, $$NF }' $(MAKEFILE_LIST)

demo: $(VENV)/.has-demo  ## convert, verify and run the embedded digits model
	@mkdir -p build
	edgekit convert $(DEMO)/digits.keras -o build/digits.edgekit \
	    --device raspberry-pi-5 --device intel-cpu --quantize int8-static --scale 0.00390625 \
	    --labels $(DEMO)/labels.txt --calibrate $(DEMO)/calibration.npz --evaluate $(DEMO)/test.npz
	edgekit verify build/digits.edgekit
	edgekit run build/digits.edgekit $(DEMO)/digit-0.png
	edgekit run build/digits.edgekit $(DEMO)/digit-3.png
	edgekit run build/digits.edgekit $(DEMO)/digit-5.png

test: $(VENV)/.has-all  ## run all tests except those of the next three targets
	python -m pytest $(ON_ALL_CORES) \
	    -m "not (needs_arm or needs_model_signing or needs_updaters or needs_judges)"

test-arm: $(VENV)/.has-all $(ARM:%=build/arm/%/.whole)  ## run the Arm wheels under qemu-user-static
	python -m pytest -m needs_arm

test-signing: $(VENV)/.has-all $(MODEL_SIGNING)/.whole  ## check signatures with OpenSSF's model_signing, in both directions
	python -m pytest tests/signing

test-packages: $(VENV)/.has-all $(JUDGES)/.whole  ## check packages with rauc, swupdate, mender and others
	python -m pytest -m "needs_updaters or needs_judges"

test-base: $(BASE)/.whole  ## run the tests that need only numpy, click, msgspec and pytest
	$(BASE)/bin/python -m pytest $(ON_ALL_CORES) -m "not (needs_keras or needs_torch or needs_litert \
	    or needs_openvino or needs_onnx or needs_rich or needs_image or needs_jsonschema or needs_jinja2 or needs_ray \
	    or needs_tensorboard or needs_wandb or needs_zstandard or needs_tflite or needs_arm or needs_cryptography \
	    or needs_model_signing or needs_updaters or needs_judges)"

lint: $(VENV)/.has-dev  ## ruff, mypy and the direction of imports
	ruff check
	ruff format --check
	mypy
	lint-imports

bench: $(VENV)/.has-all  ## measure against the bare toolchains
	python benchmarks/run.py

environments: $(VENV)/.has-all $(MODEL_SIGNING)/.whole $(JUDGES)/.whole $(ARM:%=build/arm/%/.whole)

build/arm/%/.whole: tests/arm/sysroot.sh constraints.txt | $(VENV)/.has-all
	tests/arm/sysroot.sh $* $(@D)
	@touch $@

$(MODEL_SIGNING)/.whole: tests/signing/model-signing.txt | $(VENV)/bin/python
	$(PYTHON) -m venv --clear $(@D)
	$(@D)/bin/python -m pip install --quiet --disable-pip-version-check $(PIP_OPTIONS) -r $<
	@touch $@

$(JUDGES)/.whole: tests/edgekit/package/judges.txt | $(VENV)/bin/python
	$(PYTHON) -m venv --clear $(@D)
	$(@D)/bin/python -m pip install --quiet --disable-pip-version-check $(PIP_OPTIONS) -r $<
	@touch $@

clean:  ## remove the environments and everything built
	rm -rf $(VENV) $(BASE) $(MODEL_SIGNING) $(JUDGES) build dist runtime/build runtime/dist .mypy_cache .pytest_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# The environments. When a stamp is older than its sources, the environment is installed again.
$(VENV)/bin/python $(BASE)/bin/python:
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "edgekit needs Python 3.11 or newer; say which: make PYTHON=...")'
	$(PYTHON) -m venv $(@D:/bin=) || { rm -rf $(@D:/bin=); exit 1; }  # half an environment would look complete

$(VENV)/.has-demo: $(PINS) | $(VENV)/bin/python
	$(VENV)/bin/python $(INSTALL) -e runtime -e '.[keras,openvino]'
	@touch $@

$(VENV)/.has-dev: $(PINS) | $(VENV)/bin/python
	$(VENV)/bin/python $(INSTALL) -e runtime -e '.[dev]'
	@touch $@

$(VENV)/.has-all: $(PINS) | $(VENV)/bin/python
	$(VENV)/bin/python $(INSTALL) -e runtime -e '.[all,dev,ray,wandb]'
	@touch $@ $(VENV)/.has-demo $(VENV)/.has-dev

$(BASE)/.whole: $(PINS) | $(BASE)/bin/python
	$(BASE)/bin/python $(INSTALL) numpy click msgspec pytest pytest-xdist
	$(BASE)/bin/python $(INSTALL) --no-deps -e runtime -e .
	@touch $@
