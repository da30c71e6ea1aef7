# Everything runs in .venv, made by `make setup`; uv is fetched into .uv where the machine has none.
.DEFAULT_GOAL := help
.PHONY: help setup run check fast test test-all torture lint type bench server deploy constraints
SHELL := /bin/bash

VENV := .venv
BIN := $(VENV)/bin
UV := $(shell command -v uv || echo .uv/bin/uv)
READY := $(VENV)/.ready

help: ## this list
	@grep -E '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## (.*)/  make \1\t\2/' | expand -t 18

setup: $(READY) ## make .venv with exact versions (constraints.txt)

run: $(READY) ## main job: label the example with its teacher, distil a student, compare with its twin
	$(BIN)/python -m tinyvit_flows.example

# One thread a process: torch's threads wait for each other by spinning, and two test processes have cores to lose.
PYTEST := OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist worksteal -q

# All at once: mypy has one core.
check: $(READY) ## style, types, and the tests that take and need little (75 seconds)
	$(MAKE) --no-print-directory --jobs 3 lint type fast

fast: $(READY)
	$(PYTEST) --most 0.5 --ignore tests/flows --ignore tests/benchmarks --ignore tests/torture

test: $(READY) ## what a change must pass: all tests but those of more than 8 seconds (10 minutes)
	$(PYTEST) --most 8 --durations 10

test-all: $(READY) ## every test, as continuous integration runs them (25 minutes on 2 cores)
	$(PYTEST) --durations 20

torture: $(READY) ## 70 kills, 1,000 mutations, races: store, training and flows under fire, at full length (30 minutes)
	$(BIN)/python -m pytest tests/torture tests/flows tests/tinyvit/training/test_engine.py --long

lint: $(READY) ## ruff: style, faults, format
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

type: $(READY) ## mypy, strict, of packages, benchmarks and tests
	$(BIN)/mypy

bench: $(READY) ## the store against flat records, the data path against timm, training against a bare loop (20 minutes)
	$(BIN)/tinyvit bench storage
	$(BIN)/tinyvit bench loader
	$(BIN)/tinyvit bench train

server: $(READY) ## a Prefect server with its UI, a work pool and a worker, until Ctrl-C
	$(BIN)/python -m tinyvit_flows.server

deploy: $(READY) ## deploy the flows to that server
	$(BIN)/prefect --no-prompt deploy --all

constraints: $(UV) ## choose the versions in constraints.txt anew
	$(UV) pip compile -q --universal --python-version 3.11 --no-header --no-annotate --all-extras \
		--output-file constraints.txt --upgrade pyproject.toml

# Bytecode is compiled once: torch, timm and Prefect are imported by every process of a run.
$(READY): pyproject.toml constraints.txt | $(UV)
	$(UV) venv -q --allow-existing --python '>=3.11,<3.14' $(VENV)
	$(UV) pip install -q --python $(BIN)/python --compile-bytecode -c constraints.txt -e '.[flows,hub,remote,dask,ray,wandb,export,transfer,example,dev]'
	@touch $@

.uv/bin/uv:
	python3 -m venv .uv
	.uv/bin/python -m pip install -q uv
