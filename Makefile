# Three commands need nothing but Python 3.10 to 3.13 and pip:
#
#   make demo    five stories told by running them, and a page of it all
#   make test    lint, types, tests, doctests
#   make docs    the guide as a site, in site/
#
# All make their own environment in .venv and renew it when its description changes.
# Another interpreter: make test PYTHON=python3.12

PYTHON = python3
VENV = .venv
BIN = $(VENV)/bin
PIP = $(BIN)/python -m pip --disable-pip-version-check
DESCRIPTION = pyproject.toml constraints.txt Makefile
WORKERS = 2
PYTHONS = $(PYTHON)

# The tests start hundreds of processes: each would compile the package for itself.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: demo test lint types tests format docs dist smoke clean

demo: $(VENV)/installed
	$(BIN)/lossproof demo

test: lint types tests

lint: $(VENV)/installed-dev
	$(BIN)/ruff check
	$(BIN)/ruff format --check

types: $(VENV)/installed-dev
	$(BIN)/mypy

tests: $(VENV)/installed-dev
	$(BIN)/python -m pytest -n $(WORKERS)

format: $(VENV)/installed-dev
	$(BIN)/ruff check --fix
	$(BIN)/ruff format

# The guide: open site/index.html, no server is needed. A broken link, anchor or formula is an error.
docs: $(VENV)/installed-dev
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

# The package, made from what is committed alone.
dist: $(VENV)/installed-dev
	rm -rf dist build/committed && mkdir -p build/committed
	git archive HEAD | tar -x -C build/committed
	$(BIN)/python -m build --outdir dist build/committed
	$(BIN)/twine check --strict dist/*

# make smoke PYTHONS="python3.10 python3.13": each gets an environment with nothing but the package.
smoke:
	$(PYTHON) scripts/smoke_test.py dist/*.whl $(PYTHONS:%=--python %)

clean:
	rm -rf $(VENV) dist build site lossproof-demo.html .mypy_cache .ruff_cache .pytest_cache .hypothesis

# torch goes first and alone, so that a machine which has a build of its own in mind (CPU only, a
# CUDA version) can install it there before, and so that its long download shows its progress.
$(VENV)/installed: $(DESCRIPTION)
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10) and "lossproof needs Python 3.10 or newer, this is " + sys.version.split()[0] + "; name another with PYTHON=...")'
	$(PYTHON) -m venv $(VENV)
	$(PIP) install --constraint constraints.txt torch
	$(PIP) install --constraint constraints.txt --editable '.[plots]'
	touch $@

$(VENV)/installed-dev: $(VENV)/installed
	$(PIP) install --constraint constraints.txt --editable '.[dev]'
	touch $@
