# `make` alone lists the targets. Every target creates .venv from requirements.txt when it is missing or out of date.
.DEFAULT_GOAL := help
SHELL := /bin/bash
PYTHON ?= python3
BIN := .venv/bin
READY := .venv/ready
RUFF := $(BIN)/ruff --config lib/pyproject.toml

# Python images often turn bytecode off. Then each kernel of a night would compile the whole project again.
unexport PYTHONDONTWRITEBYTECODE

# What a person types reaches the program as it was typed: quotes, $ and backticks of a unit's name are no code. Recipes
# read it from the environment.
TYPED := ENTITIES ENTITY FROM TO TABLE OLD EXPORT KPI BU VALUE TOLERANCE SOURCE REPORT BY DEFINITION LINK
$(foreach name,$(filter $(TYPED),$(.VARIABLES)),$(eval override export $(name) := $$(value $(name))))

.PHONY: help nightly test soak mutants lab check format sandbox setup ingest backfill rebuild repair takeover validate reconcile observe find adopt sql status doctor heartbeat week verify audit bench bench-ingest bench-increment bench-finder lock clean

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## /{printf "  make %-15s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

$(READY): requirements.txt lib/pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "Python 3.11 or newer is needed. Install it, then name it: make PYTHON=python3.12 nightly"; exit 2; }
	@echo "Setting up .venv (once; about a minute)"
	@test -x $(BIN)/python || $(PYTHON) -m venv .venv
	@$(BIN)/pip install --quiet --disable-pip-version-check --no-deps -r requirements.txt
	@touch $@

nightly: $(READY) ## read ServiceTitan, build the KPIs, check them, write the reports to runs/
	@$(BIN)/python -m stkpi.runner notebooks/nightly.yml

test: $(READY) ## every behavior, notebooks included; 10 to 15 minutes on two cores
	@$(BIN)/python -m pytest -q -n 3 --dist loadfile --no-loadscope-reorder -m "not soak" tests

soak: $(READY) ## the long tests: damaged tables, killed runs, many nights, BigQuery, a full-size company
	@$(BIN)/python -m pytest -q -n 2 -m soak tests

mutants: $(READY) ## change the code in small places, one at a time: do the tests notice? MUTANTS=150 (how many), half an hour
	@$(BIN)/python tests/mutants.py

lab: $(READY) ## open the notebooks in JupyterLab
	@$(BIN)/python -m stkpi lab

