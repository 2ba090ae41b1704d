"""The known case on one page, Total Booked in every way, and the notebooks that show them, on a real warehouse."""

from datetime import date
from decimal import Decimal

import pandas as pd
import pytest
import yaml

from stkpi import diagnostics, settings, warehouse
from stkpi.errors import UserError
from stkpi.runs import runner

MONDAY, SUNDAY = "2025-08-18", "2025-08-24"
NOTEBOOKS = settings.ROOT / "notebooks"


@pytest.fixture
def known(healthy) -> diagnostics.Leads:
    """The known case: Phoenix-Sales in the week of 2025-08-18, the same in every tenant."""
    return diagnostics.leads("Phoenix-Sales", MONDAY, SUNDAY)


def readings(found: diagnostics.Leads) -> dict[str, int]:
    return found.readings.set_index("reading")["leads"].to_dict()


# --- Leads -----------------------------------------------------------------------------------------------------------


def test_the_known_case_is_96_and_31_124_and_111_have_a_reason_each(known):
    assert readings(known)["Leads"] == 96
    why = known.explain("96, 31,124,111").set_index("seen")
    assert why["reading"].to_dict() == {
        96: "Leads",
        31: "sold only",
        124: "a year before",
        111: "a year before, completed only",
    }
    assert "join to sold estimates" in why.at[31, "why"]
    assert "last year" in why.at[124, "why"]
    assert "completed" in why.at[111, "why"]


def test_the_funnel_of_both_years(known):
    of_the_unit = known.funnel.set_index("step").drop("jobs created")
    assert of_the_unit["Aug 18 to Aug 24, 2025"].to_dict() == {
        "of the unit": 104,
        "of an estimate type": 99,
        "not of test customers": 97,
        "customers": 96,
    }
    assert of_the_unit["a year before"].to_list() == [134, 124, 124, 124]


def test_every_other_reading_of_the_known_week(known):
    found = readings(known)
    # One customer came on Monday and again on Tuesday: 97 jobs, and 97 customers summed over the days.
    assert (found["jobs"], found["sum of the days"]) == (97, 97)
    # One customer was merged into another of the week; two jobs are of test customers, two leads of the commercial
    # unit and three of the retired one; five jobs are consultations.
    assert (found["merged customers"], found["with test customers"], found["without COMM"]) == (95, 98, 94)
    assert (found["the unit's own name"], found["any type"]) == (91, 101)
    # By UTC the Sunday night before comes in, and the week's own Sunday night goes.
    assert found["by UTC day"] == 96
    assert known.readings["difference"].iloc[0] == 0
    assert known.readings.set_index("reading").at["sold only", "difference"] == -65


def test_the_rows_behind_each_step_are_those_of_the_funnel_and_name_nobody(known):
    counts = known.funnel.set_index("step").iloc[:, 0].to_dict()
    assert {step: len(rows) for step, rows in known.rows.items()} == counts
    customers = known.rows["customers"]
    assert customers["created_date"].between(pd.Timestamp(MONDAY), pd.Timestamp(SUNDAY)).all()
    assert customers["customer_id"].is_unique
    assert customers["customer_name"].dropna().str.fullmatch(r"(\S•••)( \S•••)*").all()
    shown = diagnostics.leads("Phoenix-Sales", MONDAY, SUNDAY, names=True).rows["of the unit"]["customer_name"]
    assert shown.str.contains("TESTING", na=False).any()


@pytest.mark.parametrize("week", [date(2025, 8, 18), date(2025, 3, 10), date(2024, 10, 28)])
@pytest.mark.soak
def test_the_definition_equals_the_kpi_tables_in_every_unit(healthy, week):
    with warehouse.connect() as target:
        expected = target.query(
            "SELECT business_unit, leads, total_booked FROM st_mart_v2.kpi_weekly_by_bu"
            " WHERE division = 'Sales' AND week_start = @week",
            week=week,
        ).set_index("business_unit")
    last = (week + pd.Timedelta(days=6)).isoformat()
    found = {unit: readings(diagnostics.leads(unit, week.isoformat(), last))["Leads"] for unit in expected.index}
    assert found == expected["leads"].to_dict()
    assert expected["leads"].sum() > 0
    sums = diagnostics.booked(",".join(expected.index), week.isoformat(), last).sums
    definition = sums[sums["basis"] == "sold, local day"].set_index("business_unit")["all units"]
    assert definition.to_dict() == expected["total_booked"].to_dict()


def test_a_number_that_no_reading_gives_is_said_so(known):
    [line] = known.explain("12345").to_dict("records")
    assert line["reading"] == "none of these"
    assert "make find" in line["why"]


# --- Total Booked ----------------------------------------------------------------------------------------------------


@pytest.fixture
def week(healthy) -> diagnostics.Booked:
    """Phoenix in the known week, which is the same in every tenant."""
    return diagnostics.booked("Phoenix-Sales, Phoenix-Production", MONDAY, SUNDAY)


def test_a_sale_of_the_evening_is_on_the_next_day_by_utc(healthy):
    monday = diagnostics.booked("Phoenix-Sales", MONDAY, MONDAY)
    sales = monday.moving.set_index("sold_at")["amount"].to_dict()
    assert sales == {"Mon Aug 18 18:02": Decimal("3072.31"), "Mon Aug 18 20:30": Decimal("12239.70")}
    assert set(monday.moving["utc_day"]) == {"Tue Aug 19"}
    [day] = monday.by_day.to_dict("records")
    # 19,980.08 - 3,072.31 - 12,239.70 = 4,668.07
    assert (day["local"], day["utc"], day["difference"]) == (
        Decimal("19980.08"),
        Decimal("4668.07"),
        Decimal("-15312.01"),
    )
    assert "$15,312.01 less by UTC" in monday.moved


