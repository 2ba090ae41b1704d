# `make` alone lists the targets. Every target makes .venv from requirements.txt when it is missing or stale.
.DEFAULT_GOAL := help
SHELL := /bin/bash
PYTHON ?= python3
BIN := .venv/bin
READY := .venv/ready
RUFF := $(BIN)/ruff --config lib/pyproject.toml

# Images of Python often forbid bytecode: each kernel of a night would compile the project anew.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: help nightly test soak lab check format sandbox ingest backfill rebuild repair validate reconcile find observe status doctor bench bench-increment bench-finder lock clean

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## /{printf "  make %-10s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

$(READY): requirements.txt lib/pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "Python 3.11 or newer is needed: install it, then say which one: make PYTHON=python3.12 …"; exit 2; }
	@echo "Setting up .venv (once; about a minute)"
	@test -x $(BIN)/python || $(PYTHON) -m venv .venv
	@$(BIN)/pip install --quiet --disable-pip-version-check --no-deps -r requirements.txt
	@touch $@

nightly: $(READY) ## ingest, build the KPIs, write the reports to runs/
	@$(BIN)/python -m stkpi.runner notebooks/nightly.yml

test: $(READY) ## what must hold, in less than five minutes, notebooks included
	@$(BIN)/python -m pytest -q -n 3 --dist loadfile --no-loadscope-reorder -m "not soak" tests

soak: $(READY) ## the long proofs: damages, kills, night after night, a night on BigQuery, a company of full size
	@$(BIN)/python -m pytest -q -n 2 -m soak tests

lab: $(READY) ## explore the notebooks in JupyterLab
	@$(BIN)/jupyter lab --notebook-dir=notebooks

check: $(READY) ## lint, format, notebooks without outputs
	@$(RUFF) check lib tests notebooks
	@$(RUFF) format --check lib tests notebooks
	@$(BIN)/nbstripout --keep-id --verify notebooks/*.ipynb

format: $(READY) ## mend what `make check` finds, where a machine can
	@$(RUFF) check --fix lib tests notebooks
	@$(RUFF) format lib tests notebooks
	@$(BIN)/nbstripout --keep-id notebooks/*.ipynb

sandbox: $(READY) ## serve a made-up company over the ServiceTitan API until interrupted
	@$(BIN)/python -m sandbox

ingest: $(READY) ## what changed since the last ingest; ENTITIES=jobs,invoices
	@$(BIN)/python -m stkpi ingest --entities "$(or $(ENTITIES),all)"

backfill: $(READY) ## one entity again; ENTITY=invoices FROM=2025-08-01 TO=2025-08-31 (both included)
	@$(BIN)/python -m stkpi backfill --entity "$(ENTITY)" --from "$(FROM)" --to "$(TO)"

rebuild: $(READY) ## all weeks of the KPIs anew, not only those that changed since the last night
	@$(BIN)/python -m stkpi rebuild

repair: $(READY) ## old invoices without a job: link them by evidence; FROM=2024-01-01 TO=2024-12-31 DRY=1 (all may be left out)
	@$(BIN)/python -m stkpi repair --from "$(FROM)" --to "$(TO)" $(if $(DRY),--dry-run)

validate: $(READY) ## every check of the warehouse, one line each, worst first
	@$(BIN)/python -m stkpi validate

reconcile: $(READY) ## why a ServiceTitan export differs; EXPORT=Leads.xlsx KPI= BU= FROM= TO= (all but the first may be left out)
	@$(BIN)/python -m stkpi reconcile --export "$(EXPORT)" --kpi "$(KPI)" --bu "$(BU)" --from "$(FROM)" --to "$(TO)"

find: $(READY) ## which definition gives the observed numbers; KPI=leads CARELESS=1 (some numbers may be off)
	@$(BIN)/python -m stkpi find --kpi "$(KPI)" $(if $(CARELESS),--careless)

observe: $(READY) ## note a number that ServiceTitan shows; KPI= BU= FROM= TO= VALUE= TOLERANCE= SOURCE= REPORT= BY= (from TOLERANCE on may be left out)
	@$(BIN)/python -m stkpi observe --kpi "$(KPI)" --bu "$(BU)" --from "$(FROM)" --to "$(TO)" '--value=$(value VALUE)' --tolerance "$(TOLERANCE)" --source "$(or $(SOURCE),screen)" --report "$(REPORT)" --by "$(BY)"

status: $(READY) ## per entity: last read, watermark, lag, rows in quarantine
	@$(BIN)/python -m stkpi status

doctor: $(READY) ## credentials, permissions, datasets, clock, disk: what is missing for a run, and how to get it
	@$(BIN)/python -m stkpi doctor

bench: $(READY) ## rows a second of the sandbox and of the ingest
	@$(BIN)/python tests/bench_sandbox.py

bench-increment: $(READY) ## bytes that a nightly increment of the KPIs reads on BigQuery, by changed weeks and years of history
	@$(BIN)/python tests/bench_increment.py

bench-finder: $(READY) ## how well and how fast the definition finder finds, on the tenant in the warehouse; BENCH_SEED=2
	@$(BIN)/python tests/bench_finder.py

lock: $(READY) ## renew the pins of requirements.txt from lib/pyproject.toml
	@{ echo "# Pinned by: make lock"; echo "-e ./lib"; $(BIN)/uv pip compile --quiet --upgrade --no-header --extra dev --python-version 3.11 lib/pyproject.toml; } > requirements.new
	@mv requirements.new requirements.txt

clean: ## remove .venv and caches; runs/ stays
	@rm -rf .venv .venv-bigquery* lib/*.egg-info lib/build .pytest_cache .ruff_cache .hypothesis
	@find lib tests -name __pycache__ -prune -exec rm -rf {} +
