# Every target sets up what it needs from nothing (python3.11, pip, make) and may be run again at any time.
.DELETE_ON_ERROR:
SHELL := bash
PYTHON ?= python3.11
SEED ?= 0
FRAMEWORK ?= langgraph
BIN := .venv/bin
export WOODSHED_ENGINE_HOME ?= $(CURDIR)/.engine
PYPROJECTS := pyproject.toml $(wildcard packages/*/pyproject.toml)
PACKAGES := packages/core packages/langgraph_adapter packages/crewai_adapter packages/adk_adapter packages/tiny_world

.PHONY: help install engine demo demo-real notebook-real demo-mcp test test-quick check format lint imports types bench bench-train bench-judge bench-kills bench-replicas simulate oracle phoenix clusters tiny-models lock dist clean test-matrix contract test-trackers view bench-judge-real docs docs-serve

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
	@.tools/bin/uv pip install -q --python .engine/bin/python 'pytest>=8.4,<10' 'pytest-asyncio>=1.1,<2' 'pytest-timeout>=2.3,<3' 'pytest-xdist>=3.5,<4' 'hypothesis>=6.100,<7' "$$(.engine/bin/python -c 'from woodshed.engine.client.provision import RAY; print(RAY)')"
	@touch $@

engine: .venv/.stamp ## Make the engine environment (.engine): torch, peft and vLLM for this machine.
	@WOODSHED_UV=.tools/bin/uv $(BIN)/woodshed engine install

demo: engine ## Watch an agent learn on this machine (SEED=n, FRAMEWORK=crewai or adk, CONTROL=1 for shuffled scores; REPLICAS=n TRAINERS=n; ENGINE=ray RAY=address).
	@$(if $(filter ray,$(ENGINE)),WOODSHED_UV=.tools/bin/uv $(BIN)/woodshed engine install --ray)
	@$(BIN)/woodshed demo --framework $(FRAMEWORK) --seed $(SEED) $(if $(CONTROL),--control) $(if $(filter ray,$(ENGINE)),--ray $(or $(RAY),local)) $(if $(REPLICAS),--replicas $(REPLICAS)) $(if $(TRAINERS),--trainers $(TRAINERS)) $(if $(STEPS),--steps $(STEPS))

demo-real: engine ## Watch a pretrained model of 135 million parameters learn (SEED=n, CONTROL=1; TOOLS=1 FRAMEWORK=… for a tool agent).
	@PATH="$$PATH:$(CURDIR)/.tools/bin" $(BIN)/python $(if $(TOOLS),examples/shop_real/demo.py --framework $(FRAMEWORK),examples/orders/demo.py $(if $(CONTROL),--control)) --seed $(SEED)

notebook-real: engine ## Run examples/real_model.ipynb (some 15 minutes) and keep its outputs in it.
	@PATH="$$PATH:$(CURDIR)/.tools/bin" $(BIN)/python tests/real_engine/keep_outputs.py

demo-mcp: engine ## Watch an agent learn an MCP server on this machine (SEED=n): tasks, rollouts, judge, steps, report.
	@$(BIN)/python -m woodshed_tiny_world.mcp_demo examples/mcp/shop_server.py --seed $(SEED)

test: engine .engine/.test-tools ## Run every test; the marked ones talk to a real vLLM. Files that take longest go first.
	@$(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder packages tests --ignore packages/core/tests/engine_env --ignore packages/core/tests/real_engine
	@.engine/bin/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder packages/core/tests/engine_env packages/core/tests/real_engine

test-quick: install ## Run the tests that need no engine and no torch (under three minutes).
	@$(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder -m "not engine and not slow" packages tests --ignore packages/core/tests/engine_env --ignore packages/core/tests/real_engine --ignore tests/real_engine

# Both ends of each adapter's tested range, each in an environment of its own; with the contract, but for the row
# with a trainer.
MATRIX := langgraph-oldest langgraph-newest crewai-oldest crewai-newest adk-oldest adk-newest mcp-1 mcp-2 view-oldest view-newest
PINS_langgraph-oldest := langgraph==1.1.5 langchain-core==1.2.10 langchain-openai==1.0.0
PINS_crewai-oldest := crewai==1.15.2
PINS_adk-oldest := google-adk==2.10.0
PINS_view-oldest := starlette==0.46.0 uvicorn==0.34.0 tokenizers==0.21.0
# The oldest MCP SDK and the newest of its other major version; the example servers stay on the one in the lock.
PINS_mcp-1 := ==1.24.0
PINS_mcp-2 := >=2,<3
BESIDE_langgraph := langchain langchain-anthropic
BESIDE_crewai := anthropic

test-matrix: engine $(MATRIX:%=matrix-%) ## Test each adapter with the oldest and the newest framework it supports.

matrix-mcp-%: .venv/.stamp
	@echo "== mcp-$*"
	@test -x .matrix/mcp-$*/bin/python || .tools/bin/uv venv -q -p $(PYTHON) .matrix/mcp-$*
	@.tools/bin/uv pip install -q --upgrade --python .matrix/mcp-$*/bin/python -e 'packages/core[mcp]' 'pytest>=8.4,<10' 'pytest-asyncio>=1.1,<2' 'pytest-timeout>=2.3,<3' 'mcp$(PINS_mcp-$*)'
	@.tools/bin/uv pip list -q --python .matrix/mcp-$*/bin/python | grep -E '^(mcp|httpx2?|openai|pydantic) '
	@.tools/bin/uv pip install -q --no-deps --python .matrix/mcp-$*/bin/python -e packages/tiny_world
	@WOODSHED_MCP_SERVERS_PYTHON=$(BIN)/python .matrix/mcp-$*/bin/python -m pytest -q packages/core/tests/mcp

matrix-view-%: .venv/.stamp
	@echo "== view-$*"
	@test -x .matrix/view-$*/bin/python || .tools/bin/uv venv -q -p $(PYTHON) .matrix/view-$*
	@.tools/bin/uv pip install -q --upgrade --python .matrix/view-$*/bin/python -e 'packages/core[view]' 'pytest>=8.4,<10' 'pytest-asyncio>=1.1,<2' 'pytest-timeout>=2.3,<3' 'hypothesis>=6.100,<7' 'playwright>=1.48,<2' $(PINS_view-$*)
	@.tools/bin/uv pip list -q --python .matrix/view-$*/bin/python | grep -E '^(starlette|uvicorn|tokenizers) '
	@.matrix/view-$*/bin/python -m pytest -q packages/core/tests/view

matrix-%: | .tools/bin/uv
	@echo "== $*"
	@test -x .matrix/$*/bin/python || .tools/bin/uv venv -q -p $(PYTHON) .matrix/$*
	@.tools/bin/uv pip install -q --upgrade --python .matrix/$*/bin/python -e packages/core -e packages/$(firstword $(subst -, ,$*))_adapter 'pytest>=8.4,<10' 'pytest-asyncio>=1.1,<2' 'pytest-timeout>=2.3,<3' $(BESIDE_$(firstword $(subst -, ,$*))) $(PINS_$*)
	@.tools/bin/uv pip list -q --python .matrix/$*/bin/python | grep -E '^(langgraph|langchain-core|langchain-openai|crewai|google-adk|openai|pydantic) '
	@.tools/bin/uv pip install -q --no-deps --python .matrix/$*/bin/python -e packages/tiny_world
	@.matrix/$*/bin/python -m pytest -q -k "not row_18" packages/$(firstword $(subst -, ,$*))_adapter/tests

# The oldest and the newest version of each tracker that is supported, in an environment of its own: they are heavy.
# Of two packages, the newest break the oldest trackers at their import: SQLAlchemy 2.1 MLflow's, huggingface-hub 1.33
# trackio's, though both say that they take them.
PINS_trackers-oldest := wandb==0.19.9 mlflow==2.20.3 'sqlalchemy<2.1' tensorboardX==2.6.2.2 tensorboard==2.17.1 trackio==0.30.0 huggingface-hub==1.10.0

test-trackers: trackers-oldest trackers-newest ## Test the trackers with the real packages (wandb, mlflow, tensorboard, trackio).

trackers-%: .venv/.stamp
	@echo "== trackers-$*"
	@test -x .matrix/trackers-$*/bin/python || .tools/bin/uv venv -q -p $(PYTHON) .matrix/trackers-$*
	@.tools/bin/uv pip install -q --upgrade --python .matrix/trackers-$*/bin/python -e 'packages/core[wandb,mlflow,tensorboard,trackio]' 'pytest>=8.4,<10' 'pytest-asyncio>=1.1,<2' 'pytest-timeout>=2.3,<3' $(PINS_trackers-$*)
	@.tools/bin/uv pip install -q --no-deps --python .matrix/trackers-$*/bin/python -e packages/tiny_world
	@.tools/bin/uv pip list -q --python .matrix/trackers-$*/bin/python | grep -E '^(wandb|mlflow|tensorboard|tensorboardx|trackio|protobuf) '
	@.matrix/trackers-$*/bin/python -m pytest -q packages/core/tests/training/track

contract: engine .engine/.test-tools ## Hold every adapter to the contract; print rows x adapters and write docs/contract.md.
	@$(BIN)/python tests/contract/report.py

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
	@for f in $(filter-out bench/kills.py bench/judge_real.py bench/simulate.py,$(wildcard bench/[a-z]*.py)); do echo "== $$f"; $(BIN)/python $$f || exit 1; done

.oracle/.stamp: pyproject.toml packages/core/pyproject.toml | .tools/bin/uv
	@echo "making .oracle (the losses and the trainer ours are compared with)"
	@test -x .oracle/bin/python || .tools/bin/uv venv -q -p $(PYTHON) .oracle
	@.tools/bin/uv pip install -q --python .oracle/bin/python $(if $(PIP_FIND_LINKS),--find-links $(PIP_FIND_LINKS)) --group oracle torch==2.13.0 peft pytest pytest-asyncio pytest-timeout hypothesis -e packages/core
	@touch $@

oracle: .oracle/.stamp ## Compare every loss with those of TRL, Liger and verl on the same tensors: a table.
	@.oracle/bin/python packages/core/tests/engine_env/oracles.py

.phoenix/.stamp: | .tools/bin/uv
	@echo "making .phoenix (the server that the tests send traces to)"
	@test -x .phoenix/bin/phoenix || { rm -rf .phoenix && .tools/bin/uv venv -q -p $(PYTHON) .phoenix; }
	@.tools/bin/uv pip install -q --python .phoenix/bin/python 'arize-phoenix>=20,<21'
	@touch $@

phoenix: .phoenix/.stamp ## Make an environment with Phoenix, and test against it what export-traces sends.
	@$(BIN)/python -m pytest -q packages/core/tests/traces/test_phoenix.py

bench-train: .oracle/.stamp ## Measure an optimizer step beside TRL's GRPOTrainer (about 25 minutes): speed, memory, GEMM rate.
	@.oracle/bin/python bench/trainer.py --scaling

bench-judge: engine ## Measure RULER against naive scoring: judges with known faults, hostile texts, the tiny real judge.
	@$(BIN)/python bench/judge.py

bench-judge-real: engine ## Measure RULER by a real pretrained judge, Qwen2.5-Coder-1.5B (downloads 1.1 GB): modes, then trainings.
	@$(BIN)/python bench/judge_real.py

bench-kills: engine ## Kill a training at seventeen points, three of them on Ray, process by process (kill -9), and check what is left of it: a table.
	@$(BIN)/python bench/kills.py

bench-replicas: engine ## Measure 1, 2 and 3 replicas on this machine: prefix cache, spread, swaps, and one that is killed.
	@$(BIN)/python bench/replicas.py

.simulation/.stamp: pyproject.toml | .tools/bin/uv
	@test -x .simulation/bin/python || .tools/bin/uv venv -q -p $(PYTHON) .simulation
	@.tools/bin/uv pip install -q --python .simulation/bin/python --group bench -e packages/core
	@touch $@

simulate: .simulation/.stamp ## Predict throughput and what limits it with 1 to 1,000 replicas (CHECK=--check compares it with real ones).
	@.simulation/bin/python bench/simulate.py $(CHECK)

view: ## Build the page of `woodshed view` anew (needs node and npm); its output is committed.
	@cd packages/core/view_ui && npm ci --no-audit --no-fund --ignore-scripts >/dev/null && npm run -s build

tiny-models: engine ## Make the demo's tokenizer, policy and judge again (about 20 CPU minutes).
	@cd examples/tiny_world/train_models && for step in tokenizer policy judge; do PYTHONPATH=$(CURDIR)/packages/tiny_world/src ../../../.engine/bin/python $$step.py || exit 1; done

.clusters/.stamp: | .tools/bin/uv
	@echo "making .clusters (SkyPilot, and the schemas of Kubernetes)"
	@test -x .clusters/bin/python || { rm -rf .clusters && .tools/bin/uv venv -q -p $(PYTHON) .clusters; }
	@.tools/bin/uv pip install -q --python .clusters/bin/python 'skypilot>=0.14,<0.15' 'kubernetes-validate>=1.37,<2' 'pyyaml>=6,<7'
	@touch $@

clusters: .clusters/.stamp install ## Make an environment with SkyPilot and Kubernetes' schemas, and check examples/cluster by them.
	@$(BIN)/python -m pytest -q tests/cluster

.docs/.stamp: pyproject.toml | .tools/bin/uv
	@echo "making .docs (the documentation's site)"
	@test -x .docs/bin/mkdocs || .tools/bin/uv venv -q --clear -p $(PYTHON) .docs
	@.tools/bin/uv pip install -q --python .docs/bin/python $(if $(DOCS_RESOLUTION),--resolution $(DOCS_RESOLUTION)) --group docs
	@touch $@

docs: .docs/.stamp ## Build the documentation into site/; a dead link or anchor fails. Open site/index.html, no server needed.
	@# Not quietly: --quiet keeps --strict from seeing a warning.
	@NO_MKDOCS_2_WARNING=1 .docs/bin/mkdocs build --strict --clean >.docs/build.log 2>&1 || { grep -v '^INFO' .docs/build.log; exit 1; }
	@echo "site/index.html"

docs-serve: .docs/.stamp ## Show the documentation at http://127.0.0.1:8000 while you write it.
	@NO_MKDOCS_2_WARNING=1 .docs/bin/mkdocs serve

lock: | .tools/bin/uv ## Resolve requirements.lock anew, with hashes and without any host name.
	@.tools/bin/uv pip compile -q --generate-hashes --universal --python-version 3.11 --no-emit-index-url --no-emit-find-links --no-header --no-annotate --no-emit-package woodshed --no-emit-package woodshed-langgraph --no-emit-package woodshed-crewai --no-emit-package woodshed-adk --no-emit-package woodshed-tiny-world --group dev pyproject.toml -o requirements.lock

dist: | .tools/bin/uv ## Build wheels and sdists of all packages into dist/, check them, and try them outside the checkout (after `make engine`: train).
	@rm -rf dist
	@for package in $(PACKAGES); do .tools/bin/uv build -q --python $(PYTHON) --out-dir dist $$package || exit 1; done
	@.tools/bin/uv tool run -q --python $(PYTHON) 'twine>=6,<7' check --strict dist/*.whl dist/*.tar.gz
	@.tools/bin/uv run -q --no-project --python $(PYTHON) --with 'hatchling>=1.27,<2' --with 'packaging>=25,<27' python tests/dist/check.py dist
	@$(PYTHON) tests/dist/try_wheels.py dist .tools/bin/uv

clean: ## Remove the environments (runs are kept).
	@rm -rf .venv .engine .tools .oracle .matrix .phoenix .clusters .docs
