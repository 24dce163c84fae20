# Two commands do everything: `make demo` and `make test`. Both make their own environment.
.DEFAULT_GOAL := help
.PHONY: help env demo test parity check lint types doctest results lock clean
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed

help:  ## this list
	@grep -hE '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 12

env: $(STAMP)  ## make .venv from requirements.lock (versions and hashes)
$(STAMP): requirements.lock pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo 'error: $(PYTHON) is older than 3.11; run make with PYTHON=/path/to/python3.12' >&2; exit 2; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements.lock
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation --editable .
	@touch $@

demo: env  ## train a small cascade on this machine and write its report (minutes)
	$(BIN)/cascade run demo

test: env  ## the whole test suite, on all cores
	$(BIN)/python -m pytest -n auto --maxprocesses 8 --dist loadfile

PARITY := .venv-parity
parity: $(PARITY)/.installed  ## checkpoints against transformers and torch, in an environment of their own
	$(PARITY)/bin/python -m pytest tests/parity
$(PARITY)/.installed: requirements.lock pyproject.toml
	$(PYTHON) -m venv $(PARITY)
	$(PARITY)/bin/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements.lock
	$(PARITY)/bin/python -m pip install --quiet --disable-pip-version-check --no-build-isolation --editable '.[parity]'
	@touch $@

check: env lint types doctest  ## lint, types and doctests

lint: env
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: env
	$(BIN)/pyright --pythonpath $(BIN)/python

doctest: env
	$(BIN)/python -m pytest --doctest-modules --doctest-glob='*.md' cat routers experiments docs README.md

results: env  ## regenerate docs/results.md (hours; resumes where it stopped)
	$(BIN)/cascade study

lock:  ## rewrite requirements.lock from pyproject.toml (needs uv)
	uv pip compile --universal --python-version 3.11 --generate-hashes --no-header --no-annotate --quiet \
	  --no-emit-index-url --group dev pyproject.toml -o requirements.lock

clean:
	rm -rf $(VENV) $(PARITY) .pytest_cache .ruff_cache
