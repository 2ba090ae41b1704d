"""The first night of a company whose names nobody has seen before: what is proposed, kept, confirmed and warned of."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from random import Random
from typing import Any

import pandas as pd
import pytest
import requests

from sandbox import truth
from sandbox.painting import REPORTS
from sandbox.server import Sandbox
from sandbox.store import Store
from sandbox.tenant import LAST_DAY, TIME_ZONE
from stkpi import __main__ as command
from stkpi import company, settings, warehouse
from stkpi.errors import UserError
from stkpi.marts import build as marts
from stkpi.proposal import folder
from stkpi.proposal.clock import check_time_zone
from stkpi.proposal.job_types import JobType, propose_rules
from stkpi.proposal.units import Unit, guess_division, propose_units
from stkpi.reconcile import command as reconcile

UNIT_COLUMNS = (*company.COLUMNS[company.UNITS], company.GUESS)
RULE_COLUMNS = (*company.COLUMNS[company.JOB_TYPE_RULES], company.GUESS)


@pytest.fixture
def acme(healthy, tmp_path, monkeypatch):
    """The folder, which does not exist yet, of a company whose records are those of the generated tenant."""
    monkeypatch.setenv("COMPANY", str(tmp_path / "acme"))
    return tmp_path / "acme"


# --- a whole company --------------------------------------------------------------------------------------------------


class Renamed:
    """The records of a tenant whose units have other names."""

    def __init__(self, store: Store, names: dict[str, str]) -> None:
        self.store, self.names = store, names

    def rows(self, resource: str) -> Iterator[dict[str, Any]]:
        for record in self.store.rows(resource):
            yield record | {"name": self.names[record["name"]]} if resource == "business_units" else record


@pytest.fixture
def renamed(acme, tenant):
    """The tenant and its warehouse after every unit was renamed at random."""
    random = Random("a company that nobody has seen")
    names = {
        unit["name"]: " ".join("".join(random.choices("bdfgklmnprtv", k=6)).capitalize() for _ in range(2))
        for unit in tenant.rows("business_units")
    }
    with warehouse.connect() as target:
        for old, new in names.items():
            target.execute("UPDATE st_raw_v2.raw_business_units SET name = @new WHERE name = @old", old=old, new=new)
    return Renamed(tenant, names)


def test_a_company_with_other_names_has_its_figures_on_the_first_night(renamed, acme):
    proposal = folder.complete_folder()
    marts.build_marts(LAST_DAY.isoformat())
    units = company.read_table(acme / company.UNITS, UNIT_COLUMNS)
    rules = company.read_table(acme / company.JOB_TYPE_RULES, RULE_COLUMNS)
    assert len(units) == len(renamed.names) == 19
    assert len(proposal.guesses) == 19 + len(rules) + len(company.read_company(settings.load()).reports)
    # By its own program the made-up company has the same numbers, for these units and rules.
    by_rule = [
        frozenset(row["job_type"] for row in rules if row["rule"] == rule)
        for rule in ("excluded_from_production", "warranty")
    ]
    expected = truth.compute_weekly_kpis(renamed, units, TIME_ZONE, LAST_DAY, truth.JobTypeRules(*by_rule))
    with warehouse.connect() as target:
        rows = target.query("SELECT * FROM st_mart_v2.kpi_weekly_by_bu").to_dict("records")
    found = {(row["business_unit"], row["week_start"]): row for row in rows}
    assert found.keys() == expected.keys()
    assert [
        (*key, kpi, value, found[key][kpi])
        for key, kpis in expected.items()
        for kpi, value in kpis.items()
        if not (pd.isna(found[key][kpi]) if value is None else abs(float(found[key][kpi]) - float(value)) < 1e-6)
    ] == []
    # And nothing is zero that a person who knows the company would see.
    preset = company.read_table(company.SANDBOX_PRESET / company.UNITS, company.COLUMNS[company.UNITS])
    known = [row | {"business_unit": (name := renamed.names[row["business_unit"]]), "rollup": name} for row in preset]
    seen = {
        (unit, kpi)
        for (unit, _), kpis in truth.compute_weekly_kpis(renamed, known, TIME_ZONE, LAST_DAY).items()
        for kpi, value in kpis.items()
        if value and unit in {row["rollup"] for row in known}
    }
    assert len(seen) > 80
    ours = {(unit, kpi) for (unit, _), row in found.items() for kpi in row if not pd.isna(row[kpi]) and row[kpi]}
    assert seen <= ours


def test_the_names_of_the_first_company_give_nearly_what_its_owner_wrote(acme):
    folder.complete_folder()
    proposed = {row["business_unit"]: row for row in company.read_table(acme / company.UNITS, UNIT_COLUMNS)}
    for row in company.read_table(company.SANDBOX_PRESET / company.UNITS, company.COLUMNS[company.UNITS]):
        guess = proposed.pop(row["business_unit"])
        assert guess["division"] == row["division"]
        assert guess["region"] in (row["region"], "West")  # nothing says that the retired West is Phoenix
        assert guess["segment"] in (row["segment"], "")
        assert guess["guess"].startswith("division by name; region by the beginning of its name")
    # Five jobs say nothing.
    assert [tuple(row.values()) for row in proposed.values()] == [
        ("Color Studio", "Color Studio", "", "Both", "", "no evidence: counts as Both")
    ]
    rules = {row["job_type"]: row["rule"] for row in company.read_table(acme / company.JOB_TYPE_RULES, RULE_COLUMNS)}
    assert rules["Touchup"] == rules["Warranty"] == rules["Warranty Callback"] == "warranty"
    assert rules["Sales Follow-up"] == rules["Legacy Sales Visit"] == "excluded_from_production"
    assert rules["Estimate - Interior"] == ""  # 20 of its jobs are invoiced: their money must not be missing
    assert "Interior Paint" not in rules


# --- what a person wrote ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("encoding", "delimiter", "end"),
    [("utf-8", ",", "\n"), ("utf-8-sig", ",", "\r\n"), ("cp1252", ";", "\r\n"), ("utf-16", "\t", "\n")],
)
def test_what_a_person_wrote_stays_byte_for_byte(acme, encoding, delimiter, end):
    acme.mkdir()
    lines = ["business_unit,rollup,region,division,segment", "Mesa-Sales, Mesä ,East,sales,", "Yuma-Sales,,,,"]
    written = [line.replace(",", delimiter) + end for line in lines]
    (acme / company.UNITS).write_bytes("".join(written).encode(encoding))
    (acme / company.FILE).write_bytes(b"# Ours\r\nname:   Acme   # since 1999\r\ndefinitions:")
    folder.complete_folder()
    text = (acme / company.UNITS).read_bytes().decode(encoding)
    assert text.startswith(f"{lines[0].replace(',', delimiter)}{delimiter}guess{end}" + "".join(written[1:]))
    assert (acme / company.FILE).read_bytes().startswith(b"# Ours\r\nname:   Acme   # since 1999\r\ndefinitions:\n")
    rows = company.read_table(acme / company.UNITS, UNIT_COLUMNS)
    assert len(rows) == 19
    assert rows[0] == dict(zip(UNIT_COLUMNS, ("Mesa-Sales", "Mesä", "East", "Sales", "", ""), strict=True))
    assert [row["business_unit"] for row in rows if not row["guess"]] == ["Mesa-Sales", "Yuma-Sales"]
    own = company.read_company(settings.load())
    assert (own.name, own.reports["leads"].reference) == ("Acme", "report:marketing/1001")
    before = {path.name: path.read_bytes() for path in acme.iterdir()}
    again = folder.complete_folder()
    assert again.written == ()
    assert {path.name: path.read_bytes() for path in acme.iterdir()} == before


def test_an_empty_guess_confirms_and_a_new_unit_is_proposed(acme):
    first = folder.complete_folder()
    assert "guesses until you confirm them" in first.headline
    for file, column in ((company.UNITS, UNIT_COLUMNS), (company.JOB_TYPE_RULES, RULE_COLUMNS)):
        rows = company.read_table(acme / file, column)
        company.write_rows(acme / file, column, [row | {"guess": ""} for row in rows])
    text = (acme / company.FILE).read_text()
    (acme / company.FILE).write_text("\n".join(line for line in text.splitlines() if "guess:" not in line))
    assert folder.complete_folder().headline == ""
    with warehouse.connect() as target:
        target.execute("UPDATE st_raw_v2.raw_business_units SET name = 'Tempe-Sales' WHERE name = 'Yuma-Sales'")
    later = folder.complete_folder()
    assert later.guesses.values.tolist() == [
        [str(acme / company.UNITS), "Tempe-Sales", "Tempe-Sales, Sales", "division by name"]
    ]
    assert (acme / company.UNITS).read_text().endswith("Tempe-Sales,Tempe-Sales,,Sales,,division by name\n")
    assert later.notes == (
        f"{acme / company.UNITS}, line 18: ServiceTitan has no business unit called Yuma-Sales; "
        "did you mean Mesa-Sales?",
    )


def test_a_folder_that_cannot_be_written_is_a_note(acme):
    acme.write_text("a file")
    found = folder.complete_folder()
    assert found.written == ()
    assert "acme cannot be written" in found.notes[0]


def test_the_made_up_company_gets_no_proposal(acme, monkeypatch):
    monkeypatch.setattr(company, "SANDBOX_FOLDER", acme)
    found = folder.complete_folder()
    assert (found.lines, len(found.guesses)) == ([], 0)
    assert (acme / company.UNITS).read_bytes() == (company.SANDBOX_PRESET / company.UNITS).read_bytes()


# --- the command ------------------------------------------------------------------------------------------------------


def test_setup_reads_the_units_and_job_types_that_it_needs_and_nothing_else(sandbox, tmp_path, monkeypatch, capsys):
    for name, value in sandbox.environment.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("WAREHOUSE", str(tmp_path / "w.duckdb"))
    monkeypatch.setenv("COMPANY", str(tmp_path / "acme"))
    monkeypatch.setattr("sys.argv", ["stkpi", "setup"])
    assert command.main() == 0
    said = capsys.readouterr().out
    assert f"19 lines were written to {tmp_path / 'acme' / company.UNITS}." in said
    assert "no evidence: counts as Both; its jobs were not read yet" in said
    with warehouse.connect() as target:
        assert sorted(target.list_columns("st_raw_v2")) == ["st_raw_v2.raw_business_units", "st_raw_v2.raw_job_types"]


def test_a_guess_that_was_made_before_the_jobs_were_read_is_made_again_unless_a_person_changed_it(acme):
    with warehouse.connect() as target:
        target.execute("CREATE TABLE st_raw_v2.jobs_of_later AS SELECT * FROM st_raw_v2.raw_jobs")
        target.execute("DELETE FROM st_raw_v2.raw_jobs WHERE TRUE")
    folder.complete_folder()
    rules = company.read_table(acme / company.JOB_TYPE_RULES, RULE_COLUMNS)
    assert {row["rule"] for row in rules if "stimat" in row["job_type"]} == {"excluded_from_production"}
    assert all(row["guess"].endswith("; its jobs were not read yet") for row in rules)
    # A person wants the commercial estimates out although some are invoiced, and says nothing about the others.
    text = (acme / company.JOB_TYPE_RULES).read_text().splitlines(keepends=True)
    own = [line if "Commercial" not in line else "Commercial estimate,excluded_from_production,\n" for line in text]
    own = [line.replace("production,no", "production,surely no") if "Re-Est" in line else line for line in own]
    (acme / company.JOB_TYPE_RULES).write_text("".join(own))
    with warehouse.connect() as target:
        target.execute("INSERT INTO st_raw_v2.raw_jobs SELECT * FROM st_raw_v2.jobs_of_later")
    later = folder.complete_folder()
    assert later.written == (
        f"19 lines were written to {acme / company.UNITS}, 19 of them anew, now that the jobs were read.",
        f"12 lines were written to {acme / company.JOB_TYPE_RULES}, 12 of them anew, now that the jobs were read.",
    )
    rules = {row["job_type"]: row["rule"] for row in company.read_table(acme / company.JOB_TYPE_RULES, RULE_COLUMNS)}
    assert len(rules) == 14
    assert [name for name, rule in rules.items() if rule == "excluded_from_production"] == [
        "Commercial estimate", "Re-Estimate", "Sales Follow-up", "Legacy Sales Visit"
    ]  # fmt: skip
    assert folder.complete_folder().written == ()


# --- guesses ----------------------------------------------------------------------------------------------------------

SEEN = "{} jobs with an estimate, {} invoiced work"


@pytest.mark.parametrize(
    ("unit", "division", "reason"),
    [
        (Unit("North Sales"), "Sales", "division by name"),
        (Unit("Estimating"), "Sales", "division by name"),
        (Unit("Install crew 2"), "Production", "division by name"),
        (Unit("Sales & Install"), "Both", "no evidence: counts as Both"),
        (Unit("Salesforce"), "Both", "no evidence: counts as Both"),
        (Unit("Blue", estimated=4, worked=5), "Both", "no evidence: counts as Both"),
        (Unit("Blue", estimated=95, worked=5), "Sales", f"division by its jobs: {SEEN.format(95, 5)}"),
        (Unit("Blue", estimated=0, worked=10), "Production", f"division by its jobs: {SEEN.format(0, 10)}"),
        (Unit("Blue", estimated=50, worked=50), "Both", f"it sells and produces: {SEEN.format(50, 50)}"),
        (Unit("Install", estimated=25, worked=75), "Both",
         f"its name says Production, its jobs say more ({SEEN.format(25, 75)}): counts as Both"),
    ],
)  # fmt: skip
def test_the_division_is_that_of_the_name_else_of_the_jobs_else_both(unit, division, reason):
    assert guess_division(unit) == (division, reason)


def propose(*units: Unit, known: tuple[dict[str, str], ...] = ()) -> dict[str, dict[str, str]]:
    return {row["business_unit"]: row for row in propose_units(units, known)}


def test_a_retired_unit_counts_as_the_one_that_took_its_name_or_its_trade():
    rows = propose(
        Unit("HVAC Install"), Unit("Plumbing", trade="Plumbing"), Unit("ZZ - HVAC Instal (old)"),
        Unit("Drains", active=False, trade="Plumbing"), Unit("Electric", active=False), Unit("Old Town - Plumbing"),
    )  # fmt: skip
    assert {name: row["rollup"] for name, row in rows.items()} == {
        "HVAC Install": "HVAC Install", "Plumbing": "Plumbing", "ZZ - HVAC Instal (old)": "HVAC Install",
        "Drains": "Plumbing", "Electric": "Electric", "Old Town - Plumbing": "Old Town - Plumbing",
    }  # fmt: skip
    assert rows["ZZ - HVAC Instal (old)"]["division"] == "Production"
    assert rows["Drains"]["guess"] == "not in use, and its trade is that of Plumbing"


def test_a_retired_unit_goes_where_a_person_has_put_its_successor():
    known = {"business_unit": "Mesa Sales", "rollup": "East", "region": "AZ", "division": "Both", "segment": "RES"}
    row = propose(Unit("Mesa Sales"), Unit("DNU Mesa Sales"), known=(known,))["DNU Mesa Sales"]
    assert (row["rollup"], row["region"], row["division"]) == ("East", "AZ", "Both")


@pytest.mark.parametrize(
    ("names", "regions"),
    [
        (["San Jose Sales", "San Jose Install", "San Diego Sales", "San Diego Install"], {"San Jose", "San Diego"}),
        (["Mesa-Comm-Sales", "Mesa-Sales", "Yuma - Production", "Z-DO NOT USE - Yuma - Sales"], {"Mesa", "Yuma"}),
        (["HVAC - Install", "HVAC - Sales", "Plumbing - Install", "Plumbing - Sales"], {""}),
        (["Acme - Sales", "Acme - Install"], {""}),
        (["O'Brien Heating & Air", "Plumbing", "Install", "Service & Repair"], {""}),
    ],
)  # fmt: skip
def test_a_region_is_how_several_names_begin_and_nothing_else(names, regions):
    assert {row["region"] for row in propose(*map(Unit, names)).values()} == regions


def test_a_rule_is_in_the_name_and_no_money_is_left_out():
    types = [
        JobType("Warranty - Call Back", 9, 2), JobType("Touch-Up"), JobType("Redo"),
        JobType("Estimate - Touchup", 5, 0), JobType("Estimate", 400, 3), JobType("PTO"),
        JobType("Safety Meeting", 3, 0), JobType("Interior", 5, 0),
        JobType("Redondo Beach", 1, 0), JobType("Known estimate"),
    ]  # fmt: skip
    assert {row["job_type"]: (row["rule"], row["guess"]) for row in propose_rules(types, ["Known estimate"])} == {
        "Warranty - Call Back": ("warranty", "warranty by name"),
        "Touch-Up": ("warranty", "warranty by name"),
        "Redo": ("warranty", "warranty by name"),
        "Estimate - Touchup": ("excluded_from_production", "no production by name; none of its 5 jobs is invoiced"),
        "Estimate": ("", "named like no production, but 3 of its 400 jobs are invoiced: it counts"),
        "PTO": ("excluded_from_production", "no production by name"),
        "Safety Meeting": ("excluded_from_production", "no production by name; none of its 3 jobs is invoiced"),
    }


def test_the_company_s_name_is_the_legal_name_of_most_units(acme):
    with warehouse.connect() as target:
        target.execute("UPDATE st_raw_v2.raw_business_units SET officialName = 'Acme: Painting LLC' WHERE id > 1003")
    folder.complete_folder()
    assert company.read_company(settings.load()).name == "Acme: Painting LLC"


# --- saved reports ----------------------------------------------------------------------------------------------------

FILTERED_BY = {
    "name": "DateType", "label": "Filter by", "dataType": "Number", "isArray": False, "isRequired": True,
    "acceptValues": {
        "fields": [], "dynamicSetId": None, "values": [[1, "Job Completion Date"], [2, "Job Creation Date"]]
    },
}  # fmt: skip


@pytest.fixture
def save_reports(sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """`save_reports(*reports)` makes them the ones that the made-up company has saved."""
    return lambda *reports: monkeypatch.setattr(sandbox, "company", replace(sandbox.company, reports=reports))


def test_the_saved_report_of_each_kpi_is_found_with_the_date_that_it_is_filtered_by(acme, save_reports):
    dated = [replace(one, parameters=(FILTERED_BY, *one.parameters)) for one in REPORTS[:3]]
    save_reports(*dated, *REPORTS[3:5], replace(dated[0], id=1006, name="Leads of last year"))
    folder.complete_folder()
    reports = company.read_company(settings.load()).reports
    assert {kpi: report.reference for kpi, report in reports.items()} == {
        "leads": "report:marketing/1001",
        "estimates": "report:business-unit-dashboard/1002",
        "success_rate": "report:business-unit-dashboard/1002",
        "total_booked": "report:business-unit-dashboard/1002",
        "dollars_produced": "report:operations/1003",
        "gpm": "report:operations/1003",
        "warranty_rate": "report:operations/1003",
        "future_bookings": "report:operations/1003",
        "dollars_collected": "report:accounting/1004",
        "outstanding_ar": "report:accounting/1005",
    }
    assert reports["leads"].parameters == {"Filter by": "Job Creation Date"}
    assert reports["leads"].guess == "by its name and columns"
    # It has no Job Start Date: a wrong date would be no error, but another number.
    assert reports["gpm"].parameters == {"Filter by": ""}
    assert reports["gpm"].guess.endswith("; choose Filter by: Job Completion Date, Job Creation Date")


def test_a_saved_report_is_run_with_the_values_that_its_labels_mean(acme, save_reports):
    seen: list[dict[str, Any]] = []
    leads = REPORTS[0]
    dated = replace(
        leads,
        parameters=(FILTERED_BY, *leads.parameters),
        rows=lambda books, values: seen.append(dict(values)) or leads.rows(books, values),
    )
    save_reports(dated)
    acme.mkdir()
    entry = "reports:\n  leads: {category: marketing, id: 1001, parameters: {Filter by: %s}}\n"
    (acme / company.FILE).write_text(entry % "Job Creation Date")
    assert reconcile.run("").matches  # the first report of company.yml, in the newest full week
    assert seen == [{"From": "2025-09-08", "To": "2025-09-14", "DateType": "Job Creation Date"}]
    (acme / company.FILE).write_text(entry % "Job Created Date")
    with pytest.raises(
        UserError, match=r"Filter by cannot be Job Created Date.*Job Completion Date, Job Creation Date"
    ):
        reconcile.run("")
    (acme / company.FILE).write_text("name: Acme\n")
    with pytest.raises(UserError, match=r"Name the export: .*company\.yml has none under `reports`"):
        reconcile.run("")
    result = reconcile.run("report:marketing/1001")  # by the date that we count by, and it says so
    assert (result.matches, result.export) == (True, "Leads (Filter by Job Creation Date)")
    save_reports(replace(dated, parameters=(FILTERED_BY | {"label": "Basis", "acceptValues": None}, *leads.parameters)))
    with pytest.raises(UserError, match=r"wants Basis, .*: choose it under `reports` in company\.yml"):
        reconcile.run("report:marketing/1001")


def test_a_tenant_that_refuses_its_reports_is_one_line_and_they_are_looked_up_again(acme, sandbox):
    fault = {"path": "report-categories", "fault": "status", "status": 403, "times": 1}
    requests.post(f"{sandbox.url}/sandbox/faults", json=fault, timeout=10).raise_for_status()
    first = folder.complete_folder()
    assert len(first.notes) == 1
    assert first.notes[0].startswith("No saved reports were looked up: ")
    assert (acme / company.UNITS).exists()
    assert not (acme / company.FILE).exists()
    assert "saved reports were looked up" in folder.complete_folder().written[0]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("reports: [leads]\n", "line 1: reports must be lines of"),
        ("reports:\n  leads: marketing/1001\n", "line 2: leads must be lines of"),
        ("reports:\n  leads: {category: marketing}\n", "line 2: the report of leads has no id. One looks like"),
        ("reports:\n  leads:\n    category: a\n    id: 1\n    parameter: {}\n", "line 5: parameter is unknown"),
        ("reports:\n  leads: {category: a, id: 1, parameters: [a]}\n", "line 2: the parameters of the report of leads"),
    ],
)  # fmt: skip
def test_a_report_that_cannot_be_read_is_named_with_its_line(acme, text, words):
    acme.mkdir()
    (acme / company.FILE).write_text(text)
    with pytest.raises(UserError) as raised:
        company.read_company(settings.load())
    assert words in str(raised.value)


def test_a_report_of_what_is_no_kpi_is_refused(acme):
    acme.mkdir()
    (acme / company.FILE).write_text("reports:\n  leeds: {category: a, id: 1}\n")
    with pytest.raises(UserError, match=r"company\.yml has a report of leeds, which is no KPI: leads, "):
        folder.complete_folder()


@pytest.mark.parametrize("text", ["{name: Acme}\n", "name: Acme\n...\n", "name: >\n  Acme", ""])
def test_a_key_can_be_appended_to_any_file(acme, text):
    acme.mkdir()
    (acme / company.FILE).write_text(text)
    company.append_key(settings.load(), "reports", {"leads": {"category": "a", "id": 7}}, "Why.")
    own = company.read_company(settings.load())
    assert (own.name, own.reports["leads"].reference) == ("Acme" if text else "", "report:a/7")


# --- the clock --------------------------------------------------------------------------------------------------------


def starts(*hours: int) -> pd.DataFrame:
    """Thirty starts at each of these hours of a summer day, UTC."""
    days = pd.to_datetime([f"2025-07-01T{hour:02}:00:00Z" for hour in hours])
    return pd.DataFrame({"hour": days, "starts": 30})


def test_jobs_that_start_at_night_ask_whether_the_time_zone_is_right():
    eight_to_four = starts(*range(12, 21))  # in New York
    assert check_time_zone(eight_to_four, "America/New_York") is None
    assert check_time_zone(eight_to_four, "America/Denver") is None  # six to two: early, and possible
    assert check_time_zone(eight_to_four, "Asia/Kolkata") == (
        "Jobs seem to start at night: is TIME_ZONE=Asia/Kolkata right? They would fit America/New_York."
    )
    assert check_time_zone(starts(), "Asia/Kolkata") is None


def test_the_night_says_so(acme, monkeypatch):
    monkeypatch.setenv("TIME_ZONE", "Asia/Kolkata")
    assert folder.complete_folder().notes[0].startswith("Jobs seem to start at night: is TIME_ZONE=Asia/Kolkata right?")
