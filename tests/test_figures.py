"""The figures that pages show are asked of the facts anew; those of a unit's week stand in the KPI tables as well."""

from dataclasses import asdict
from datetime import date

import pandas as pd

from sandbox.tenant import TIME_ZONE
from stkpi import warehouse
from stkpi.kpis.definition import Definition, choose_definitions, name_facts
from stkpi.kpis.sql import differing_jobs_sql
from stkpi.marts import increment
from stkpi.reporting import figures

AMOUNTS = ("total_booked", "dollars_produced", "dollars_collected", "outstanding_ar")


def test_the_figures_of_a_place_and_week_are_those_of_the_tables(healthy):
    definitions = choose_definitions({})
    with warehouse.connect() as target:
        weekly = target.query("SELECT * FROM st_mart_v2.kpi_weekly_by_bu")
        regions = target.query("SELECT * FROM st_mart_v2.regional_kpis")
        book = figures.read_book(target, definitions, weekly["last_day"].max())
    places = [("unit", "business_unit", weekly), ("region", "region", regions)]
    for kind, column, table in places:
        compared = 0
        for row in table.to_dict("records"):
            shown = book.rows[figures.name_place(kind, row[column]), row["week_start"].isoformat()]
            for kpi in definitions.keys() & row.keys():
                both = (row[kpi], shown[kpi])
                assert all(map(pd.isna, both)) or both[0] == both[1], (row[column], row["week_start"], kpi)
                compared += bool(row[kpi])
        assert compared > 100
    sums = weekly.groupby("week_start")[list(AMOUNTS)].sum()
    for week, amounts in sums.iterrows():
        shown = book.rows[figures.COMPANY, week.isoformat()]
        assert {kpi: shown[kpi] for kpi in AMOUNTS} == amounts.to_dict(), week


def test_the_jobs_that_only_one_of_two_definitions_counts(healthy):
    """The known week has 97 jobs of 96 leads. 31 were sold, 5 more are consultations; by UTC a night's job moves."""
    usual = choose_definitions({})["leads"]
    days = {"unit": "Phoenix-Sales", "first": date(2025, 8, 18), "last": date(2025, 8, 24), "time_zone": TIME_ZONE}
    found = {}
    with warehouse.connect() as target:
        for dimension, option in (("status", "sold"), ("job_type", "any"), ("zone", "utc")):
            other = Definition(usual.kpi, usual.kpi.choose({dimension: option}))
            sql = differing_jobs_sql(usual, other, "fact_leads")
            jobs = target.query(sql, **days, **asdict(increment.Bounds()))
            found[option] = jobs["side"].value_counts().to_dict()
    assert found == {"sold": {"only here": 66}, "any": {"only there": 5}, "utc": {"only here": 1, "only there": 1}}


def test_a_definition_counts_the_jobs_that_it_counts_itself(healthy):
    definitions = choose_definitions({})
    days = {"unit": "Phoenix-Production", "first": date(2025, 8, 18), "last": date(2025, 8, 24)}
    with warehouse.connect() as target:
        for name, table in name_facts(definitions).items():
            sql = differing_jobs_sql(definitions[name], definitions[name], table)
            given = {**days, "time_zone": TIME_ZONE, **asdict(increment.Bounds())}
            assert target.query(sql, **given).empty, name
