# The commands for people, git hooks and CI.

PYTHON ?= python3
BIN := $(CURDIR)/.venv/bin
READY := .venv/.ready

# Stages find `python` here, and DVC keeps its site cache inside the project: with plain `dvc`, too.
export PATH := $(BIN):$(PATH)
SITE_CACHE := $(CURDIR)/.dvc/site_cache
export DVC_SITE_CACHE_DIR ?= $(SITE_CACHE)
# Prefect keeps its state inside the project, too.
export PREFECT_HOME ?= $(CURDIR)/.latentworks/prefect

# One lock for people and CI, two with the same versions for the container images, and one of
# `make peers`, whose torch is pinned in requirements/peers-torch.txt by hand.
COMPILE := uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-header
AS_PINNED := --constraint requirements/latentworks.txt

# uv does not read pip's settings: give it the mirror and the certificates that pip uses.
LIKE_PIP = index=$${UV_DEFAULT_INDEX:-$${PIP_INDEX_URL:-$$(python -m pip config get global.index-url 2>/dev/null)}}; \
	cert=$${SSL_CERT_FILE:-$${PIP_CERT:-$$(python -m pip config get global.cert 2>/dev/null)}}; \
	env $${index:+UV_DEFAULT_INDEX="$$index"} $${cert:+SSL_CERT_FILE="$$cert"}

# Tests with bounds in seconds run afterwards, alone.
IN_PARALLEL := pytest --dist loadfile --no-loadscope-reorder --ignore tests/processes/test_seconds.py

.DEFAULT_GOAL := help
.PHONY: help setup repro test test-system faults check retrain prefect schedule automations ui parity peers recipes timings docs lock clean

help:  ## list the commands
	@awk -F ':.*  ## ' '/^[a-z-]+:.*  ## / {printf "make %-13s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: $(READY)  ## install the hash-pinned packages into .venv
	@grep --quiet --fixed-strings --line-regexp "    site_cache_dir = $(SITE_CACHE)" .dvc/config.local 2>/dev/null || \
		dvc config --local core.site_cache_dir "$(SITE_CACHE)"

$(READY): requirements/uv.txt requirements/latentworks.txt pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 14))' || \
		{ echo "Cannot install: Python 3.11, 3.12 or 3.13 is needed. Received: $$($(PYTHON) --version 2>&1). Try: make $(MAKECMDGOALS) PYTHON=python3.12"; exit 1; }
	@echo "Installing the locked packages into .venv: 3 GB on disk, a minute or more"
	@$(PYTHON) -m venv --clear .venv
	@python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements/uv.txt
	@$(LIKE_PIP) uv pip install --quiet --python .venv/bin/python --require-hashes --compile-bytecode -r requirements/latentworks.txt
	@uv pip install --quiet --python .venv/bin/python --no-deps --no-build-isolation --editable .
	@touch $@

repro: setup  ## run the outdated stages; RECIPE=seed first writes a recipe into params.yaml
	@latentworks repro $(if $(RECIPE),--recipe $(RECIPE))

test: setup  ## run the tests that need only .venv
	@$(IN_PARALLEL) -m "not system" --numprocesses 3 --durations 10
	@pytest -m "not system" tests/processes/test_seconds.py

test-system: setup  ## run the tests that need Debian packages or a package index
	@$(IN_PARALLEL) -m system --numprocesses 2
	@pytest -m system tests/processes/test_seconds.py

faults: setup  ## kill or damage N=20 runs of the stages, and compare their results
	@python tests/faults.py --number $(or $(N),20) $(if $(SEED),--seed $(SEED))
	@LATENTWORKS_FULL=1 pytest tests/processes/test_races.py tests/processes/test_retraining.py -k "champion or killed"
	@LATENTWORKS_FULL=1 pytest tests/processes/test_registry_states.py

check: setup docs  ## run ruff, mypy, a spell checker, the linters of docker/ and .github/, and an audit of the packages; build the docs
	@ruff check
	@ruff format --check
	@mypy
	@codespell README.md CONTRIBUTING.md CHANGELOG.md docs src pipeline scripts benchmarks recipes *.yaml
	@hadolint docker/Dockerfile
	@check-jsonschema --quiet --builtin-schema vendor.compose-spec docker/compose.yaml
	@check-jsonschema --quiet --builtin-schema vendor.dependabot .github/dependabot.yml
	@if [ "$$GH_TOKEN" ]; then zizmor --quiet .github; else \
		echo "zizmor runs offline, without the audits that ask GitHub: GH_TOKEN is not set"; zizmor --quiet --offline .github; fi
	@python scripts/audit.py

retrain: setup  ## train the last commit in a worktree, register, promote; RECIPE=seed, SET="train.epochs=12", BRANCH=1
	@python -m pipeline retrain $(if $(RECIPE),--recipe $(RECIPE)) $(foreach set,$(SET),--set $(set)) $(if $(BRANCH),--branch)

prefect: setup  ## start Prefect's server and pages, at http://127.0.0.1:4200
	@python -m pipeline server

schedule: setup  ## serve prefect.yaml: retrain nightly, watch for new images and drift; needs `make prefect`
	@python -m pipeline schedule

automations: setup  ## retrain on new images and drift, end dead runs; TELL=slack-webhook/NAME notifies you
	@python -m pipeline automations $(if $(TELL),--tell $(TELL))

ui: setup  ## start MLflow's pages for this project's store, on the first free port from 5000 on
	@python scripts/ui.py

parity: setup  ## compare recipes seed and vae-book, three seeds each, with the book; 25 minutes on 2 cores
	@python scripts/parity.py

peers: setup  ## compare with the library pythae at equal wall-clock, three seeds each; half a day on 2 cores
	@python scripts/peers.py

recipes: setup  ## run all recipes and record their scores
	@python scripts/measure_recipes.py

docs: setup  ## build the documentation as a site, in site/, and check its links
	@NO_MKDOCS_2_WARNING=1 mkdocs build --quiet

timings: setup  ## show time and memory of the last run of each stage
	@latentworks timings

lock: setup  ## pin the newest packages that pyproject.toml allows, and the images by digest
	@$(COMPILE) --upgrade --extra dev --output-file requirements/latentworks.txt pyproject.toml
	@$(COMPILE) $(AS_PINNED) --extra services --output-file requirements/train.txt pyproject.toml
	@$(COMPILE) $(AS_PINNED) --output-file requirements/serve.txt requirements/serve.in
	@$(COMPILE) --upgrade --excludes requirements/peers-torch.txt --output-file requirements/peers.txt requirements/peers.in
	@python scripts/sbom.py
	@python scripts/pin_images.py

clean:  ## remove .venv and the tools' caches; keep data, models and runs
	rm -rf .venv .mypy_cache .pytest_cache .ruff_cache .hypothesis
	find src tests pipeline scripts -name __pycache__ -prune -exec rm -rf {} +
