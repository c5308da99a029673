# One vocabulary: people, hooks and CI call these.

PYTHON ?= python3
BIN := $(CURDIR)/.venv/bin
READY := .venv/.ready

# A stage's `python` is found here, and DVC keeps its notes inside the project.
export PATH := $(BIN):$(PATH)
export DVC_SITE_CACHE_DIR ?= $(CURDIR)/.dvc/site_cache

.DEFAULT_GOAL := help
.PHONY: help setup repro test test-system check flow ui parity timings lock clean

help:  ## list these commands
	@awk -F ':.*  ## ' '/^[a-z-]+:.*  ## / {printf "make %-13s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: $(READY)  ## make .venv from the hash-pinned locks

$(READY): requirements/uv.txt requirements/latentworks.txt pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 14))' || \
		{ echo "Python 3.11, 3.12 or 3.13 is needed. Received: $$($(PYTHON) --version 2>&1). Try: make $(MAKECMDGOALS) PYTHON=python3.12"; exit 1; }
	@echo "making .venv from the locked packages: 2.7 GB on disk, a minute or more"
	@$(PYTHON) -m venv --clear .venv
	@python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements/uv.txt
	@uv pip install --quiet --python .venv/bin/python --require-hashes --compile-bytecode -r requirements/latentworks.txt
	@uv pip install --quiet --python .venv/bin/python --no-deps --no-build-isolation --editable .
	@touch $@

repro: setup  ## run the stages that are out of date; RECIPE=seed writes a recipe into params.yaml first
ifdef RECIPE
	@latentworks recipe $(RECIPE)
endif
	@latentworks validate
	@dvc repro
	@latentworks sync || true # a warning was given; the files are whole

test: setup  ## run the tests that need nothing but this environment
	@pytest -m "not system"

test-system: setup  ## run the tests that need Debian's packages or a package index
	@pytest -m system

check: setup  ## ruff and mypy
	@ruff check
	@ruff format --check
	@mypy

flow: setup  ## the same stages as a Prefect flow, a task for each
	@python -m pipeline.reproduce

ui: setup  ## open MLflow's pages on the store of this project, at http://127.0.0.1:5000
	@case "$$MLFLOW_TRACKING_URI" in http*) echo "your runs are at $$MLFLOW_TRACKING_URI"; exit;; esac; \
	MLFLOW_SERVER_ENABLE_JOB_EXECUTION=false mlflow server --host 127.0.0.1 --port 5000 --workers 1 \
		--backend-store-uri "$${MLFLOW_TRACKING_URI:-sqlite:///$(CURDIR)/mlflow.db}"

parity: setup  ## recipe seed with three seeds against the book's score; 10 minutes on 2 cores
	@python scripts/seed_parity.py

timings: setup  ## time and memory of each stage when it last ran
	@latentworks timings

lock: setup  ## pin the dependencies of pyproject.toml anew
	uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-emit-index-url \
		--no-header --upgrade --extra dev --output-file requirements/latentworks.txt pyproject.toml

clean:  ## remove the environment and the tools' caches; data, models and runs stay
	rm -rf .venv .mypy_cache .pytest_cache .ruff_cache .hypothesis
	find src tests pipeline scripts -name __pycache__ -prune -exec rm -rf {} +
