# `make` alone lists the targets. demo and test need Python 3.11+ (with venv and pip), make and git: nothing else.
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
MAKEFLAGS += --no-print-directory

VENV := .venv
PY := $(VENV)/bin/python
STAMP := $(VENV)/.installed
# Which interpreter builds the environment: the first of these that is Python 3.11 or newer, or your own choice,
# `make install PYTHON=/path/to/python3.12`.
PYTHON ?=
CANDIDATES := $(if $(PYTHON),$(PYTHON),python3.11 python3 python3.12 python3.13 python)

.PHONY: help install demo demo-classify demo-pointpillars demo-lane test test-slow lint format bench docs clean

help: ## show this list
	@echo "slr-det: make detectors and classifiers small by pruning with Surrogate Lagrangian Relaxation"
	@echo
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | awk -F'\t' '{printf "  make %-18s %s\n", $$1, $$2}'
	@echo
	@echo "Start with 'make demo'. Each target creates .venv first where it is missing."

install: $(STAMP) ## create .venv and install slr-det with the yolo, classify, pointpillars, lane, export, shrink, sweep and dev extras

# The marker .incomplete stays behind when an install is interrupted, and the next one then starts from nothing.
$(STAMP): pyproject.toml constraints.txt hatch_build.py $(wildcard slr_det/runtime/csrc/*)
	@base=""; for candidate in $(CANDIDATES); do \
	  if "$$candidate" -c 'import sys; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1; then base=$$candidate; break; fi; \
	done; \
	[ -n "$$base" ] || { echo "error: no Python 3.11 or newer among: $(CANDIDATES). Install one, or name it: make install PYTHON=/path/to/python3.11" >&2; exit 1; }; \
	"$$base" -c 'import ensurepip, venv' >/dev/null 2>&1 || { echo "error: $$base has no venv module. Install it (Debian, Ubuntu: apt install python3-venv), or name another interpreter: make install PYTHON=..." >&2; exit 1; }; \
	if [ -e $(VENV)/.incomplete ] || ! $(PY) -c '' >/dev/null 2>&1; then \
	  rm -rf $(VENV); mkdir $(VENV); touch $(VENV)/.incomplete; \
	  echo "creating $(VENV) with $$base"; "$$base" -m venv $(VENV); \
	fi; \
	touch $(VENV)/.incomplete; \
	$(PY) -m pip --version >/dev/null 2>&1 || $(PY) -m ensurepip >/dev/null; \
	$(PY) -m pip install --quiet --disable-pip-version-check -c constraints.txt uv; \
	echo "installing slr-det with its yolo, classify, pointpillars, lane, export, shrink, sweep and dev extras (about 5 GB on disk)"; \
	$(PY) -m uv pip install --quiet --python $(PY) -e ".[yolo,classify,pointpillars,lane,export,shrink,sweep,dev]" -c constraints.txt; \
	rm $(VENV)/.incomplete; touch $@

demo: $(STAMP) ## train a small detector on generated images, compress it with SLR and ADMM, write the report
	$(PY) -m slr_det.yolo compress --config configs/yolo/shapes.yaml --method slr,admm

demo-classify: $(STAMP) ## the same for a classifier of handwritten digits, with four methods
	$(PY) -m slr_det.classify

demo-pointpillars: $(STAMP) ## the same for 3D detection in generated laser scans
	$(PY) -m slr_det.pointpillars

demo-lane: $(STAMP) ## the same for lanes on generated roads
	$(PY) -m slr_det.lane

test: lint ## lint, then the default test suite
	$(PY) -m pytest -q -m "not slow and not gpu"

test-slow: $(STAMP) ## the tests that take minutes (those for a GPU run where there is one)
	$(PY) -m pytest -q -m "slow or gpu"

lint: $(STAMP) ## ruff, mypy and the import rules
	$(VENV)/bin/ruff check
	$(VENV)/bin/ruff format --check
	$(VENV)/bin/mypy
	$(VENV)/bin/lint-imports --no-logo

format: $(STAMP) ## rewrite the files as ruff wants them
	$(VENV)/bin/ruff check --fix
	$(VENV)/bin/ruff format

bench: $(STAMP) ## measure the engine's speed and memory
	$(PY) -m slr_det.bench engine

docs: $(STAMP) ## build the site of the documents into site/, strictly: a broken link fails
	@$(PY) -m uv pip install --quiet --python $(PY) -e '.[docs]' -c constraints.txt
	NO_MKDOCS_2_WARNING=1 $(VENV)/bin/mkdocs build --strict # with --quiet it would overlook every warning
	@echo "site/ is built; look at it with: $(PY) -m http.server -d site"

clean: ## remove the environment and the caches; runs/ stays
	rm -rf $(VENV) build dist site .mypy_cache .pytest_cache .ruff_cache .import_linter_cache .hypothesis
	find slr_det adapters tests -name __pycache__ -type d -prune -exec rm -rf {} +
