# Every target sets up what it needs from nothing (python3.11, pip, make) and may be run again at any time.
.DELETE_ON_ERROR:
SHELL := bash
PYTHON ?= python3.11
SEED ?= 0
BIN := .venv/bin
export ETUDE_ENGINE_HOME ?= $(CURDIR)/.engine
PYPROJECTS := pyproject.toml $(wildcard packages/*/pyproject.toml)
PACKAGES := packages/core packages/langgraph_adapter packages/crewai_adapter packages/adk_adapter packages/tiny_world

.PHONY: help install engine demo test check format lint imports types bench oracle tiny-models lock clean

help: ## Show the targets.
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*## /\t/' | expand -t 14

.tools/bin/uv:
	@echo "making .tools (uv)"
	@$(PYTHON) -m venv .tools && .tools/bin/pip install -q 'uv>=0.9,<0.14'

.venv/.stamp: requirements.lock $(PYPROJECTS) | .tools/bin/uv
	@echo "making .venv (client half, from requirements.lock)"
	@test -x $(BIN)/python || .tools/bin/uv venv -q -p $(PYTHON) .venv
	@.tools/bin/uv pip sync -q --python $(BIN)/python requirements.lock
	@.tools/bin/uv pip install -q --python $(BIN)/python --no-deps $(addprefix -e ,$(PACKAGES))
	@touch $@

install: .venv/.stamp ## Make the client environment (.venv).

.engine/.test-tools: .venv/.stamp
	@$(MAKE) -s engine
	@.tools/bin/uv pip install -q --python .engine/bin/python 'pytest>=8.4,<10' 'pytest-asyncio>=1.1,<2' 'pytest-timeout>=2.3,<3' 'hypothesis>=6.100,<7'
	@touch $@

engine: .venv/.stamp ## Make the engine environment (.engine): torch, peft and vLLM for this machine.
	@ETUDE_UV=.tools/bin/uv $(BIN)/etude engine install

demo: engine ## Watch a LangGraph agent learn on this machine (SEED=n, CONTROL=1 for shuffled scores).
	@$(BIN)/etude demo --seed $(SEED) $(if $(CONTROL),--control)

test: engine .engine/.test-tools ## Run every test; the marked ones talk to a real vLLM.
	@$(BIN)/python -m pytest packages tests --ignore packages/core/tests/engine_env --ignore packages/core/tests/real_engine
	@.engine/bin/python -m pytest packages/core/tests/engine_env packages/core/tests/real_engine

format: install ## Format the code.
	@$(BIN)/ruff format . && $(BIN)/ruff check --fix --exit-zero -q .

lint: install
	@$(BIN)/ruff format --check . && $(BIN)/ruff check .

imports: install
	@$(BIN)/lint-imports

types: install
	@$(BIN)/mypy packages/*/src

check: lint imports types ## What CI checks before the tests: format, lint, import directions, types.

bench: engine ## Measure the speed claims against their rivals, ratios printed.
	@for f in bench/*.py; do echo "== $$f"; $(BIN)/python $$f || exit 1; done

oracle: engine ## Compare the loss with TRL's own on the same tensors.
	@test -x .oracle/bin/python || .tools/bin/uv venv -q -p $(PYTHON) .oracle
	@.tools/bin/uv pip install -q --python .oracle/bin/python $(if $(PIP_FIND_LINKS),--find-links $(PIP_FIND_LINKS)) --group oracle torch==2.13.0 peft pytest pytest-asyncio pytest-timeout hypothesis -e packages/core
	@.oracle/bin/python -m pytest -q packages/core/tests/engine_env/test_trl_oracle.py

tiny-models: engine ## Make the demo's tokenizer, policy and judge again (about 20 CPU minutes).
	@cd examples/tiny_world/train_models && for step in tokenizer policy judge; do PYTHONPATH=$(CURDIR)/packages/tiny_world/src ../../../.engine/bin/python $$step.py || exit 1; done

lock: | .tools/bin/uv ## Resolve requirements.lock anew, with hashes and without any host name.
	@.tools/bin/uv pip compile -q --generate-hashes --universal --python-version 3.11 --no-emit-index-url --no-emit-find-links --no-header --no-annotate --no-emit-package etude --no-emit-package etude-langgraph --no-emit-package etude-crewai --no-emit-package etude-adk --no-emit-package etude-tiny-world --group dev pyproject.toml -o requirements.lock

clean: ## Remove the environments (runs are kept).
	@rm -rf .venv .engine .tools .oracle
