# `make` lists the targets. Everything installs into .venv; big things are cached in ~/.cache.
SHELL := /bin/bash
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
UV_VERSION := 0.13.9
# How many of the slowest tests are listed.
DURATIONS ?= $(if $(CI),15)
PYTEST = $(BIN)/pytest $(if $(DURATIONS),--durations=$(DURATIONS))
# T=PATH[::TEST] or T=EXPRESSION for -k, which then looks in the folder $(1).
picked = $$(test -e "$${T%%::*}" || echo $(1) -k) "$$T"
export PATH := $(CURDIR)/$(BIN):$(PATH)
# Where it is set, as in many container images, each process compiles our sources again: 0.2 to
# 0.3 s of each start.
export PYTHONDONTWRITEBYTECODE :=

.PHONY: help
help: ## Show this list
	@grep -hE '^[a-z0-9-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 14

.PHONY: install
install: $(VENV)/.installed ## Install everything into .venv, pinned and hashed

$(VENV)/.installed: requirements.lock pyproject.toml hatch_build.py $(wildcard proto/modelfleet_proto/*.proto)
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@$(BIN)/uv --version 2>/dev/null | grep -q "uv $(UV_VERSION)" || $(BIN)/python -m pip install -q uv==$(UV_VERSION)
	@echo "Installing Python packages (torch with its libraries is 5 GB; minutes the first time)..."
	@$(BIN)/uv pip install --compile-bytecode --no-build --no-deps --require-hashes -r requirements.lock
	@$(BIN)/uv pip install -q --no-deps --no-build-isolation --reinstall-package modelfleet -e .
	@touch $@

.PHONY: lock
lock: ## Resolve requirements.lock again, and what the images install of it
	$(BIN)/uv pip compile pyproject.toml --extra worker --group dev --group build --universal \
	    --generate-hashes --no-emit-index-url --upgrade -o requirements.lock
	$(BIN)/python tools/lock_images.py

.PHONY: model
model: install ## Write SmolLM2-135M-Instruct and all-MiniLM-L6-v2 as Hugging Face folders, once
	@$(BIN)/python tools/prepare_smollm2.py
	@$(BIN)/python tools/prepare_minilm.py

# The slowest first; two at a time.
CHECKS := check-pyright check-mypy check-ruff check-imports
.PHONY: check $(CHECKS)
check: install ## Format, lint, types, import contracts
	@$(MAKE) --no-print-directory --jobs 2 --output-sync $(CHECKS)

check-ruff:
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .

check-mypy:
	$(BIN)/mypy

check-pyright:
	$(BIN)/pyright

check-imports:
	$(BIN)/lint-imports

.PHONY: format
format: install ## Format and fix what can be fixed
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

# Half of the tests wait for processes that start, end or are silent. tests/conftest.py says which
# files come first; pytest-xdist's own order would begin the longest at the end, and alone.
PROCESSES ?= 3
IN_PARALLEL := --numprocesses $(PROCESSES) --dist loadfile --no-loadscope-reorder

# ONLY=untimed: without those that have to be in time (tests/conftest.py); ONLY="not untimed": these.
.PHONY: test
test: install model ## Every test that needs no cluster; T=PATH or T=EXPRESSION: only these
	$(PYTEST) $(if $(T),$(call picked),$(IN_PARALLEL))$(if $(ONLY), -m "$(ONLY)")

.PHONY: cluster
cluster: install ## A Kubernetes on this machine (Linux, root, Go); builds it the first time
	@PYTHONPATH=e2e $(BIN)/python -m cluster up

.PHONY: cluster-down
cluster-down: install ## Remove that Kubernetes without a trace
	@PYTHONPATH=e2e $(BIN)/python -m cluster down

.PHONY: images
images: install ## Build the images for the cluster on this machine (docs/images.md)
	@$(BIN)/python e2e/images.py

# So many clusters side by side, up to nine: the tests wait for about as long as they compute.
CLUSTERS ?= 2
SIDE_BY_SIDE := --numprocesses $(CLUSTERS) --dist loadfile --no-loadscope-reorder

.PHONY: e2e
e2e: install model ## The product on a real Kubernetes, see docs/cluster.md; T as above
ifndef KUBECONFIG
	@PYTHONPATH=e2e $(BIN)/python -m cluster build
	@$(BIN)/python e2e/images.py
endif
	$(PYTEST) $(if $(T),$(call picked,e2e),-m "not keda" e2e $(if $(KUBECONFIG),,$(SIDE_BY_SIDE)))

.PHONY: soak
soak: install model ## Ten minutes of chaos under load on a real Kubernetes, every byte checked; SOAK_SECONDS=N, SOAK_SEED=N
ifndef KUBECONFIG
	@PYTHONPATH=e2e $(BIN)/python -m cluster build
	@$(BIN)/python e2e/images.py
endif
	SOAK_SECONDS=$${SOAK_SECONDS:-600} $(PYTEST) -rP e2e/test_chaos.py

# What the cluster needs, and KEDA, which takes as long to build as all of that.
KEDA_COMPONENTS := kubernetes coredns metrics-server helm keda
.PHONY: e2e-keda
e2e-keda: install model ## A real KEDA scales a model on a real Kubernetes (docs/keda.md); builds it the first time
	@PYTHONPATH=e2e $(BIN)/python -m cluster build $(KEDA_COMPONENTS:%=--component %)
	@$(BIN)/python e2e/images.py
	$(PYTEST) -m keda -rP e2e/test_keda.py

.PHONY: demo
demo: install model ## One YAML to a fleet that answers, sleeps and wakes
	@$(BIN)/python tools/demo.py

.PHONY: peers
peers: install ## Build the engines that ours is measured against: llama.cpp and vLLM (minutes, once)
	@$(BIN)/python benchmarks/peers.py

.PHONY: bench
bench: install model ## The engine beside its peers, an hour on an idle machine (docs/performance.md)
	@$(BIN)/python benchmarks/engine.py $$($(BIN)/python tools/prepare_smollm2.py) $(if $(WRITE),--write $(WRITE))

.PHONY: clients
clients: install model ## Clients that teams use, the newest of each, and docs/clients.md; ONLY="NAME...": of clients/checks
	@$(BIN)/python clients/run.py $(if $(ONLY),--only $(ONLY),--write docs/clients.md)

.PHONY: fuzz-api
fuzz-api: install ## schemathesis against the OpenAPI document of a gateway: no 5xx, no answer that it does not name
	@$(BIN)/python tools/fuzz_api.py

.PHONY: structured
structured: install ## 10,000 answers of random weights, held to schemas of every kind: each is valid
	ANSWERS=10000 $(PYTEST) --timeout 3000 tests/worker/devices/test_constrained_answers.py -k every_finished

.PHONY: profile-start
profile-start: install model ## Where a worker's start goes, as a table and start.svg; LOG=FILE: of a pod's log
	@$(BIN)/python benchmarks/start.py --picture start.svg $(if $(LOG),--log $(LOG),$$($(BIN)/python tools/prepare_smollm2.py))

.PHONY: generate
generate: install ## Write what is generated from the code: the CRDs, their reference, the chart's copies
	$(BIN)/python -m modelfleet_operator.api.crd
	$(BIN)/python tools/generate_chart.py

.PHONY: clean
clean: ## Remove what the other targets made here (~/.cache/modelfleet stays)
	rm -rf e2e-failures $(VENV) .pytest_cache .mypy_cache .ruff_cache .hypothesis proto/modelfleet_proto/*_pb2*
