# make serve   the service on 127.0.0.1:8000 with the bundle in models/default
# make test    everything the tests need, and the tests
# make check   style, types and layers
# make docs    the pages of docs/ as a site in build/site, strictly
# make faults  three quarters of an hour of load while processes are killed, frozen and starved
PYTHON ?= python3
VENV ?= .venv
HOST ?= 127.0.0.1
PORT ?= 8000
BUNDLE ?= models/default
PYTEST_ARGS ?=

BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check --quiet install --constraint constraints.txt

.PHONY: serve test check docs faults format clean

serve: $(VENV)/.base
	$(BIN)/python -m service --bundle $(BUNDLE) --host $(HOST) --port $(PORT)

test: $(VENV)/.dev
	$(BIN)/python -m pytest $(PYTEST_ARGS)

check: $(VENV)/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

docs: $(VENV)/.docs
	$(BIN)/python -m sphinx -c docs -d build/doctrees -W --keep-going -q . build/site
	@echo "the site is in build/site: open build/site/index.html, or python3 -m http.server -d build/site"

faults: $(VENV)/.dev
	FAULT_SECONDS=200 $(BIN)/python -m pytest tests/faults $(PYTEST_ARGS)

format: $(VENV)/.dev
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean:
	rm -rf $(VENV) *.egg-info build dist .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "Maeve needs Python 3.11 or newer; name one with PYTHON=..." >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)

$(VENV)/.base: pyproject.toml constraints.txt | $(BIN)/python
	@echo "installing the service into $(VENV) ..."
	$(PIP) --editable .
	@touch $@

$(VENV)/.docs: pyproject.toml constraints.txt | $(BIN)/python
	@echo "installing what the site needs into $(VENV) ..."
	$(PIP) --editable .[docs]
	@touch $@ $(VENV)/.base

# torch has a call of its own, so that a CPU build that is there already is kept.
$(VENV)/.dev: pyproject.toml constraints.txt | $(BIN)/python
	@echo "installing what the tests need into $(VENV) ..."
	$(PIP) torch
	$(PIP) --editable .[dev]
	@touch $@ $(VENV)/.base $(VENV)/.docs
