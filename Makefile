PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

.DEFAULT_GOAL := help
.PHONY: help venv check test schema locks clean

help: ## List the targets
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:[^#]*## /\t/' | expand -t 12

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
	$(BIN)/shellcheck .ci/run
	$(BIN)/yamllint --strict manifests

test: venv ## Run the unit tests
	$(BIN)/pytest tests/unit

schema: venv ## Write the manifest's JSON Schema
	$(BIN)/bake schema > docs/manifest.schema.json

locks: venv ## Resolve the hashed lock again
	$(BIN)/uv pip compile --quiet --universal --python-version 3.10 --generate-hashes --no-emit-index-url --no-emit-find-links --no-header --extra dev --output-file requirements/dev.txt pyproject.toml requirements/build.in

clean: ## Remove what can be made again
	rm -rf $(VENV) build .mypy_cache .ruff_cache .pytest_cache
