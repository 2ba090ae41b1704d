"""README_AUDIT.md is true: what it names exists, and its commands read each day once."""

import json
import re
import subprocess
from datetime import date, timedelta
from itertools import pairwise
from pathlib import Path

import pytest

from stkpi.errors import UserError
from stkpi.ingest import load
from stkpi.ingest import run as ingest
from stkpi.kpis import document
from stkpi.kpis.definition import choose_definitions
from stkpi.servicetitan.entities import ENTITIES
from stkpi.validation import checks

ROOT = Path(__file__).parents[1]
AUDIT = (ROOT / "README_AUDIT.md").read_text()
SPEC = json.loads((ROOT / "tests" / "data" / "openapi.json").read_text())
BLOCKS = re.findall(r"```sh\n(.*?)```", AUDIT, re.DOTALL)


def test_every_test_and_file_that_it_names_exists():
    named = re.findall(r"`(test_\w+)::(test_\w+)`", AUDIT)
    assert len(named) == AUDIT.count("::") - 1  # the other one explains the form
    missing = [name for file, name in named if f"\ndef {name}(" not in (ROOT / "tests" / f"{file}.py").read_text()]
    assert missing == []
    files = re.findall(r"`((?:lib|sql|expectations|\.ci)/[\w./]*)`", AUDIT)
    assert len(files) >= 6
    assert [name for name in files if not (ROOT / name).exists()] == []


def test_every_check_and_command_that_it_names_exists():
    makefile = (ROOT / "Makefile").read_text()
    targets = set(re.findall(r"\bmake (\w+)", AUDIT))
    assert targets >= {"backfill", "repair", "validate", "nightly"}
    assert [name for name in targets if f"\n{name}: " not in makefile] == []
    assert {"ar_equals_balances", "unmapped_units"} <= checks.read_thresholds().checks.keys()


# --- the table of decisions -------------------------------------------------------------------------------------------


def test_the_decisions_are_those_of_the_catalog():
    current = document.update_document(AUDIT, choose_definitions({}))
    assert current == AUDIT, "README_AUDIT.md is stale: run .venv/bin/python -m stkpi.kpis.document"


def test_a_decision_says_by_what_a_kpi_is_counted_and_why():
    table = document.decisions_table(choose_definitions({})).splitlines()
    assert table[0] == "| KPI | counted by | why so, and not otherwise |"
    (leads,) = (line for line in table if line.startswith("| Leads |"))
    assert "the day the job was booked; distinct customers" in leads
    assert "test customers left out" in leads
    assert "96" in leads
    assert sum("**Open:**" in line for line in table) == 3


def test_an_adopted_definition_is_named_beside_the_default():
    (leads,) = (
        line
        for line in document.decisions_table(choose_definitions({"leads": {"status": "completed"}})).splitlines()
        if line.startswith("| Leads |")
    )
    assert "Adopted by the company: status completed" in leads


def test_only_what_stands_between_the_markers_is_replaced(tmp_path):
    page = tmp_path / "page.md"
    page.write_text(f"# Mine\n\n{document.BEGIN}\nstale\n{document.END}\n\nAfter.\n")
    document.write_document(page)
    assert page.read_text().startswith(f"# Mine\n\n{document.BEGIN}\n\n| KPI |")
    assert page.read_text().endswith(f"{document.END}\n\nAfter.\n")
    assert "stale" not in page.read_text()
    page.write_text("no markers")
    with pytest.raises(UserError, match=document.BEGIN):
        document.write_document(page)


# --- its commands -----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def windows(tmp_path_factory) -> dict[str, list[tuple[date, date]]]:
    """The days of each entity that the page's commands hand to `make backfill`, in their order."""
    folder = tmp_path_factory.mktemp("commands")
    make = folder / "make"
    make.write_text('#!/bin/sh\necho "$@"\n')
    make.chmod(0o755)
    found: dict[str, list[tuple[date, date]]] = {}
    for block in (block for block in BLOCKS if "make backfill" in block):
        script = f'PATH="{folder}:$PATH"\n{block}'
        said = subprocess.run(["sh", "-e", "-c", script], capture_output=True, text=True, check=True).stdout
        for line in said.splitlines():
            entity, first, last = re.fullmatch(r"backfill ENTITY=(\w+) FROM=(\S+) TO=(\S+)", line).groups()
            found.setdefault(entity, []).append((date.fromisoformat(first), date.fromisoformat(last)))
    return found


def test_the_commands_read_each_day_once(windows):
    assert {entity: len(days) for entity, days in windows.items()} == {"invoices": 4, "payroll": 12}
    for days in windows.values():
        assert (days[0][0], days[-1][1]) == (date(2025, 1, 1), date(2025, 12, 31))
        for (_, last), (first, _) in pairwise(days):
            assert first == last + timedelta(days=1)


@pytest.mark.parametrize("entity", ["invoices", "payroll"])
def test_the_third_command_reads_its_days_and_doubles_nothing(healthy, windows, entity):
    first, last = windows[entity][2]
    report = ingest.run_ingest(entity, "window", first.isoformat(), last.isoformat())
    assert report.status == "ok"
    assert report.entities[0].fetched > 0
    assert report.entities[0].changed == 0


# --- defects that no other test holds ---------------------------------------------------------------------------------


@pytest.mark.parametrize("entity", ENTITIES.values(), ids=lambda entity: entity.name)
def test_every_list_is_asked_for_inactive_records(entity):
    published = {parameter["name"] for parameter in SPEC["paths"][f"/{entity.path}"]["get"]["parameters"]}
    hidden = {name: value for name, value in (("active", "Any"), ("activeState", "All")) if name in published}
    assert dict(entity.everything) == hidden


@pytest.mark.parametrize("entity", ENTITIES.values(), ids=lambda entity: entity.name)
def test_raw_tables_are_partitioned_on_a_date_that_never_changes(entity):
    assert load.define_raw_table(entity).partition == "TIMESTAMP_TRUNC(createdOn, MONTH)"