check: $(READY) ## lint, format, types, notebooks without outputs
	@$(RUFF) check lib tests notebooks
	@$(RUFF) format --check lib tests notebooks
	@$(BIN)/nbstripout --keep-id --verify notebooks/*.ipynb
	@$(BIN)/mypy --config-file lib/pyproject.toml

format: $(READY) ## fix what `make check` finds, where a machine can
	@$(RUFF) check --fix lib tests notebooks
	@$(RUFF) format lib tests notebooks
	@$(BIN)/nbstripout --keep-id notebooks/*.ipynb

sandbox: $(READY) ## serve a made-up company over the ServiceTitan API until you press Ctrl-C
	@$(BIN)/python -m sandbox

setup: $(READY) ## write or complete the company folder, as guesses from what ServiceTitan says, and list them
	@$(BIN)/python -m stkpi setup

ingest: $(READY) ## read what changed since the last ingest; ENTITIES=jobs,invoices
	@$(BIN)/python -m stkpi ingest --entities "$${ENTITIES:-all}"

backfill: $(READY) ## read one entity again; ENTITY=invoices FROM=2025-08-01 TO=2025-08-31 (both days included)
	@$(BIN)/python -m stkpi backfill --entity "$$ENTITY" --from "$$FROM" --to "$$TO"

rebuild: $(READY) ## recompute every week of the KPIs, not only the weeks that changed
	@$(BIN)/python -m stkpi rebuild

repair: $(READY) ## link old invoices to their jobs by evidence; FROM=2024-01-01 TO=2024-12-31 DRY=1 (all optional); TABLE=st_raw_v2.raw_invoices of another program: only shown without APPLY=1
	@$(BIN)/python -m stkpi repair --from "$$FROM" --to "$$TO" $(if $(DRY),--dry-run) --table "$$TABLE" $(if $(APPLY),--apply)

takeover: $(READY) ## what only the tables of an older pipeline have, and its views as text, in runs/takeover; OLD=st_{}_v2
	@$(BIN)/python -m stkpi takeover --old "$${OLD:-st_{\}_v2}"

validate: $(READY) ## run every check of the warehouse, one line each, worst first
	@$(BIN)/python -m stkpi validate

reconcile: $(READY) ## why a ServiceTitan export differs, row by row; EXPORT=Leads.xlsx, or empty: the saved report of company.yml; KPI= BU= FROM= TO= (optional)
	@# "They differ" (1) is an answer. make calls every other code but 0 an error, and has no third outcome to pass on.
	@$(BIN)/python -m stkpi reconcile --export "$$EXPORT" --kpi "$$KPI" --bu "$$BU" --from "$$FROM" --to "$$TO" || test $$? -eq 1

observe: $(READY) ## note a number that ServiceTitan shows; KPI=leads BU="North Sales" FROM=8/18/25 TO=8/24/25 VALUE=96 TOLERANCE= SOURCE= REPORT= BY= (optional from TOLERANCE on); UNDO=1 takes the last one back
	@$(BIN)/python -m stkpi observe --kpi "$$KPI" --bu "$$BU" --from "$$FROM" --to "$$TO" "--value=$$VALUE" --tolerance "$$TOLERANCE" --source "$${SOURCE:-screen}" --report "$$REPORT" --by "$$BY" $(if $(UNDO),--undo)

find: $(READY) ## which definition gives the noted numbers, and which number to read next; KPI=leads CARELESS=1 (some numbers may be off)
	@$(BIN)/python -m stkpi find --kpi "$$KPI" $(if $(CARELESS),--careless)

adopt: $(READY) ## count a KPI by the definition that was found; KPI=leads DEFINITION="status=completed" (optional); UNDO=1 goes back
	@$(BIN)/python -m stkpi adopt --kpi "$$KPI" --definition "$$DEFINITION" $(if $(UNDO),--undo)

sql: $(READY) ## print the SQL of a KPI's definition; KPI=leads DEFINITION="status=completed" (optional)
	@$(BIN)/python -m stkpi sql --kpi "$$KPI" --definition "$$DEFINITION"

status: $(READY) ## per entity: last read, watermark, lag, rows in quarantine
	@$(BIN)/python -m stkpi status

doctor: $(READY) ## what is missing for a run (credentials, permissions, datasets, clock, disk), and how to get it
	@$(BIN)/python -m stkpi doctor

heartbeat: $(READY) ## has a night begun within the last 26 hours? For a schedule of its own, which says so if none has
	@$(BIN)/python -m stkpi heartbeat

week: $(READY) ## the newest week as text; mailed if MAIL_TO is set, posted if SLACK_WEBHOOK is. LINK= to the page (optional)
	@$(BIN)/python -m stkpi.runs.alerts --weekly --link "$$LINK"

verify: $(READY) ## read every row of the warehouse file: is it whole? SET_ASIDE=1 renames it if it is not
	@$(BIN)/python -m stkpi verify $(if $(SET_ASIDE),--set-aside)

audit: $(READY) ## known security holes of the packages in use, and their licenses
	@$(BIN)/python tests/audit.py

bench: $(READY) ## measure rows per second of the sandbox and the ingest
	@$(BIN)/python tests/bench_sandbox.py

bench-ingest: $(READY) ## measure how fast everything is, beside other ways to read, half an hour; BENCH_ONLY=ours,bare,c BENCH_ROUNDS=1 BENCH_SCALE=0.1
	@$(BIN)/python tests/bench_ingest.py

bench-increment: $(READY) ## measure what a night reads on BigQuery, by changed weeks and years of history
	@$(BIN)/python tests/bench_increment.py

bench-finder: $(READY) ## measure how well and how fast definitions are found; BENCH_SEED=2
	@$(BIN)/python tests/bench_finder.py

lock: $(READY) ## update the pins in requirements.txt from lib/pyproject.toml
	@{ echo "# Pinned by: make lock"; echo "-e ./lib"; $(BIN)/uv pip compile --quiet --upgrade --no-header --extra dev --python-version 3.11 lib/pyproject.toml; } > requirements.new
	@mv requirements.new requirements.txt

clean: ## remove .venv and caches; runs/ and company/ stay
	@rm -rf .venv .venv-bench .venv-bigquery* lib/*.egg-info lib/build .mypy_cache .pytest_cache .ruff_cache .hypothesis
	@find lib tests -name __pycache__ -prune -exec rm -rf {} +
