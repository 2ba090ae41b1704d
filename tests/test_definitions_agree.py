"""Whatever a company defines: the weekly table, the number of the ledger, the comparison's own side, every other way to
count and the search are one number, for every unit and week. Definitions are drawn at random, the same in each run.
"""

from __future__ import annotations

import json

import numpy as np
import pytest
from test_reconcile_definitions import check_numbers, check_reasons, check_what_is_known

from sandbox.tenant import LAST_DAY, TIME_ZONE
from stkpi import company, settings, warehouse
from stkpi.kpis import sql
from stkpi.kpis.catalog import read_catalog
from stkpi.kpis.definition import Definition, read_definitions
from stkpi.marts import build as marts
from stkpi.reconcile.definitions import evaluate
from stkpi.reconcile.definitions.evaluate import Period
from stkpi.reconcile.definitions.ways import list_ways
from stkpi.warehouse import Warehouse

# Each draw is held against the first week, the last and some drawn ones of every unit. What a comparison knows of its
# rows takes as long as all the rest: some of the long draws ask for it.
ALL, QUICK = range(45), (1, 2, 3, 4, 8)
SEEDS = [
    *((seed, 1, False) for seed in QUICK),
    *(pytest.param(seed, 2, seed % 10 == 5, marks=pytest.mark.soak) for seed in ALL if seed not in QUICK),
]


def draw_definitions(seed: int) -> dict[str, int]:
    """Draw a definition of every KPI, by its number."""
    random = np.random.default_rng(seed)
    return {name: int(random.integers(len(kpi))) for name, kpi in read_catalog().items()}


def adopt_random(seed: int) -> dict[str, Definition]:
    """Adopt a random definition of every KPI in the company's own file."""
    for name, number in draw_definitions(seed).items():
        choices = read_catalog()[name].departures(number)
        company.adopt_definition(settings.load(), name, choices, adopted_on=LAST_DAY)
    return read_definitions()


def test_every_option_is_drawn():
    drawn = {
        (name, dimension, option.id)
        for seed in ALL
        for name, number in draw_definitions(seed).items()
        for dimension, option in read_catalog()[name].options(number).items()
    }
    every = {(name, d.name, o.id) for name, kpi in read_catalog().items() for d in kpi.dimensions for o in d.options}
    assert every - drawn == set()


def agree(one: float, other: float) -> bool:
    return (np.isnan(one) and np.isnan(other)) or bool(np.isclose(one, other, rtol=1e-9, atol=1e-6))


def as_float(value: object) -> float:
    return float("nan") if value is None or value != value else float(value)  # type: ignore[arg-type]  # noqa: PLR0124


@pytest.mark.parametrize(("seed", "weeks", "with_reasons"), SEEDS)
def test_one_number_everywhere_after_adoption(healthy, tmp_path, monkeypatch, seed, weeks, with_reasons):
    monkeypatch.setenv(
        "COMPANY", str(tmp_path / "company")
    )  # which has no units either: each counts under its own name
    definitions = adopt_random(seed)
    assert all(definition.number for definition in definitions.values())
    marts.build_marts(LAST_DAY.isoformat(), full=True)
    with warehouse.connect() as target:
        weekly = target.query("SELECT * FROM st_mart_v2.kpi_weekly_by_bu").set_index(["week_start", "business_unit"])
        mondays = sorted({week for week, _ in weekly.index})
        chosen = set(np.random.default_rng(seed).choice(mondays, weeks, replace=False)) | {mondays[0], mondays[-1]}
        periods = [Period(unit, week, row.last_day) for (week, unit), row in weekly.iterrows() if week in chosen]
        observed = read_observed(target, definitions, periods)
        for name, definition in definitions.items():
            candidates = evaluate.load_candidates(target, definition.kpi, periods, TIME_ZONE)
            number = np.array([definition.number])
            for period in periods:
                table = as_float(weekly.loc[(period.first, period.unit), name])
                searched = float(evaluate.compute_values(candidates, period, number)[0])
                assert agree(table, searched), (name, definition.departures, period)
                assert agree(table, observed[name, period]), (name, definition.departures, period)
        busiest = max(periods, key=lambda period: as_float(weekly.loc[(period.first, period.unit), "estimates"]))
        for name, definition in definitions.items():
            ways = list_ways(target, definition, busiest, TIME_ZONE)
            assert agree(ways.value, as_float(weekly.loc[(busiest.first, busiest.unit), name])), name
        assert check_numbers(target, definitions, seed, 2) > 5
        if with_reasons:
            check_what_is_known(target, definitions)
            assert check_reasons(target, definitions) > 3


def read_observed(
    target: Warehouse, definitions: dict[str, Definition], periods: list[Period]
) -> dict[tuple[str, Period], float]:
    """What the ledger would say of every KPI and period."""
    asked = [(name, period) for name in definitions for period in periods]
    numbers = [
        {"id": str(place), "kpi": name, "unit": period.unit, "first_day": period.first, "last_day": period.last}
        for place, (name, period) in enumerate(asked)
    ]
    found = target.query(sql.numbers_sql(definitions, definitions), numbers=json.dumps(numbers, default=str))
    return {asked[int(row.id)]: as_float(row.value) for row in found.itertuples()}
