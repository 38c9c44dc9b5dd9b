# Two commands for newcomers: `make demo` and `make test`. Everything is installed into .venv by itself.
PYTHON ?=
BIN := .venv/bin
UV_VERSION := 0.13.9
STAMP := .venv/.installed
# One file of tests at a time on each of up to four cores; those of the whole chain share one run of it.
ABREAST := --numprocesses logical --maxprocesses 4 --dist loadgroup

export DO_NOT_TRACK := true
export DVC_NO_ANALYTICS := 1
export MLFLOW_DISABLE_TELEMETRY := true
export PREFECT_SERVER_ANALYTICS_ENABLED := false

.PHONY: help install demo compare test test-all browser faults soak check format lock ui deploy clean

help: ## this list
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 12

install: $(STAMP) ## install the locked environment into .venv

# In a checkout that was copied or moved, the environment's scripts still run the code of the old folder. A link is meant.
ELSEWHERE := $(shell [ -L .venv ] || [ ! -s $(STAMP) ] || [ "$$(cat $(STAMP))" = "$$(pwd -P)" ] || echo yes)
# Nor is one any whose interpreter was removed, or upgraded to another version, which has no packages.
ifneq ($(ELSEWHERE)$(shell $(BIN)/python -c 'import uv' 2>/dev/null || echo broken),)
.PHONY: $(STAMP)
endif

$(STAMP): requirements.lock pyproject.toml scripts/install.sh
	@$(if $(ELSEWHERE),rm -rf .venv)
	@PYTHON='$(PYTHON)' UV_VERSION=$(UV_VERSION) sh scripts/install.sh
	@pwd -P > $(STAMP)

demo: install ## run the whole chain on generated videos (minutes on 2 cores)
	@$(BIN)/everest demo

compare: install ## pre-training strategies at equal cost, as params.yaml's group compare says
	@$(BIN)/everest compare

test: install ## the fast tests, with one run of the whole chain
	@$(BIN)/python -m pytest $(ABREAST) -m "not slow and not browser"

test-all: install ## all tests, the long ones and the browser's too
	@$(BIN)/python -m pytest $(ABREAST)

browser: install ## MLflow's page in a real browser (needs Debian's chromium)
	@$(BIN)/python -m pytest -m browser -rs

faults: install ## the full counts of the fault trials, as a table
	@$(BIN)/python -m pytest -m slow tests/faults

soak: install ## 20 canaries through a deployment while everything around them is killed (half an hour; needs PostgreSQL)
	@EVEREST_SOAK=20 $(BIN)/python -m pytest -s -m slow tests/faults/test_soak.py

check: install ## format, lint, spelling and types
	@$(BIN)/ruff format --check .
	@$(BIN)/ruff check .
	@$(BIN)/codespell
	@$(BIN)/mypy

format: install ## rewrite to the house's format
	@$(BIN)/ruff format .
	@$(BIN)/ruff check --fix .

ui: install ## MLflow's and Prefect's pages on this machine
	@$(BIN)/everest ui

deploy: install ## work pool, limits and deployments on the Prefect server at PREFECT_API_URL
	@$(BIN)/python -m flows.deploy

lock: install ## resolve the dependencies anew into requirements.lock
	@$(BIN)/uv pip compile pyproject.toml --extra dev --universal --python-version 3.11 --generate-hashes \
	  --no-emit-index-url --quiet --output-file requirements.lock
	@printf 'uv==%s\nhatchling==1.28.0\neditables\n' $(UV_VERSION) | $(BIN)/uv pip compile - --universal \
	  --python-version 3.11 --generate-hashes --no-emit-index-url --no-annotate --no-header --quiet \
	  --output-file scripts/tools.txt

clean: ## remove results and unfinished work; videos, the DVC cache and MLflow's records stay
	@rm -rf outputs metrics .work
