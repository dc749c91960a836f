# The only door: `make` lists what it does. Every target makes the environment it needs.

PYTHON ?= python3
VENV ?= .venv
ARGS ?=
# The last one counts: `make test ARGS="-n 0"` runs everything in one process, where a debugger can stop.
SIDE_BY_SIDE := -n logical --dist worksteal

ON_PRISM := tests/transforms/test_beam_contract.py tests/transforms/test_beam_rank_contract.py \
	tests/transforms/test_beam_search.py tests/transforms/test_beam_existing.py

BIN := $(VENV)/bin
INSTALLED := $(VENV)/.clipmill-installed
JAVA := $(if $(JAVA_HOME),$(JAVA_HOME)/bin/java,java)
JAVA_LINE := Spark needs Java 17 or newer, and '$(JAVA)' is not: install it (Debian: apt install openjdk-17-jre-headless) or set JAVA_HOME
BROWSER_LINE := the tests in a browser need chromium and its driver: install them (Debian: apt install chromium chromium-driver)
# uv installs three times as fast; pip, which knows the indexes and proxies that pip is told of, is there where uv fails.
PIP = $(BIN)/python -m pip --disable-pip-version-check -qq
HAS_JAVA = [ "$$($(JAVA) -version 2>&1 | sed -n 's/.*version "\([0-9]*\).*/\1/p' | head -n 1)" -ge 17 ] 2>/dev/null

SHELL := bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
# Checks stand before installing in a target's prerequisites, and that order is meant.
.NOTPARALLEL:

# Spark starts its workers with the `python3` that it finds in PATH, not with the one that runs the driver.
export PYSPARK_PYTHON := $(abspath $(BIN)/python)
export PYSPARK_DRIVER_PYTHON := $(PYSPARK_PYTHON)

.PHONY: help
help: ## Show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-20s %s\n", $$1, $$2}' Makefile
	@echo "  ARGS=… is handed on (test, test-beam, test-browser, bench, soak, fuzz, mutants), PYTHON=… names the Python to build $(VENV) with."

.PHONY: java
java:
	@$(HAS_JAVA) || { echo "$(JAVA_LINE); 'make test-beam' runs without" >&2; exit 1; }

.PHONY: java-or-say
java-or-say:
	@$(HAS_JAVA) || echo "$(JAVA_LINE); going on with Beam alone" >&2

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || { echo "clipmill needs Python 3.11 or newer, and '$(PYTHON)' is not: install one, or name it: PYTHON=python3.11" >&2; exit 1; }
	@$(PYTHON) -m venv $(VENV) || { rm -f $@; exit 1; }

$(INSTALLED): pyproject.toml setup.py | $(BIN)/python
	@echo "installing clipmill and what it needs into $(VENV) (torch is large: minutes the first time)"
	@$(PIP) install uv
	@$(BIN)/uv pip install --quiet --python $(BIN)/python --editable '.[dev]' || $(PIP) install --editable '.[dev]'
	@touch $@

.PHONY: setup
setup: $(INSTALLED) ## Make .venv and install clipmill into it, editable, with all that the other targets need

.PHONY: demo
demo: java-or-say $(INSTALLED) ## Embed a few photographs and captions with Beam and with Spark, offline
	@$(BIN)/python -m clipmill.pipelines.demo

.PHONY: test
test: java $(INSTALLED) ## Run all tests but those in a browser (Java 17 or newer), in a process for each core
	@$(BIN)/pytest $(SIDE_BY_SIDE) -m "not browser and not connect_only and not cluster" $(ARGS)
	@echo "left out: tests in a browser ('make test-browser') and long runs ('make soak')"
	@$(if $(findstring tests/,$(ARGS)),echo "left out: 'make test-connect' and 'make test-cluster'",$(MAKE) --no-print-directory test-connect test-cluster ARGS=)

.PHONY: test-connect
test-connect: java $(INSTALLED) ## Run on Spark Connect what holds there, in one process (its server has one port); `make test` does at its end
	@CLIPMILL_TEST_SPARK_CONNECT=1 $(BIN)/pytest -m "connect or connect_only" tests/udfs $(ARGS)

.PHONY: test-cluster
test-cluster: java $(INSTALLED) ## Run the tests on a standalone cluster of Spark, which they start; `make test` does at its end
	@$(BIN)/pytest -m cluster tests/pipelines $(ARGS)

.PHONY: test-beam
test-beam: $(INSTALLED) ## Run the tests that need no Java
	@$(BIN)/pytest $(SIDE_BY_SIDE) -m "not spark and not browser and not connect_only and not cluster" $(ARGS)

.PHONY: prism
prism: $(INSTALLED) ## Build Prism, Beam's portable runner, with Go, and keep it for tests (4 minutes the first time)
	@$(BIN)/python tests/support/prism.py

.PHONY: test-prism
test-prism: prism ## Run the tests of transforms that hold on every runner on Prism
	@$(BIN)/python tests/support/prism.py $(BIN)/pytest $(SIDE_BY_SIDE) $(ON_PRISM) $(ARGS)

.PHONY: soak
soak: java $(INSTALLED) ## Long runs with a seed: kills, hard rows, damaged inputs; goes on where it stopped (hours)
	@$(BIN)/python tools/soak.py $(ARGS)

.PHONY: fuzz
fuzz: $(INSTALLED) copy ## Coverage-guided fuzzing of everything that reads what others wrote (half an hour)
	@PYTHONPATH=build/copy $(BIN)/python tools/fuzz.py $(ARGS)

.PHONY: mutants
mutants: java $(INSTALLED) ## Small changes of the code, one at a time: do the tests of their room notice? (an hour)
	@$(BIN)/python tools/mutants.py $(ARGS)

.PHONY: test-versions
test-versions: java $(INSTALLED) ## Run contract suites and tests of each room with the oldest and newest packages (hours; docs/versions.md)
	@$(BIN)/python tools/versions.py $(ARGS)

.PHONY: browser
browser:
	@command -v chromium >/dev/null && command -v chromedriver >/dev/null || { echo "$(BROWSER_LINE)" >&2; exit 1; }

.PHONY: test-browser
test-browser: browser $(INSTALLED) ## Run the tests that look at pages in a headless chromium
	@$(BIN)/pytest -m browser $(ARGS)

.PHONY: check
check: lint typecheck test ## Run lint, typecheck and test

# A copy, since what reads the package as a whole doesn't follow the import hook of an editable install.
.PHONY: copy
copy: $(INSTALLED)
	@rm -rf build/copy
	@$(BIN)/python setup.py --quiet build_py --build-lib build/copy

.PHONY: lint
lint: $(INSTALLED) copy ## Check format, style, and that rooms import only from those below them
	@$(BIN)/ruff format --check .
	@$(BIN)/ruff check .
	@PYTHONPATH=build/copy $(BIN)/lint-imports --no-logo --no-cache

# The sed gives back the real paths.
.PHONY: typecheck
typecheck: $(INSTALLED) copy ## Check types, on a built copy
	@MYPYPATH=build/copy $(BIN)/mypy --config-file pyproject.toml -p clipmill \
		| sed -E 's#^build/copy/clipmill/(pipelines|transforms|udfs)/#\1/#; s#^build/copy/#src/#'

.PHONY: bench
bench: $(INSTALLED) ## Run the benchmarks
	@$(BIN)/python benchmarks/run.py $(ARGS)

.PHONY: docs
docs: $(INSTALLED) ## Build the site of docs/ into build/docs, which opens offline: broken links and references fail
	@rm -rf build/docs
	@$(BIN)/sphinx-build --quiet --fail-on-warning --keep-going -b html docs build/docs
	@echo "open build/docs/index.html in a browser"

.PHONY: parity
parity: $(INSTALLED) ## Compare every model with its reference in every runtime; writes docs/parity.md (hours on 2 cores)
	@$(BIN)/python tools/parity.py $(ARGS)

.PHONY: dist
dist: $(INSTALLED) ## Build the sdist, and the wheel from it, into dist/
	@rm -rf dist
	@$(BIN)/python -m build --quiet --outdir dist
	@ls dist/*

.PHONY: test-installed
test-installed: dist ## Install the wheel into a fresh environment and use it from elsewhere
	@$(BIN)/python tools/test_installed.py dist/*.whl

.PHONY: test-clip-retrieval
test-clip-retrieval: $(INSTALLED) ## Let clip-retrieval's own code read its layout (installs it: some 6 GB under build/)
	@$(BIN)/python tools/test_clip_retrieval.py $(ARGS)

.PHONY: clean
clean: ## Remove what was built and cached; .venv stays
	@rm -rf build dist *.egg-info demo-output parity-output .pytest_cache .mypy_cache .ruff_cache
	@find . -name __pycache__ -type d -not -path './$(VENV)/*' -prune -exec rm -rf {} +
