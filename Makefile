PYTHON ?= python3
# LATEST=1 takes any target to the newest versions of all that bake and its tests need
LOCK := $(if $(LATEST),latest,dev)
VENV := .venv$(if $(LATEST),-latest)
BIN := $(VENV)/bin

# For two cores, of which what waits for a container, a frozen worker or a time-out leaves its own to another;
# tests/conftest.py says what stays in one process
SIDE_BY_SIDE := --numprocesses=3 --no-loadscope-reorder
MORE_WAITING := --numprocesses=4 --no-loadscope-reorder

.DEFAULT_GOAL := help
SHELL_FILES := .ci/run .ci/changed requirements/install requirements/pin-images requirements/trim-runtime benchmarks/gpu/run benchmarks/gpu/pack demo/run demo/draw demo/road demo/engine/common.sh demo/engine/env demo/engine/slim-image demo/engine/start demo/engine/stop

# the webui's environment is for one platform only, that of its base image
WEBUI_LOCK := --quiet --python-version 3.10 --python-platform x86_64-manylinux_2_28 --generate-hashes --no-emit-index-url --no-emit-find-links --no-header
DOCKERFILES := Dockerfile.base Dockerfile.final $(wildcard demo/Dockerfile)

NAMED = $(or $(MANIFEST),$(error name a manifest: make $@ MANIFEST=manifests/deliberate-v6.yaml))

.PHONY: help venv demo road bake changed summary sign signature deploy check format test test-unit coverage mutate test-paused webui-check webui-named gpu-check engine-start engine-stop bench schema hub standins locks release runtime-venvs clean

