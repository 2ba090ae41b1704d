"""The figures that pages show are asked of the facts anew; those of a unit's week stand in the KPI tables as well."""

import pandas as pd

from stkpi import warehouse
from stkpi.kpis.definition import choose_definitions
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
