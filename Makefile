# Two commands do everything: `make run` and `make test`.  Each installs what it needs first.

PYTHON ?= python3
# Processes of the tests; each test file stays in one, the pipeline's, which takes longest, comes first.
JOBS ?= 2
BIN := $(CURDIR)/.venv/bin
export PATH := $(BIN):$(PATH)

.PHONY: run test ui lint smoke setup
.DEFAULT_GOAL := run

setup: .venv/ready
.venv/ready: requirements.lock pyproject.toml
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --disable-pip-version-check --requirement requirements.lock
	$(BIN)/pip install --quiet --disable-pip-version-check --no-deps --editable .
	touch $@

# Threads that spin while they wait make a run twenty times slower where another process wants a core.
run: export OMP_WAIT_POLICY = passive
run: setup          ## the pipeline on real data, then a summary
	$(BIN)/dvc repro
	$(BIN)/python -m hallmark summary

# Each process computes with one thread and does not spin while it waits: together they use what there is.
test: export OMP_NUM_THREADS = 1
test: export OMP_WAIT_POLICY = passive
test: setup         ## unit tests and one run of the whole pipeline on a small data set
	$(BIN)/python -m pytest --numprocesses $(JOBS) --dist loadscope --no-loadscope-reorder

smoke: setup        ## the whole pipeline on 8x8 digits in a temporary folder
	$(BIN)/python tests/pipeline/workspace.py

ui: setup           ## MLflow's user interface on this project's runs
	$(BIN)/python -m hallmark ui

lint: setup         ## style and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright
