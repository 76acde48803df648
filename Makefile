# For maintainers; `make help` lists the targets. In a generated service, there is another Makefile.

PYTHON := .venv/bin/python
# Answers for `make bake`: ANSWERS="project_name='Price List' port=9000"
ANSWERS ?=
# For `make benchmark`: ARGS="--only starts" measures a part, ARGS=--help lists the rest, FULL=1 is for publishing.
ARGS ?=

.DEFAULT_GOAL := help
.PHONY: help check fix test newcomer mutants bake lock benchmark

help: ## List the targets
	@awk -F ':.*## ' '/^[a-z]+:.*## / {printf "%-12s%s\n", $$1, $$2}' $(MAKEFILE_LIST)

.venv/installed: tests/requirements.txt
	python3 -m venv .venv && $(PYTHON) -m pip install --quiet --requirement tests/requirements.txt
	touch $@

check: .venv/installed ## Run the linter, the formatter and the type checker, and change nothing
	$(PYTHON) -m ruff check
	$(PYTHON) -m ruff format --check
	$(PYTHON) -m mypy

fix: .venv/installed ## Format the code, repair findings of the linter, and write copier.yml
	$(PYTHON) -m ruff check --fix
	$(PYTHON) -m ruff format
	$(PYTHON) scripts/copier_support.py

test: .venv/installed ## Run the quick tests: ARGS="-m slow", ARGS=tests/template/test_hook.py
	$(PYTHON) -m pytest $(ARGS)

newcomer: ## Run the README's commands in containers with little but Python: ARGS=debian:trixie-slim
	python3 scripts/newcomer.py $(ARGS)

# cosmic-ray is not in the lock, because nothing else needs it and its many packages.
mutants: .venv/installed ## Break the code, and list the changes that no test notices (hours): ARGS="hook --sample 40"
	$(PYTHON) -m pip install --quiet cosmic-ray==8.7.0
	$(PYTHON) -m scripts.mutants $(ARGS)
	$(PYTHON) scripts/defects.py --without-docker

bake: .venv/installed ## Generate a service into ./build: ANSWERS="port=9000 database=none"
	$(PYTHON) -m cookiecutter . --no-input --overwrite-if-exists --output-dir build create_venv=no $(ANSWERS)

lock: .venv/installed ## Write the locks of the service and of the tests: ARGS=--upgrade takes the newest
	$(PYTHON) scripts/lock.py $(ARGS)

benchmark: .venv/installed ## Measure a service beside the guide's stack: ARGS=, FULL=1
	$(PYTHON) -m benchmarks $(ARGS)
