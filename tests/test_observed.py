"""The ledger of observed numbers: its file, its nightly check, what the Reporting API adds, its commands and page."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from datetime import date, timedelta
from decimal import Decimal
from pathlib import Path

import pandas as pd
import pytest

from stkpi import __main__, company, warehouse
from stkpi.errors import UserError
from stkpi.kpis.catalog import read_catalog
from stkpi.kpis.definition import choose_definitions
from stkpi.marts import build as marts
from stkpi.reconcile import exports
from stkpi.reconcile.compare import compare
from stkpi.reconcile.observations import fetch, outcomes
from stkpi.reconcile.observations import ledger as observed
from stkpi.reconcile.observations import report as night
from stkpi.reconcile.observations.ledger import Observation
from stkpi.runs import runner
from stkpi.servicetitan.reports import Description

MONDAY, SUNDAY = date(2025, 8, 18), date(2025, 8, 24)
REPORT = "report:business-unit-dashboard/1002"
HEADER = ",".join(observed.COLUMNS)
KNOWN = Observation(
    "leads-1", "leads", "Phoenix-Sales", MONDAY, SUNDAY, Decimal(96), Decimal(0), "export file", "Leads", "owner",
    date(2025, 9, 5), "open",
)  # fmt: skip


@pytest.fixture
def ledger(tmp_path, monkeypatch) -> Path:
    """A ledger with the known case, in the place of the owner's."""
    folder = Path(shutil.copytree(company.SANDBOX_PRESET, tmp_path / "company"))
    file = folder / "observed.csv"
    file.write_text(f"{HEADER}\n{','.join(observed.to_row(KNOWN).values())}\n")
    monkeypatch.setenv("COMPANY", str(folder))
    return file


def add(file: Path, **changes: object) -> None:
    """Write one more row, the known case with changes."""
    with file.open("a") as rows:
        rows.write(",".join(observed.to_row(replace(KNOWN, **changes)).values()) + "\n")


# --- the file ---------------------------------------------------------------------------------------------------------


def test_the_project_s_own_ledger_begins_with_the_known_case():
    rows = observed.read_ledger()
    assert replace(rows[0], status="open", note="") == KNOWN
    assert {(str(one.value), one.status) for one in rows if one.kpi == "leads" and one.first_day == MONDAY} == {
        ("96", "matched"), ("31", "open"), ("124", "open"), ("111", "open")
    }  # fmt: skip


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"kpi": "lead"}, "line 2: There is no KPI lead; did you mean leads"),
        ({"unit": ""}, "line 2: BU is missing"),
        ({"last_day": "2025-08-17"}, "line 2: FROM 2025-08-18 is after TO 2025-08-17: swap the dates"),
        ({"first_day": "18.8.2025"}, "line 2: FROM=18.8.2025 is not a day"),
        ({"value": "about 96"}, "line 2: VALUE=about 96 is not a number"),
        ({"value": "NaN"}, "line 2: VALUE=NaN is not a number"),
        ({"value": "96.5"}, "line 2: VALUE=96.5 is not a count"),
        ({"kpi": "gpm", "value": "39.74"}, "line 2: VALUE=39.74 is not a rate"),
        ({"tolerance": "-1"}, "line 2: TOLERANCE=-1 is below zero"),
        ({"source": "fax"}, "line 2: source fax is none of api report, export file, screen, said"),
        ({"status": "done"}, "line 2: status done is none of open, matched, explained, superseded"),
        ({"read_on": ""}, "line 2: read_on= is not a day"),
        ({"note": "a,b"}, "line 2: it has more values than columns"),
    ],
)
def test_a_row_that_does_not_hold_together_is_refused_with_its_line(tmp_path, changes, complaint):
    file = tmp_path / "observed.csv"
    file.write_text(f"{HEADER}\n{','.join((observed.to_row(KNOWN) | changes).values())}\n")
    with pytest.raises(UserError, match=f"observed.csv, {complaint}"):
        observed.read_ledger(file)


def test_two_rows_of_one_id_and_other_columns_are_refused(ledger):
    add(ledger)
    with pytest.raises(UserError, match=r"observed.csv, line 3: the id leads-1 appears twice\.$"):
        observed.read_ledger()
    ledger.write_text("id,kpi\nleads-1,leads\n")
    with pytest.raises(UserError, match=r"observed\.csv has no column unit"):
        observed.read_ledger()


