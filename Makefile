PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

.DEFAULT_GOAL := help
SHELL_FILES := .ci/run demo/engine/common.sh demo/engine/env demo/engine/slim-image demo/engine/start demo/engine/stop

.PHONY: help venv check test test-unit engine-start engine-stop schema locks clean

help: ## List the targets
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:[^#]*## /\t/' | expand -t 16

venv: $(VENV)/ready ## Make .venv from the hashed lock

$(VENV)/ready: requirements/dev.txt pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --require-hashes --requirement requirements/dev.txt
	$(BIN)/pip install --quiet --no-deps --no-build-isolation --editable .
	touch $@

check: venv ## Lint, format check, types, shell
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/shellcheck --external-sources $(SHELL_FILES)
	$(BIN)/yamllint --strict manifests

test: venv ## Run the unit tests, then the integration tests on a real engine
	$(BIN)/pytest tests/unit tests/integration

test-unit: venv ## Run the unit tests only
	$(BIN)/pytest tests/unit

engine-start: ## Make sure that an engine answers; a private one where there is none
	demo/engine/start

engine-stop: ## End the private engine, leave nothing running
	demo/engine/stop

schema: venv ## Write the manifest's JSON Schema
	$(BIN)/bake schema > docs/manifest.schema.json

locks: venv ## Resolve the hashed lock again
	$(BIN)/uv pip compile --quiet --universal --python-version 3.10 --generate-hashes --no-emit-index-url --no-emit-find-links --no-header --extra dev --output-file requirements/dev.txt pyproject.toml requirements/build.in

clean: ## Remove what can be made again
	demo/engine/stop
	rm -rf $(VENV) .engine build .mypy_cache .ruff_cache .pytest_cache
