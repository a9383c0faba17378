# make demo: the main job on a fresh machine.  make test: the suite.  make soak: the long runs.  make docs: the documentation site.
SHELL := /bin/bash
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
export PIP_DISABLE_PIP_VERSION_CHECK := 1

.PHONY: demo demo-restore demo-reconstruct demo-nuclei label test soak docs wheel-test check setup dev system clean train-all benchmark

demo: setup
	$(BIN)/medvit segment examples/headneck_ct_dicom.zip -o demo-result -ot nifti -ot dicom-seg -ot rtstruct --preview --statistics --overwrite || [ $$? = 3 ]
	@echo "Look at demo-result/preview.png; open demo-result/seg.dcm or rtstruct.dcm beside examples/headneck_ct_dicom.zip in any DICOM viewer."

demo-restore: setup
	$(BIN)/python examples/low_dose.py demo-low-dose
	$(BIN)/medvit restore demo-low-dose -o demo-restored --preview --statistics --maps --overwrite || [ $$? = 3 ]
	@echo "Look at demo-restored/preview.png; open demo-restored/derived beside demo-low-dose in any DICOM viewer."

demo-reconstruct: setup
	$(BIN)/medvit drr examples/headneck_ct_dicom.zip -o demo-xrays -ot png -ot dicom --source-to-isocenter 1800 --isocenter-to-detector 200 --overwrite
	$(BIN)/medvit reconstruct --ap demo-xrays/drr_0.dcm --lat demo-xrays/drr_90.dcm -o demo-reconstructed --preview --statistics --overwrite || [ $$? = 3 ]
	@echo "Look at demo-reconstructed/preview.png; open demo-reconstructed/meshes in any mesh viewer or 3D Slicer."

demo-nuclei: setup
	$(BIN)/medvit segment examples/nuclei.png -b nuclei_barlow_swin -o demo-nuclei-result --preview --statistics --overwrite || [ $$? = 3 ]
	@echo "Look at demo-nuclei-result/preview.png."

# The annotation server, and MONAI Label's own client for its self-test; that client needs requests alone, so none of MONAI Label's
# other needs (which do not go with pydicom 3) are installed.
label: setup
	$(BIN)/pip install -q -e ".[label]"
	$(BIN)/pip install -q --no-deps "monailabel==0.8.5"
	$(BIN)/medvit label check

test: dev system check
	$(BIN)/python tests/run.py -m "not soak" --durations=25

soak: dev system
	$(BIN)/python tests/run.py -m soak --durations=25

# The documentation site in site/: open site/index.html, or run python3 -m http.server -d site, which the search needs. No network
# is needed once its packages are installed.
docs: $(VENV)/.docs
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict

# A wheel and a checkout in other folders find their bundles, samples and data; the wheel also in an empty environment (downloads).
wheel-test: dev
	$(BIN)/python -m pytest tests/laws/test_installed.py tests/soak/test_wheel.py

check: dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/python tools/house.py

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
	$(BIN)/pip install -q --no-deps "rt-utils>=1.2.7,<2" "monailabel==0.8.5"
	@touch $@

$(VENV)/.docs: pyproject.toml $(VENV)/.setup
	$(BIN)/pip install -q -e ".[docs]"
	@touch $@

# Debian packages that tests use as outside judges; where they cannot be installed, those tests skip and say so.
system:
	@missing=$$(for p in $$(cat apt-packages.txt); do dpkg -s $$p >/dev/null 2>&1 || echo $$p; done); \
	if [ -n "$$missing" ]; then \
	  if [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; then \
	    apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq $$missing >/dev/null || echo "Could not install: $$missing; the tests that need them skip."; \
	  else echo "Missing system packages: $$missing. Install them as root to run the tests that need them."; fi; fi

# How the shipped weights are remade; resumes after a kill. See each bundle's docs for its duration.
CALIBRATED := headneck_ct_swin_unetr hippocampus_mr_swin_unetr nuclei_barlow_swin ct_denoise_restore_rwkv headneck_xray_swin_x2s
TRAINED := $(CALIBRATED) mr_superres_restore_rwkv brain_mr_swin_unetr
train-all: dev
	for name in $(TRAINED); do \
	  nice -n 10 $(BIN)/medvit train $$name --publish && $(BIN)/medvit evaluate $$name --record || exit 1; done
	for name in $(CALIBRATED); do $(BIN)/medvit evaluate $$name --calibrate --record || exit 1; done

benchmark: dev
	$(BIN)/python benchmarks/main_job.py

clean:
	rm -rf $(VENV) demo-result demo-low-dose demo-restored demo-xrays demo-reconstructed demo-nuclei-result build dist site