help: ## List the targets
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:[^#]*## /\t/' | expand -t 16

venv: $(VENV)/ready ## Make .venv from the hashed lock; LATEST=1, here and below: .venv-latest, of the newest versions

$(VENV)/ready: requirements/$(LOCK).txt pyproject.toml
	$(PYTHON) -m venv $(VENV)
	requirements/install $(BIN) $(VENV) $<
	$(BIN)/pip install --quiet --no-deps --no-build-isolation --editable .
	touch $@

demo: venv ## Bake the demo image from nothing and draw a picture with it
	demo/run

road: venv ## Take the demo from an edited manifest to an endpoint and back, as CI does a model
	demo/road

bake: venv ## Bake the image of MANIFEST; further options in BAKE_FLAGS, such as --locked --push
	$(BIN)/bake image $(NAMED) $(BAKE_FLAGS)

changed: ## Print which manifests differ from the commit SINCE, as a JSON list; MANIFEST=FILE prints that one
	@.ci/changed "$(SINCE)" "$(MANIFEST)"

summary: venv ## Write what a change of MANIFEST since the commit SINCE means, as Markdown
	@git rev-parse --quiet --verify '$(SINCE)^{commit}' >/dev/null || { echo 'SINCE names no commit: make summary MANIFEST=FILE SINCE=origin/main' >&2; exit 2; }
	@mkdir -p build && git show '$(SINCE):$(MANIFEST:.yaml=.lock.json)' > build/before.lock.json 2>/dev/null || true
	@$(BIN)/bake summary $(NAMED) --before build/before.lock.json $(BAKE_FLAGS)

sign: venv ## Sign what was pushed of MANIFEST, and its documents; keyless in CI, else SIGN_FLAGS="--key FILE"
	$(BIN)/bake sign $(NAMED) $(SIGN_FLAGS)

signature: venv ## Check that IDENTITY has signed it (a workflow of GitHub's), or another by VERIFY_FLAGS="--key FILE"
	$(BIN)/bake verify --signature $(NAMED) $(if $(IDENTITY),--identity $(IDENTITY) --issuer https://token.actions.githubusercontent.com) $(VERIFY_FLAGS)

deploy: venv ## Make or change the RunPod endpoint of MANIFEST, with IMAGE if not the last bake's
	$(BIN)/bake deploy $(NAMED) --yes $(if $(IMAGE),--image $(IMAGE)) $(DEPLOY_FLAGS)

format: venv ## Mend what the formatter and the linter can mend
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

check: venv ## Lint, format check, types, shell, Dockerfiles, workflows
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/shellcheck --external-sources $(SHELL_FILES)
	$(BIN)/yamllint --strict manifests
	$(BIN)/hadolint $(DOCKERFILES)
	$(BIN)/zizmor --offline --quiet .github

test: venv runtime-venvs ## Run all tests, on a real engine (COVERAGE=1 says what they reach, EXAMPLES=2000 tries more random cases)
	BAKE_TEST_EXAMPLES=$(EXAMPLES) $(BIN)/pytest $(MORE_WAITING) $(if $(COVERAGE),--cov --cov-report=term) tests/unit tests/integration

test-unit: venv ## Run the unit tests only
	$(BIN)/pytest $(SIDE_BY_SIDE) tests/unit

coverage: venv ## Run the unit tests, and fail where they reach less of the code than before (pyproject.toml says how much)
	$(BIN)/pytest $(SIDE_BY_SIDE) --cov --cov-report=term tests/unit

mutate: venv ## Put small faults into PACKAGE (runtime/job), one by one, and count those that unit tests notice
	VIRTUAL_ENV=$(abspath $(VENV)) $(BIN)/uv run --quiet --no-project --active --with mutmut==3.8.1 python -m tests.mutate $(or $(PACKAGE),$(error name a package: make mutate PACKAGE=runtime/job)) $(MUTATE_FLAGS)

test-paused: venv runtime-venvs ## Run TESTS (tests/unit) while random processes of theirs stand still for up to 20 s each
	$(BIN)/python -m tests.paused $(or $(TESTS),tests/unit)

webui-check: webui-named venv runtime-venvs ## Hold the worker over a real webui 1.9.3 (WEBUI=FOLDER PYTHON=its interpreter) against a fresh one, bit by bit
	$(BIN)/python -m tests.conformance --webui $(WEBUI) --python $(if $(filter command line,$(origin PYTHON)),$(PYTHON),$(WEBUI)/venv/bin/python) $(if $(LORA_PYTHON),--lora-python $(LORA_PYTHON)) $(PARTS)

# Before the environments, which take minutes, are made for nothing.
webui-named:
	@: $(or $(wildcard $(WEBUI)/webui.py),$(error name the folder of webui.py: make webui-check WEBUI=FOLDER PYTHON=INTERPRETER))

engine-start: ## Make sure that an engine answers; a private one where there is none
	demo/engine/start

engine-stop: ## End the private engine, leave nothing running
	demo/engine/stop

runtime-venvs: .venv-runtime/ready .venv-runtime-latest/ready .venv-swift/ready ## Make the environments of the integration tests: the worker's (both SDKs), and an S3 server's

# as Dockerfile.final makes it
.venv-runtime/ready: requirements/runtime.txt requirements/trim-runtime | $(VENV)/ready
	$(PYTHON) -m venv --clear --without-pip .venv-runtime
	requirements/install $(BIN) .venv-runtime $<
	sh requirements/trim-runtime .venv-runtime/lib/python*/site-packages
	touch $@

.venv-%/ready: requirements/%.txt | $(VENV)/ready
	$(PYTHON) -m venv --clear --without-pip .venv-$*
	requirements/install $(BIN) .venv-$* $<
	touch $@

bench: venv runtime-venvs ## Measure fetch, re-bake, pull and the runtime; tables on stdout, figures in build/bench
	mkdir -p build/bench
	demo/engine/start
	eval "$$(demo/engine/env)" && : "$${BAKE_TEST_REGISTRY:?is the place of a registry: docker run --detach --publish 127.0.0.1:5005:5000 registry:2.8.3, then make bench BAKE_TEST_REGISTRY=127.0.0.1:5005}" && for name in fetch rebake pull; do $(BIN)/python -m benchmarks.$$name --json build/bench/$$name.json || exit; done
	.venv-runtime/bin/python -m benchmarks.overhead --json build/bench/overhead.json

gpu-check: venv ## On a machine with an NVIDIA card: plain start against each trick (IMAGE=worker image, or WEBUI=FOLDER PYTHON=its interpreter HF_HOME=FOLDER)
	$(if $(IMAGE),$(BIN)/bake gpu-check $(IMAGE) $(CHECK_FLAGS),$(BIN)/python -m benchmarks.gpu.check --webui $(or $(WEBUI),$(error name a worker image, or the folder of webui.py: make gpu-check IMAGE=NAME)) --python $(if $(filter command line,$(origin PYTHON)),$(PYTHON),$(WEBUI)/venv/bin/python) $(if $(HF_HOME),--hf-home $(HF_HOME)) --make sd15 --json gpu-check.json $(CHECK_FLAGS))

schema: venv ## Write the JSON Schemas and the tables of the request's and operations' pages
	$(BIN)/bake schema > docs/manifest.schema.json
	$(BIN)/python docs/reference.py

hub: ## Write the published image's digest into .runpod/Dockerfile: make hub IMAGE=REPOSITORY@sha256:...
	@echo '$(IMAGE)' | grep -Eq '^[a-z0-9.:-]+/.+@sha256:[0-9a-f]{64}$$' || { echo 'give the image by digest: make hub IMAGE=REPOSITORY@sha256:...' >&2; exit 2; }
	sed -i 's#^FROM .*#FROM $(IMAGE)#' .runpod/Dockerfile

standins: venv ## Serve the stand-ins for CivitAI and Hugging Face until interrupted
	$(BIN)/python -m tests.standins

locks: venv ## Resolve the hashed locks again
	$(BIN)/uv pip compile --quiet --universal --python-version 3.10 --generate-hashes --no-emit-index-url --no-emit-find-links --no-header --extra dev --output-file requirements/dev.txt pyproject.toml requirements/build.in
	$(BIN)/uv pip compile --quiet --universal --python-version 3.10 --generate-hashes --no-emit-index-url --no-emit-find-links --no-header --extra dev --upgrade --output-file requirements/latest.txt pyproject.toml requirements/build.in
	$(BIN)/uv pip compile --quiet --universal --python-version 3.10 --generate-hashes --no-emit-index-url --no-emit-find-links --no-header --excludes requirements/runtime-left-out.txt --output-file requirements/runtime.txt requirements/runtime.in
	$(BIN)/uv pip compile --quiet --universal --python-version 3.10 --generate-hashes --no-emit-index-url --no-emit-find-links --no-header --output-file requirements/runtime-latest.txt requirements/runtime-latest.in
	$(BIN)/uv pip compile --quiet --universal --python-version 3.10 --generate-hashes --no-emit-index-url --no-emit-find-links --no-header --output-file requirements/swift.txt requirements/swift.in
	$(BIN)/uv pip compile --quiet --universal --python-version 3.10 --generate-hashes --no-emit-index-url --no-emit-find-links --no-header --output-file demo/requirements.txt demo/requirements.in
	$(BIN)/uv pip compile $(WEBUI_LOCK) --override requirements/webui-overrides.txt --output-file requirements/webui.txt requirements/webui.in
	$(BIN)/uv pip compile $(WEBUI_LOCK) --constraint requirements/webui.txt --output-file requirements/torch.txt requirements/torch.in

release: venv ## Build the artefacts of a release in dist/, and check them (docs/release.md)
	rm -rf dist
	$(BIN)/python -m build --no-isolation
	$(BIN)/twine check --strict dist/*
	demo/engine/start
	BAKE_TEST_DIST=dist $(BIN)/pytest tests/integration/test_package.py tests/integration/test_install.py

clean: ## Remove what can be made again
	demo/engine/stop
	rm -rf .venv .venv-latest .venv-runtime .venv-runtime-latest .venv-swift .engine build dist .mypy_cache .ruff_cache .pytest_cache