@pytest.mark.parametrize(
    ("kpi", "text", "value", "tolerance"),
    [
        ("leads", "1,096", "1096", "0"),
        ("success_rate", "39.74%", "0.3974", "0.00005"),
        ("gpm", "-0.688", "-0.688", "0.0005"),
        ("total_booked", "$170,166.61", "170166.61", "0.005"),
        ("total_booked", "$170,167", "170167", "0.5"),
    ],
)
def test_a_number_is_added_as_it_is_shown_to_half_of_its_last_digit(ledger, kpi, text, value, tolerance):
    row = {"kpi": kpi, "unit": "Phoenix-Sales", "first_day": "2025-08-18", "last_day": "2025-08-24", "value": text}
    one = observed.append_observation(
        row | {"source": "screen", "report": "Daily WBR, all units", "read_on": "2025-09-05"}
    )
    assert (one.value, one.tolerance) == (Decimal(value), Decimal(tolerance))
    assert one.id == f"{kpi}-{2 if kpi == 'leads' else 1}"
    assert observed.read_ledger()[1] == one
    with pytest.raises(UserError, match=f"{one.id} says the same already"):
        observed.append_observation(
            row | {"source": "screen", "report": "Daily WBR, all units", "read_on": "2025-09-06"}
        )


# --- what our facts give ----------------------------------------------------------------------------------------------


def test_every_kpi_of_every_unit_and_week_equals_the_weekly_table(healthy):
    with warehouse.connect() as target:
        weeks = target.query(
            "SELECT * FROM st_mart_v2.kpi_weekly_by_bu WHERE week_start IN ('2025-08-18', '2025-01-06')"
        )
        expected = {}
        rows = []
        for week in weeks.to_dict("records"):
            for kpi, entry in read_catalog().items():
                if week["division"] in entry.divisions:
                    first = week["week_start"]
                    key = f"{kpi} {week['business_unit']} {first}"
                    days = {"first_day": first, "last_day": first + timedelta(days=6)}
                    rows.append(replace(KNOWN, id=key, kpi=kpi, unit=week["business_unit"], **days))
                    expected[key] = None if pd.isna(week[kpi]) else Decimal(str(week[kpi]))
        assert len(rows) == 2 * (6 * 11 + 11)  # six pairs of units, and one that is both
        given = outcomes.compute_numbers(target, rows, choose_definitions({}))
    assert given == expected


def test_days_that_are_no_week_are_counted_anew_and_never_summed(healthy):
    """97 customers summed over the days of the known week are 96 customers: one came on two days."""
    days = [replace(KNOWN, id=str(n), first_day=day, last_day=day) for n in range(7) for day in [MONDAY + timedelta(n)]]
    two = replace(KNOWN, id="two", last_day=MONDAY + timedelta(1))
    both_years = replace(KNOWN, id="years", first_day=date(2024, 8, 18))
    with warehouse.connect() as target:
        given = outcomes.compute_numbers(target, [KNOWN, *days, two, both_years], choose_definitions({}))
    assert given["leads-1"] == 96
    assert sum(given[str(n)] for n in range(7)) == 97
    assert given["two"] == given["0"] + given["1"] - 1
    assert given["years"] >= 96 + 124


# --- the night --------------------------------------------------------------------------------------------------------


def test_the_project_s_own_ledger_matches_in_the_sandbox(healthy):
    found = night.check_ledger()
    assert found.counts == {"matched": 4, "unmatched": 0, "open": 0}
    assert found.error is None
    assert found.headline == "4 of 4 of your numbers match ServiceTitan."


def test_a_number_is_matched_unmatched_or_open_and_only_one_that_matched_fails_the_night(healthy, ledger):
    add(ledger, id="leads-2", value=Decimal(95))
    add(ledger, id="leads-3", unit="Dallas-Sales")
    add(ledger, id="leads-4", last_day=date(2026, 1, 1))
    add(ledger, id="leads-5", unit="Phoenix-Production")
    add(ledger, id="leads-6", value=Decimal(31), report="old dashboard")
    add(ledger, id="leads-8", value=Decimal(4), first_day=date(2025, 7, 1), last_day=date(2025, 7, 1))
    add(ledger, id="leads-7", value=Decimal(97), tolerance=Decimal(1))
    found = night.check_ledger()
    assert found.counts == {"matched": 2, "unmatched": 1, "open": 3}
    # 96 is right, so that 95 and 31 are another count of the same: nobody has to say so.
    outcome = {one.observation.id: one.outcome for one in found.checked}
    assert [outcome[f"leads-{n}"] for n in (1, 2, 6, 7, 8)] == [
        "matched", "explained", "explained", "matched", "unmatched"
    ]  # fmt: skip
    why = {one.observation.id: one.why for one in found.checked}
    assert why["leads-2"] == "we have 96, +1"
    assert why["leads-3"] == "this company has no unit Dallas-Sales"
    assert why["leads-4"].startswith("the warehouse covers 20")
    assert why["leads-5"] == "Phoenix-Production is not a Sales unit"
    assert found.error is None
    assert any(
        line.startswith("unmatched: Leads of Phoenix-Sales, Jul 1, 2025 is 4, we have") for line in found.lines()
    )