def test_commercial_and_retired_units_are_left_out_on_demand(week):
    sums = week.sums.set_index(["business_unit", "basis"]).loc[("Phoenix-Sales", "sold, local day")]
    rows = week.rows[week.rows["business_unit"] == "Phoenix-Sales"]
    by_name = rows.groupby("unit_name")["amount"].sum()
    assert set(by_name.index) == {"Phoenix-Sales", "Phoenix-Comm-Sales", "Z-DO NOT USE - West - Sales"}
    assert sums["all units"] == sum(by_name) == Decimal("170166.61")
    assert sums["without COMM"] == sums["all units"] - by_name["Phoenix-Comm-Sales"] == Decimal("164376.33")
    assert sums["without retired"] == sums["all units"] - by_name["Z-DO NOT USE - West - Sales"] == Decimal("156886.97")
    assert sums["without both"] == by_name["Phoenix-Sales"] == Decimal("151096.69")


def test_every_basis_has_a_sum_of_its_own_for_sales_and_production(week):
    assert len(week.sums) == 2 * 5
    sales = week.sums[week.sums["business_unit"] == "Phoenix-Sales"]
    assert sales["all units"].nunique() == 5
    assert week.headline.startswith("Phoenix-Sales: $170,167 by the day of sale; other days $165,952 to ")


def test_the_ledger_decides_between_the_bases(healthy, tmp_path, monkeypatch):
    ledger = tmp_path / "observed.csv"
    monkeypatch.setattr(diagnostics, "OBSERVED", ledger)
    assert diagnostics.booked("Phoenix-Sales", MONDAY, MONDAY).verdict.startswith("Nobody has entered a number")
    ledger.write_text(
        "kpi,unit,first_day,last_day,value,tolerance,status\n"
        "leads,Phoenix-Sales,2025-08-18,2025-08-24,96,0,open\n"
        "total_booked,Phoenix-Sales,2025-08-18,2025-08-24,170166.61,0,open\n"
        "total_booked,Phoenix-Sales,2025-08-18,2025-08-18,19980,0.10,matched\n"
        "total_booked,Phoenix-Sales,2025-08-18,2025-08-18,4668.07,0,superseded\n"
    )
    found = diagnostics.booked("Phoenix-Sales", MONDAY, MONDAY)
    assert found.verdict == "Of 2 observed numbers, 2 fit “sold, local day” of all units."
    fits = found.support.set_index(["basis", "cut"])["fits"]
    # On Monday nothing was sold by the commercial or the retired unit, so the day's number fits these cuts as well.
    assert fits["sold, local day"].to_dict() == {
        "all units": 2,
        "without COMM": 1,
        "without retired": 1,
        "without both": 1,
    }
    assert fits.sum() == 5


# --- wrong use, pages ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (
            ("Phenix-Sales", MONDAY, SUNDAY),
            "There is no business unit “Phenix-Sales”. Choose from: Color Studio, Flagstaff",
        ),
        (("Phoenix-Sales", "18.8.2025", SUNDAY), "first_day must be a day such as 2025-08-18"),
        (("Phoenix-Sales", SUNDAY, MONDAY), "exchange the two days"),
    ],
)
def test_wrong_use_is_told_in_a_sentence(healthy, arguments, sentence):
    for diagnose in (diagnostics.leads, diagnostics.booked):
        with pytest.raises(UserError, match=sentence):
            diagnose(*arguments)


def test_numbers_that_are_none(known):
    with pytest.raises(UserError, match="seen must be whole numbers"):
        known.explain("31 and 124")


def test_before_the_first_build(monkeypatch, tmp_path):
    monkeypatch.setenv("WAREHOUSE", str(tmp_path / "empty.duckdb"))
    with pytest.raises(UserError, match="The KPIs were not built yet"):
        diagnostics.leads("Phoenix-Sales", MONDAY, SUNDAY)


@pytest.mark.soak
def test_the_pages_of_a_run_and_the_files_beside_them(healthy, tmp_path):
    steps = [
        {"name": name, "notebook": str(NOTEBOOKS / f"{number}_{name}.ipynb")}
        for number, name in (("02", "invoice_repair"), ("05", "leads_diagnostics"), ("06", "booked_diagnostics"))
    ]
    spec = tmp_path / "spec.yml"
    spec.write_text(yaml.safe_dump({"steps": steps}))
    assert runner.run(spec, runs=tmp_path / "runs") == 0
    [folder] = [path for path in (tmp_path / "runs").iterdir() if path.is_dir()]
    page = (folder / "05_leads_diagnostics.html").read_text()
    for line in ("96", "31", "124", "111"):
        assert f"<strong>{line}</strong>" in page
    behind = pd.read_csv(folder / "05_leads_5_customers.csv")
    assert len(behind) == 96
    assert 'href="05_leads_5_customers.csv"' in page
    assert "$170,167 by the day of sale" in (folder / "06_booked_diagnostics.html").read_text()
    assert "No old invoice lacks its job." in (folder / "02_invoice_repair.html").read_text()
    assert pd.read_csv(folder / "06_booked.csv")["amount"].sum() > 0
