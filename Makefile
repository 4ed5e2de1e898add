# Two commands do all the set-up: `make demo` and `make test`.
PYTHON ?= $(shell command -v python3.11 || command -v python3)
BIN := .venv/bin
# Tests start the command many times: it is compiled once, whatever the shell says. A file of tests
# stays on one worker, which makes what its tests share once; the longest come first (conftest.py).
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

# Linters work beside the tests, on what these leave free; what they found is printed last. Either
# fails the target.
define TEST
@$(MAKE) --no-print-directory lint > .venv/lint.log 2>&1 & lint=$$!; \
$(PYTEST) $(1); tests=$$?; \
wait $$lint; linted=$$?; cat .venv/lint.log; \
test $$linted -eq 0 || echo "make lint failed: see the lines above"; \
exit $$((tests + linted))
endef

test: install
	$(call TEST)

# The same, with what takes fifteen minutes more: the demo's models trained as long as users train
# them, and torch.compile to the end.
test-all: install
	$(call TEST,--full-demo)

# Remove what `make demo` made, and nothing else.
clean-demo:
	rm -rf simulated prepared outputs weights/sub-* weights/.sub-*
