# Everything here builds .venv itself when it is missing or older than the project's metadata.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready

.PHONY: help setup train test test-all quick lint docs bench trust figures clean
.DEFAULT_GOAL := help

help: ## list the targets
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "make %-10s %s\n", $$1, $$2}'

$(READY): setup.cfg pyproject.toml setup.py $(wildcard coopsgd/host/*.[ch])
	@$(PYTHON) -c 'import sys; sys.exit("coopsgd needs Python 3.10 or newer, " + sys.version.split()[0] + " is $(PYTHON); make PYTHON=python3.11 ..." if sys.version_info < (3, 10) else 0)'
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[dev]'
	$(BIN)/python -m compileall -q coopsgd  # an editable package is not; where PYTHONDONTWRITEBYTECODE is set, no command would
	@touch $(READY)

setup: $(READY) ## build .venv with everything (nothing to do when it is current)

train: $(READY) ## the main job: EASGD, tau=10, 4 workers, on real data
	$(BIN)/coopsgd train algo=easgd tau=10 workers=4

# several tests at a time, one more than there are cores: many wait for what they started
TESTS := $(BIN)/python -m pytest -n $$($(BIN)/python -c 'import os; print(min(4, os.cpu_count() + 1))') --dist worksteal

test: $(READY) ## the tests
	$(TESTS)

test-all: $(READY) ## the tests, the slow ones too
	$(TESTS) -m 'slow or not slow'

# what a small change breaks first: a file or two of each room
QUICK := test_docs test_package commands/test_verbs run/test_schema run/test_formats run/test_board predict/test_large_theory predict/test_foresight loop/test_delay setup/test_exact setup/test_parts tasks/test_engines data/test_data strategies/test_written mixing/test_mixing mixing/test_matrix fleet/test_plan fleet/test_later host/test_sizes test_readme

quick: $(READY) ## the tests that matter for a small change, under a minute
	$(BIN)/python -m pytest -n 2 --dist loadfile $(QUICK:%=tests/%.py) -k 'not every_yaml and not what_fits'

lint: $(READY) ## format check, ruff, mypy
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

docs: $(READY) ## the pages of docs/ as a site, in build/site; what reads it needs no network
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[dev,docs]'
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet
	@echo 'build/site/index.html; with its search: $(BIN)/python -m http.server -d build/site'

bench: $(READY) ## every promise of speed beside its target and its peers (under 8 minutes on 2 quiet cores; 1 if one is missed)
	$(BIN)/python scripts/bench.py

trust: $(READY) ## docs/trust.md anew: coopsgd beside public implementations, and laws on random configs (half an hour)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[dev,peers]'
	$(BIN)/python scripts/trust.py -o docs/trust.md

figures: $(READY) ## the sweeps of docs/results.md and their pictures anew (21 minutes on 2 busy cores)
	scripts/figures.sh

clean: ## remove .venv, caches and builds; runs stay
	rm -rf $(VENV) build dist *.egg-info coopsgd/host/_native* .pytest_cache .mypy_cache .ruff_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
