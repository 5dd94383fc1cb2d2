# Every target first makes the environment (.venv) or finds it up to date. EXTRA=cpu or gpu overrules the look for an NVIDIA GPU.
PYTHON ?= python3
EXTRA ?= auto
ARGS ?=

.DEFAULT_GOAL := help
.PHONY: help env quickstart test check format

help: ## say what there is
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "make %-11s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

env: ## make .venv, or bring it up to date
	@$(PYTHON) -I cluster/environment.py --extra $(EXTRA) --dev

quickstart: env ## train the tiny model on this machine, from nothing to a result; ARGS="learner.max_steps=10"
	.venv/bin/rollcast train configs/quickstart.yaml $(ARGS)

test: env ## run the tests; ARGS="tests/learner -k loss"
	.venv/bin/python -m pytest -q --durations=15 $(ARGS)

check: env ## formatting, lint and types, without changing anything
	.venv/bin/ruff format --check .
	.venv/bin/ruff check .
	.venv/bin/pyright

format: env ## format, and fix what lint can fix
	.venv/bin/ruff check --fix .
	.venv/bin/ruff format .
