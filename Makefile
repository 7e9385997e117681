# Every target starts from a bare clone: Python 3.11, make and a shell are enough.
PYTHON := .venv/bin/python
BIN := .venv/bin
SOURCES := manage.py smartcomm customers events segments messaging campaigns tests benchmarks

# Where the tests' servers keep their data, which no test and no check lets into .data.
TEST_DATA := $(or $(SMARTCOMM_DATA),.data)/test

.DEFAULT_GOAL := help
.PHONY: help setup run test lint format check chaos lock

help:  ## Show what there is
	@grep -hE '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 12

setup:  ## Make .venv from requirements.lock, if anything changed
	@bin/setup

run: setup  ## Start everything; PORT, SMARTCOMM_DATA, DEMO=small|full|none and others
	@exec $(PYTHON) -m smartcomm.stack --end-with-parent

test: setup  ## Run the tests; choose with ARGS="-k words", "-m 'not browser'"
	@$(PYTHON) -m pytest $(ARGS)

lint: setup  ## Check style, layers, types, settings and migrations
	$(BIN)/ruff format --check $(SOURCES)
	$(BIN)/ruff check $(SOURCES)
	$(BIN)/lint-imports
	$(BIN)/mypy
	HTTPS=on $(PYTHON) manage.py check --deploy --fail-level WARNING
	SMARTCOMM_DATA=$(TEST_DATA) $(PYTHON) manage.py makemigrations --check --dry-run

format: setup  ## Write the code as the linter wants it
	$(BIN)/ruff format $(SOURCES)
	$(BIN)/ruff check --fix $(SOURCES)

check: lint test  ## Lint, then test

chaos: setup  ## Kill everything while events come in, and count; ARGS="--events 100000"
	@$(PYTHON) -m tests.chaos.storm $(ARGS)

lock: setup  ## Renew requirements.lock from pyproject.toml
	$(BIN)/uv pip compile --quiet --universal --python-version 3.11 --extra dev \
		--generate-hashes --no-emit-index-url --no-emit-find-links --upgrade \
		--custom-compile-command "make lock" --output-file requirements.lock pyproject.toml