def lose_a_lead() -> None:
    """Take a customer's job of the known Monday out of the facts, as an error in the SQL would."""
    with warehouse.connect() as target:
        target.execute(
            "DELETE FROM st_mart_v2.fact_leads WHERE customer_id IN (SELECT MIN(customer_id) FROM st_mart_v2.fact_leads"
            " WHERE event_date = DATE '2025-08-18' AND business_unit = 'Phoenix-Sales')"
        )


def test_what_matched_and_does_so_no_longer_fails_the_night_until_it_is_said_to_be_superseded(healthy, ledger):
    assert night.check_ledger().error is None
    lose_a_lead()
    found = night.check_ledger()
    for words in ("leads-1", "Leads of Phoenix-Sales, Aug 18 to Aug 24, 2025 is 96", "we have 95, -1", "superseded"):
        assert words in found.error
    assert night.check_ledger().error is not None  # and it stays so
    assert found.history.iloc[0].to_list()[1:] == ["unmatched", "matched"]
    ledger.write_text(ledger.read_text().replace(",open,", ",superseded,"))
    assert (night.check_ledger().error, night.check_ledger().counts["unmatched"]) == (None, 0)


def test_a_row_said_to_match_fails_the_first_night_and_a_corrected_value_is_a_new_number(healthy, ledger):
    lose_a_lead()
    assert night.check_ledger().error is None  # never matched: it is shown
    ledger.write_text(ledger.read_text().replace(",open,", ",matched,"))
    assert night.check_ledger().error is not None
    ledger.write_text(ledger.read_text().replace(",96,", ",95,").replace(",matched,", ",open,"))
    assert night.check_ledger().counts["matched"] == 1
    ledger.write_text(ledger.read_text().replace(",95,", ",94,"))
    assert night.check_ledger().error is None  # 94 never matched


def test_every_run_leaves_a_row_per_number(healthy, ledger):
    night.check_ledger()
    night.check_ledger()
    with warehouse.connect() as target:
        rows = target.query("SELECT checked_at, id, value, ours, outcome FROM st_logs_v2.observations")
    assert len(rows) == rows["checked_at"].nunique() == 2
    assert set(zip(rows["id"], rows["value"], rows["ours"], rows["outcome"], strict=True)) == {
        ("leads-1", Decimal(96), Decimal(96), "matched")
    }


def test_before_the_first_night_there_is_one_sentence(tmp_path, monkeypatch, ledger):
    monkeypatch.setenv("WAREHOUSE", str(tmp_path / "empty.duckdb"))
    with pytest.raises(UserError, match="There are no KPI tables yet"):
        night.check_ledger()


# --- the Reporting API ------------------------------------------------------------------------------------------------


@pytest.fixture
def totals(ledger, monkeypatch) -> Path:
    """A company whose only saved report has totals by unit, run once a night."""
    kpis = ("estimates", "success_rate", "total_booked")
    lines = "".join(f"  {kpi}: {{category: business-unit-dashboard, id: 1012}}\n" for kpi in kpis)
    (ledger.parent / company.FILE).write_text(f"reports:\n{lines}")
    monkeypatch.setenv("ST_REPORT_MINUTES", "5")
    monkeypatch.setattr(fetch, "ROUNDS", 1)
    return ledger


def test_the_report_s_numbers_are_read_one_period_a_night_and_match(healthy, totals):
    first = night.check_ledger(read_reports=True)
    read = [one for one in first.checked if one.observation.source == "api report"]
    # Six Sales units, and Color Studio, which is of both divisions; a rate only where there was an opportunity.
    assert {(one.observation.first_day, one.observation.last_day) for one in read} == {
        (date(2025, 9, 8), date(2025, 9, 14))
    }
    assert [sum(one.observation.kpi == kpi for one in read) for kpi in ("estimates", "total_booked")] == [7, 7]
    assert first.notes == (f"{len(read)} numbers of BU Sales - API read, Sep 8 to Sep 14, 2025.",)
    assert first.counts == {"matched": 1 + len(read), "unmatched": 0, "open": 0}
    second = night.check_ledger(read_reports=True)
    assert second.notes[0].endswith(" read, Mar 1 to Mar 31, 2025.")  # the newest whole month of winter
    assert second.counts["matched"] > first.counts["matched"]
    assert totals.read_text().count("\n") == 2  # the file is for people


