# One vocabulary: people, hooks and CI call these.

PYTHON ?= python3
BIN := $(CURDIR)/.venv/bin
READY := .venv/.ready

# A stage's `python` is found here, and DVC keeps its notes inside the project.
export PATH := $(BIN):$(PATH)
export DVC_SITE_CACHE_DIR ?= $(CURDIR)/.dvc/site_cache
# So does Prefect.
export PREFECT_HOME ?= $(CURDIR)/.latentworks/prefect

# One lock for people and CI, and two for the images, with the same versions.
COMPILE := uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-header
AS_PINNED := --constraint requirements/latentworks.txt

.DEFAULT_GOAL := help
.PHONY: help setup repro test test-system faults check retrain prefect schedule automations ui parity recipes timings lock clean

help:  ## list these commands
	@awk -F ':.*  ## ' '/^[a-z-]+:.*  ## / {printf "make %-13s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: $(READY)  ## make .venv from the hash-pinned locks

$(READY): requirements/uv.txt requirements/latentworks.txt pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 14))' || \
		{ echo "Python 3.11, 3.12 or 3.13 is needed. Received: $$($(PYTHON) --version 2>&1). Try: make $(MAKECMDGOALS) PYTHON=python3.12"; exit 1; }
	@echo "making .venv from the locked packages: 3 GB on disk, a minute or more"
	@$(PYTHON) -m venv --clear .venv
	@python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements/uv.txt
	@uv pip install --quiet --python .venv/bin/python --require-hashes --compile-bytecode -r requirements/latentworks.txt
	@uv pip install --quiet --python .venv/bin/python --no-deps --no-build-isolation --editable .
	@touch $@

repro: setup  ## run the stages that are out of date; RECIPE=seed writes a recipe into params.yaml first
	@latentworks repro $(if $(RECIPE),--recipe $(RECIPE))

test: setup  ## run the tests that need nothing but this environment
	@pytest -m "not system" --numprocesses 3 --dist loadfile --no-loadscope-reorder

test-system: setup  ## run the tests that need Debian's packages or a package index
	@pytest -m system --numprocesses 2 --dist loadfile

faults: setup  ## kill and damage runs of the stages N=20 times, and compare what becomes of them
	@python tests/faults.py --number $(or $(N),20) $(if $(SEED),--seed $(SEED))

check: setup  ## ruff, mypy, and the lint of docker/
	@ruff check
	@ruff format --check
	@mypy
	@hadolint docker/Dockerfile
	@check-jsonschema --quiet --builtin-schema vendor.compose-spec docker/compose.yaml

retrain: setup  ## commit to champion, in a checkout of its own; RECIPE=seed, SET="train.epochs=12", BRANCH=1
	@python -m pipeline retrain $(if $(RECIPE),--recipe $(RECIPE)) $(foreach set,$(SET),--set $(set)) $(if $(BRANCH),--branch)

prefect: setup  ## Prefect's server and pages, at http://127.0.0.1:4200
	@python -m pipeline server

schedule: setup  ## run prefect.yaml: retrain every night, watch the images, look for drift; needs `make prefect`
	@python -m pipeline schedule

automations: setup  ## what follows new images, drift, failures; TELL=slack-webhook/NAME tells you, too
	@python -m pipeline automations $(if $(TELL),--tell $(TELL))

ui: setup  ## open MLflow's pages on the store of this project, at http://127.0.0.1:5000
	@case "$$MLFLOW_TRACKING_URI" in http*) echo "your runs are at $$MLFLOW_TRACKING_URI"; exit;; esac; \
	MLFLOW_DISABLE_TELEMETRY=true MLFLOW_SERVER_ENABLE_JOB_EXECUTION=false mlflow server --host 127.0.0.1 --port 5000 --workers 1 \
		--backend-store-uri "$${MLFLOW_TRACKING_URI:-sqlite:///$(CURDIR)/mlflow.db}"

parity: setup  ## recipes seed and vae-book with three seeds against the book's; 25 minutes on 2 cores
	@python scripts/parity.py

recipes: setup  ## run all recipes and write down what they are worth
	@python scripts/measure_recipes.py

timings: setup  ## time and memory of each stage when it last ran
	@latentworks timings

lock: setup  ## pin the dependencies of pyproject.toml anew
	@$(COMPILE) --upgrade --extra dev --output-file requirements/latentworks.txt pyproject.toml
	@$(COMPILE) $(AS_PINNED) --extra services --output-file requirements/train.txt pyproject.toml
	@$(COMPILE) $(AS_PINNED) --output-file requirements/serve.txt requirements/serve.in

clean:  ## remove the environment and the tools' caches; data, models and runs stay
	rm -rf .venv .mypy_cache .pytest_cache .ruff_cache .hypothesis
	find src tests pipeline scripts -name __pycache__ -prune -exec rm -rf {} +
