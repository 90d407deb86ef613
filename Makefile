# Everything runs in .venv, which is made on first use and brought up to date when the files that say what it holds change.
# PYTHON names the interpreter that .venv is made with.

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
PYTHONS := 3.11 3.12 3.13
TORCH_IPFS_FUZZ_SECONDS ?= 60
# Tests wait for processes as often as they compute: two at a time take half as long, on two cores too.
PYTEST_WORKERS ?= 2

export UV_PYTHON_DOWNLOADS := never
# torch's wheels are large.
export UV_HTTP_TIMEOUT ?= 600

.PHONY: help
help:  ## this list
	@sed -nE 's/^([a-z-]+):.*## (.*)/\1\t\2/p' $(MAKEFILE_LIST) | sort | column -t -s $$'\t'

$(STAMP): setup.cfg pyproject.toml constraints.txt
	@test -x $(BIN)/python || $(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
	  || { echo "torch_ipfs needs Python 3.11 or newer; name one: make PYTHON=/path/to/python3.11" >&2; exit 1; }
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV) \
	  || { rm -rf $(VENV); echo "$(PYTHON) cannot make a venv (on Debian: apt-get install python3-venv)" >&2; exit 1; }
	@test -x $(BIN)/uv || $(BIN)/python -m pip install --quiet -c constraints.txt uv
	$(BIN)/uv pip install --python $(BIN)/python -c constraints.txt -e '.[dev]'
	@touch $@

.PHONY: venv
venv: $(STAMP)  ## make or update .venv

.PHONY: demo
demo: $(STAMP)  ## pack real data, train from its CID, catch a flipped byte
	$(BIN)/python examples/demo.py

.PHONY: demo-ddp
demo-ddp: $(STAMP)  ## two ranks train as one process does: both loss curves, side by side
	$(BIN)/python examples/ddp.py

.PHONY: test
test: lint types contracts kubo-where-go  ## everything that CI runs
	$(BIN)/pytest -n $(PYTEST_WORKERS)

.PHONY: lint
lint: $(STAMP)  ## ruff: rules and format
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

.PHONY: types
types: $(STAMP)  ## mypy --strict
	$(BIN)/mypy

.PHONY: contracts
contracts: $(STAMP)  ## the direction of imports
	$(BIN)/lint-imports --no-logo

include tests/kubo/kubo.mk

.PHONY: bench
bench: $(STAMP)  ## the benchmarks, whole: about a quarter of an hour on an idle machine
	$(BIN)/python -m benchmarks.reading --json benchmarks/results/reading.json --chart docs/images/reading.png

.PHONY: soak
soak: $(STAMP)  ## kill a training process 50 times at random moments, and compare what it has learnt
	$(BIN)/python -m tests.resume.soak 50

.PHONY: fuzz
fuzz: $(STAMP)  ## seeded mutations for TORCH_IPFS_FUZZ_SECONDS seconds a target
	TORCH_IPFS_FUZZ_SECONDS=$(TORCH_IPFS_FUZZ_SECONDS) $(BIN)/pytest -m fuzz --timeout 0

.PHONY: test-pythons
test-pythons: $(addprefix test-python-,$(PYTHONS))  ## the tests under each Python that is installed

# Each has a venv of its own. One that PATH does not have is looked for where pyenv keeps its versions.
.PHONY: test-python-%
test-python-%: $(STAMP)
	@python=$$(for p in python$* "$${PYENV_ROOT:-$$HOME/.pyenv}"/versions/$*.*/bin/python$*; do \
	    "$$p" -c 'import sys; print(sys.executable)' 2>/dev/null && break; done || true); \
	if [[ -z $$python ]]; then echo "Python $*: not installed, skipped"; exit 0; fi; \
	$(BIN)/uv venv --quiet --allow-existing --python "$$python" $(VENV)-$*; \
	$(BIN)/uv pip install --quiet --python $(VENV)-$*/bin/python -c constraints.txt -e '.[dev]'; \
	echo "Python $*: $$python"; \
	$(VENV)-$*/bin/python -m pytest -n $(PYTEST_WORKERS)

# The base install at its lower bounds; the tools of the tests are today's, as far as those bounds let them in.
.PHONY: test-lowest
test-lowest: $(STAMP)  ## the tests with the oldest dependencies that setup.cfg allows
	$(BIN)/uv venv --quiet --clear --python $(BIN)/python $(VENV)-lowest
	$(BIN)/uv pip install --quiet --python $(VENV)-lowest/bin/python --resolution lowest-direct -e .
	$(BIN)/uv pip freeze --python $(VENV)-lowest/bin/python --exclude-editable > $(VENV)-lowest/base.txt
	$(BIN)/uv pip install --quiet --python $(VENV)-lowest/bin/python -c $(VENV)-lowest/base.txt \
	    accelerate cbor2 hypothesis import-linter ipykernel matplotlib mmh3 nbclient nbformat pandas pillow psutil \
	    pytest pytest-timeout pytest-xdist pytorch-lightning safetensors scikit-learn tensorflow transformers trustme
	$(VENV)-lowest/bin/python -m pytest -n $(PYTEST_WORKERS)

.PHONY: constraints
constraints: $(STAMP)  ## pin anew what CI installs, at today's versions
	@echo "# Every version that CI installs; \`make constraints\` writes it anew." > constraints.tmp
	$(BIN)/uv pip compile --quiet --universal --python-version 3.11 --extra dev --upgrade --no-annotate --no-header \
	    --no-emit-package torch-ipfs setup.cfg - <<< uv >> constraints.tmp
	mv constraints.tmp constraints.txt

.PHONY: clean
clean:  ## remove what was built; .venv stays
	rm -rf build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache
	find torch_ipfs tests benchmarks examples -name __pycache__ -type d -prune -exec rm -rf {} +