def list_shown() -> list[tuple[str, str]]:
    """The numbers that the pages show, with their outcomes."""
    with warehouse.connect(read_only=True) as target:
        return [(one.observation.id, one.outcome) for one in outcomes.check_shown(target, choose_definitions({}))]


def test_a_reading_that_has_moved_is_read_anew_before_it_is_believed(healthy, totals):
    night.check_ledger(read_reports=True)
    with warehouse.connect() as target:
        target.execute("UPDATE st_mart_v2.fact_booked SET amount = amount + 1 WHERE event_date >= DATE '2025-09-08'")
    without = night.check_ledger()
    moved = [one for one in without.checked if one.outcome == "open"]
    assert moved
    assert all(one.why.endswith("since it was read: to be read again") for one in moved)
    assert without.error is None
    assert list_shown() == [(one.observation.id, one.outcome) for one in without.checked]
    again = night.check_ledger(read_reports=True)  # ServiceTitan says the same: so it is we who are wrong
    assert again.counts["unmatched"]
    assert list_shown() == [(one.observation.id, one.outcome) for one in again.checked]
    assert again.notes[0].endswith(" read, Sep 8 to Sep 14, 2025.")
    assert again.error.startswith(
        "An observed number no longer matches: api:business-unit-dashboard/1012:total_booked:"
    )


def test_a_changed_report_is_one_yellow_line(healthy):
    sales = Description("a", "7", "WBR", "2025-08-01T09:00:00.93-07:00", (), (), ("Business Unit", "Total Sales"))
    with warehouse.connect() as target:
        assert fetch.note_change(target, sales) is None
        assert fetch.note_change(target, sales) is None
        renamed = replace(sales, columns=("Business Unit", "Revenue"))
        line = fetch.note_change(target, renamed)
        changed = "yellow: WBR (report:a/7) was changed in ServiceTitan"
        assert line == f"{changed}; new columns: Revenue; gone: Total Sales."
        assert fetch.note_change(target, renamed) is None
        filtered = replace(renamed, modified_on="2025-09-02T09:00:00-07:00")
        line = fetch.note_change(target, filtered)
        assert line == f"{changed} on 2025-09-02; its columns are the same: look at its filters."


def test_units_roll_up_and_a_rate_is_a_ratio_of_their_sums(healthy):
    header = ["Business Unit", "Completed Jobs", "Sales Opportunity", "Closed", "Close Rate", "Total Sales"]
    rows = [
        ["Phoenix-Sales", 3, 10, 1, 0.1, 100.5],
        ["Phoenix-Comm-Sales", 1, 2, 2, 1.0, 50.25],
        ["Phoenix-Production", 4, 5, 1, 0.2, 7],
        ["Yuma-Sales", 0, 0, 0, None, 0],
    ]
    export, ask = exports.read_table("WBR", [header, *rows]), fetch.Ask((MONDAY, SUNDAY), "")
    with warehouse.connect() as target:
        kpis = [read_catalog()[kpi] for kpi in ("estimates", "success_rate", "total_booked")]
        read = [
            one
            for kpi in kpis
            for one in fetch.read_numbers(
                target,
                export,
                ask,
                REPORT,
                compare(export, target, kpi=kpi.name, first_day=ask.days[0], last_day=ask.days[1]),
            )
        ]
    assert {(one.kpi, one.unit): one.value for one in read} == {
        ("estimates", "Phoenix-Sales"): Decimal(4),
        ("estimates", "Yuma-Sales"): Decimal(0),
        ("success_rate", "Phoenix-Sales"): Decimal("0.2500"),
        ("total_booked", "Phoenix-Sales"): Decimal("150.75"),
        ("total_booked", "Yuma-Sales"): Decimal(0),
    }


# --- commands and page ------------------------------------------------------------------------------------------------


def command(monkeypatch, *words: str) -> int:
    monkeypatch.setattr("sys.argv", ["stkpi", *words])
    return __main__.main()


