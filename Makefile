# Everything a developer types. GNU make 4.3 or newer and a POSIX shell; PYTHON may name another interpreter.
PYTHON ?= python3
VENV ?= .venv
BIN = $(VENV)/bin
PYTHON_SOURCES = streamcrypt tests bench examples docs/hooks.py

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help venv demo test test-fast deploy-check deploy-golden chaos lint format docs reference bench bench-full wheel clean

help:  ## Show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-13s %s\n", $$1, $$2 }' Makefile

# A virtual environment and what is installed in it; the stamps redo it when pyproject.toml changes.
$(VENV)/.python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || { \
	  echo "streamcrypt needs Python 3.11 or newer, but '$(PYTHON)' is $$($(PYTHON) --version 2>&1 || true)." >&2; \
	  echo "Name another one: make PYTHON=/path/to/python3.13 $(MAKECMDGOALS)" >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)
	@touch $@

$(VENV)/.run: pyproject.toml | $(VENV)/.python
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[sidecar]'
	@touch $@

$(VENV)/.dev: pyproject.toml | $(VENV)/.python
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[dev]'
	@touch $@ $(VENV)/.run

$(VENV)/.bench: pyproject.toml | $(VENV)/.dev
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[dev,bench]'
	@touch $@

venv: $(VENV)/.dev  ## Create .venv with everything for development

demo: $(VENV)/.run  ## Watch records being sealed, rotated and opened; no Java, no Docker, no account
	@$(BIN)/streamcrypt demo

# Most tests wait for a broker or a clock: three at a time keep two cores busy. Each worker has a broker of its own.
WORKERS ?= 3

test: lint  ## Lint, then every test; finds or starts an Apache Kafka
	@$(BIN)/python -m pytest -n $(WORKERS) --dist loadfile

test-fast: $(VENV)/.dev  ## Unit tests, properties and vectors only; no broker
	@$(BIN)/python -m pytest tests/unit tests/properties tests/vectors -m 'not broker'

deploy-check: $(VENV)/.dev  ## Helm chart, manifests and Prometheus files by helm, kubeconform, promtool; needs Go
	@$(BIN)/python -m tests.deploy_check

deploy-golden: $(VENV)/.dev  ## The same, and keep what the chart renders to in tests/golden/helm
	@$(BIN)/python -m tests.deploy_check --write

chaos: $(VENV)/.dev  ## Kills, outages, poison for about half an hour; CHAOS="--seed N --minutes M" repeats or shortens
	@$(BIN)/python -m tests.chaos $(CHAOS)

lint: $(VENV)/.dev  ## Ruff, mypy, import layers, docstrings
	$(BIN)/ruff check $(PYTHON_SOURCES)
	$(BIN)/ruff format --check $(PYTHON_SOURCES)
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/interrogate --quiet streamcrypt

format: $(VENV)/.dev  ## Format the sources and apply safe fixes
	$(BIN)/ruff format $(PYTHON_SOURCES)
	$(BIN)/ruff check --fix $(PYTHON_SOURCES)

docs: $(VENV)/.dev  ## Build the documentation into site/; a warning is an error
	@NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict --quiet
	@echo "open site/index.html"

reference: $(VENV)/.dev  ## Write docs/configuration.md and docs/cli.md anew from models and commands
	@$(BIN)/python -m streamcrypt.config.reference > docs/configuration.md
	@$(BIN)/python -m streamcrypt.cli.reference > docs/cli.md

bench: $(VENV)/.bench  ## Measure loops, clients, peers, latency, memory in 8 minutes; tables on screen, JSON in bench/results
	@$(BIN)/python -m bench $(BENCH)

bench-full: $(VENV)/.bench  ## Sizes, partitions, deliveries, compressions, in slices; run it again to go on where it stopped
	@$(BIN)/python -m bench.full $(BENCH)

wheel: $(VENV)/.python  ## Build dist/*.whl
	$(BIN)/python -m pip wheel --quiet --disable-pip-version-check --no-deps --wheel-dir dist .

clean:  ## Remove what was built or cached, the virtual environment and the fetched broker
	rm -rf $(VENV) .cache build dist site .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis
	find $(PYTHON_SOURCES) -name __pycache__ -type d -prune -exec rm -rf {} +
