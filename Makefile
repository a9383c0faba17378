# make demo: the main job on a fresh machine.  make test: the suite.  make soak: the long runs.
SHELL := /bin/bash
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
export PIP_DISABLE_PIP_VERSION_CHECK := 1

.PHONY: demo test soak check setup dev system clean train-all benchmark

demo: setup
	$(BIN)/medvit segment examples/headneck_ct_dicom.zip -o demo-result -ot nifti -ot dicom-seg -ot rtstruct --preview --statistics --overwrite || [ $$? = 3 ]
	@echo "Look at demo-result/preview.png; open demo-result/seg.dcm or rtstruct.dcm beside examples/headneck_ct_dicom.zip in any DICOM viewer."

test: dev system check
	$(BIN)/python -m pytest -m "not soak"

soak: dev system
	$(BIN)/python -m pytest -m soak

check: dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

setup: $(VENV)/.setup
dev: $(VENV)/.dev

$(VENV)/.venv:
	$(PYTHON) -m venv $(VENV)
	@touch $@

$(VENV)/.setup: pyproject.toml $(VENV)/.venv
	$(BIN)/pip install -q -e .
	@touch $@

$(VENV)/.dev: pyproject.toml $(VENV)/.setup
	$(BIN)/pip install -q -e ".[dev]"
	$(BIN)/pip install -q --no-deps "rt-utils>=1.2.7,<2"
	@touch $@

# Debian packages that tests use as outside judges; where they cannot be installed, those tests skip and say so.
system:
	@missing=$$(for p in $$(cat apt-packages.txt); do dpkg -s $$p >/dev/null 2>&1 || echo $$p; done); \
	if [ -n "$$missing" ]; then \
	  if [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; then \
	    apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq $$missing >/dev/null || echo "Could not install: $$missing; the tests that need them skip."; \
	  else echo "Missing system packages: $$missing. Install them as root to run the tests that need them."; fi; fi

# How the shipped weights are remade; resumes after a kill. See each bundle's docs for its duration.
train-all: dev
	nice -n 10 $(BIN)/medvit train headneck_ct_swin_unetr --publish
	$(BIN)/medvit evaluate headneck_ct_swin_unetr --record

benchmark: dev
	$(BIN)/python benchmarks/main_job.py

clean:
	rm -rf $(VENV) demo-result build dist
