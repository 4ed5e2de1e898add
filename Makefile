# Two commands do all the set-up: `make demo` and `make test`.
PYTHON ?= $(shell command -v python3.11 || command -v python3)
BIN := .venv/bin
# Tests start the command many times: it is to be compiled once, whatever the shell says.
PYTEST := PYTHONDONTWRITEBYTECODE= OMP_NUM_THREADS=1 $(BIN)/pytest --numprocesses auto \
  --maxprocesses 4 --dist loadfile --no-loadscope-reorder
# Nothing is written outside this folder (but pip's cache).
export MPLCONFIGDIR := $(CURDIR)/.venv/cache/matplotlib

.PHONY: demo test test-all lint install clean-demo

install: .venv/.installed

.venv/.installed: pyproject.toml
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or later is needed")'
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --disable-pip-version-check --editable '.[dev]'
	touch $@

demo: install
	$(BIN)/synbrain demo

lint: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports
	$(BIN)/mypy

test: lint
	$(PYTEST)

# The same, with the demo's models trained as long as users train them: fifteen minutes more.
test-all: lint
	$(PYTEST) --full-demo

# Remove what `make demo` made, and nothing else.
clean-demo:
	rm -rf simulated prepared outputs weights/sub-*
