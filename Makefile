# Every target first makes the environment (.venv), or finds it up to date. EXTRA=cpu or EXTRA=gpu overrules the search for an NVIDIA GPU.
PYTHON ?= python3
EXTRA ?= auto
ARGS ?=

.DEFAULT_GOAL := help
.PHONY: help env quickstart test chaos check format

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "make %-11s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

env: ## make .venv, or bring it up to date; EXTRA=cpu or EXTRA=gpu chooses the build
	@$(PYTHON) -I cluster/environment.py --extra $(EXTRA) --dev

quickstart: env ## train a tiny model on this machine in a few minutes; ARGS="learner.max_steps=10" changes a setting
	.venv/bin/rollcast train configs/quickstart.yaml $(ARGS)

test: env ## run every test; ARGS="tests/learner -k loss" runs some
	.venv/bin/python -m pytest -q --durations=15 $(ARGS)

chaos: env ## strike a run with random faults for MINUTES=10, in the order that SEED=0 gives
	.venv/bin/python -m tests.faults.chaos --minutes $(or $(MINUTES),10) --seed $(or $(SEED),0)

check: env ## check format, lint and types; change nothing
	.venv/bin/ruff format --check .
	.venv/bin/ruff check .
	.venv/bin/pyright

format: env ## format the code, and fix what lint can fix
	.venv/bin/ruff check --fix .
	.venv/bin/ruff format .