def test_observe_answers_at_once(healthy, ledger, monkeypatch, capsys):
    place = ("--bu", "phoenix sales", "--from", "8/18/24", "--to", "8/24/2024")
    assert command(monkeypatch, "observe", "--kpi", "Leads", *place, "--value", "124") == 0
    said = capsys.readouterr().out
    for words in ("leads-2", "Leads of Phoenix-Sales, Aug 18 to Aug 24, 2024 is 124", "It matches: we have 124"):
        assert words in said
    assert "Read next: Leads of " in said
    assert "Filter by Job Creation Date" in said
    place = ("--bu", "Phoenix-Sales", "--from", "2025-08-18", "--to", "2025-08-24")
    assert command(monkeypatch, "observe", "--kpi", "leads", *place, "--value", "31") == 0
    said = capsys.readouterr().out
    for words in ("leads-1 says 96", "we have 96, +65", "status=sold: only jobs with a sold estimate", "(-65)"):
        assert words in said
    assert command(monkeypatch, "observe", "--undo") == 0
    assert "leads-3" in capsys.readouterr().out
    assert [one.id for one in observed.read_ledger()] == ["leads-1", "leads-2"]


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"--kpi": "leeds"}, ["leeds", "did you mean leads"]),
        ({"--bu": "Phenix Sales"}, ["Phenix Sales", "did you mean Phoenix-Sales"]),
        ({"--bu": "Phoenix-Production"}, ["Production unit", "Phoenix-Sales"]),
        ({"--bu": "phoenix-comm-sales"}, ["part of Phoenix-Sales"]),
        ({"--from": "8/28/25"}, ["FROM 2025-08-28", "TO 2025-08-24", "swap"]),
        ({"--to": "8/24/2125"}, ["TO=8/24/2125", "after today"]),
        ({"--from": "8/18/1999"}, ["FROM=8/18/1999", "before the first day"]),
        ({"--from": "monday"}, ["FROM=monday"]),
        ({"--value": "many"}, ["VALUE=many"]),
        ({"--value": "96"}, ["leads-1", "already"]),
        ({"--value": ""}, ["VALUE is missing"]),
    ],
)
def test_what_cannot_be_observed_is_one_sentence_in_the_words_of_the_command(
    healthy, ledger, monkeypatch, capsys, changes, words
):
    before = ledger.read_bytes()
    given = {"--kpi": "leads", "--bu": "Phoenix-Sales", "--from": "8/18/25", "--to": "8/24/25", "--value": "97"}
    given |= {"--source": "export file"} | changes
    assert command(monkeypatch, "observe", *(word for pair in given.items() for word in pair)) == 2
    said = capsys.readouterr().err
    assert all(word in said for word in words), said
    assert said.count("\n") == 1
    assert ledger.read_bytes() == before


def test_find_says_what_the_numbers_prove(healthy, ledger, monkeypatch, capsys):
    add(ledger, id="leads-2", value=Decimal(31), report="old dashboard")
    assert command(monkeypatch, "find", "--kpi", "leads") == 0
    out = capsys.readouterr().out
    for words in ("Ambiguous, ", "  0 bits: as expected", "Read next: ", "31 is what you get with status=sold",
                  "SELECT COUNT(DISTINCT customer_id) AS value"):  # fmt: skip
        assert words in out
    assert command(monkeypatch, "find", "--kpi", "gpm") == 2
    assert "There is no number of GPM" in capsys.readouterr().err
    add(ledger, id="leads-4", first_day=date(2025, 7, 1), last_day=date(2025, 7, 31), value=Decimal(4711))
    assert command(monkeypatch, "find", "--kpi", "leads") == 0
    assert "2 ways of counting" in capsys.readouterr().out


@pytest.mark.soak
def test_the_notebook_fails_the_run_where_a_number_no_longer_matches(healthy, tmp_path, capsys):
    spec, runs = tmp_path / "spec.yml", tmp_path / "runs"
    notebook = marts.SQL.parent / "notebooks" / "08_definitions.ipynb"
    spec.write_text(f"steps:\n  - {{name: definitions, notebook: {notebook}, }}\n")
    lose_a_lead()
    assert runner.run_spec(spec, runs=runs) == 1
    [page] = runs.glob("*/08_definitions.html")
    text = page.read_text()
    assert "of your numbers match ServiceTitan." in text
    summary = json.loads((page.parent / "summary.json").read_text())
    # Without the 96, nothing rules the 31, 124 and 111 of the same week out.
    assert summary["observed"]["unmatched"] == 4
    assert summary["steps"][0]["error"].startswith("An observed number no longer matches: leads-1")
    assert "unmatched: Leads of Phoenix-Sales" in capsys.readouterr().out
