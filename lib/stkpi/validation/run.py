"""Can today's numbers be trusted? Suites, SQL checks and comparisons with the past, each red, yellow or green.

Limits and severities are in expectations/thresholds.yml. A file sql/checks/<name>.sql whose name has limits there is a
check: a row per `item` with its `value` (what the limits judge) and a `detail` in words.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from functools import cached_property
from typing import Any

import pandas as pd

from stkpi import settings, warehouse
from stkpi.errors import UserError
from stkpi.ingest import state
from stkpi.marts import build as marts
from stkpi.servicetitan import windows
from stkpi.validation import series, suites
from stkpi.validation.checks import COLORS, Check, Measure, Rule, judge, thresholds, unable

SQL = marts.SQL / "checks"
WEEKS = series.WEEKS


@dataclass(frozen=True)
class Validation:
    """What a validation looked at and found: the checks, worst first."""

    as_of: date
    first_day: date
    checks: tuple[Check, ...]
    months: pd.DataFrame  # a row per month, newest first, with the records of each entity
    week: pd.DataFrame  # a row per KPI of the company, the most unusual first: kpi, newest week, spreads from usual

    @property
    def counts(self) -> dict[str, int]:
        """How many checks are red, yellow and green."""
        found = Counter(check.color for check in self.checks)
        return {color: found[color] for color in COLORS}

    @property
    def error(self) -> str | None:
        """Which critical checks are red, in one sentence; None if none is."""
        stopping = [check for check in self.checks if check.stops]
        if not stopping:
            return None
        are = "checks are" if len(stopping) > 1 else "check is"
        return f"{len(stopping)} critical {are} red. “{stopping[0].title}” fails: {stopping[0].found}."

    def told(self) -> dict[str, Any]:
        """The content of validation.json."""
        days = {"as_of": self.as_of.isoformat(), "first_day": self.first_day.isoformat()}
        return days | {"counts": self.counts, "checks": [check.told() for check in self.checks]}

    def lines(self) -> Iterator[str]:
        """One line per check, worst first."""
        for check in self.checks:
            yield f"{check.color:<7} {check.severity:<9} {check.name}: {check.found}"

    def frame(self) -> pd.DataFrame:
        """One row per check, worst first: color, severity, check, found, remedy."""
        columns = {"color": "color", "severity": "severity", "title": "check", "found": "found", "remedy": "remedy"}
        return pd.DataFrame([{column: getattr(c, name) for name, column in columns.items()} for c in self.checks])


@dataclass(frozen=True)
class _Sources:
    """What the checks read: the warehouse, up to which day, and from which on rows are recent."""

    target: warehouse.Warehouse
    as_of: date
    first_day: date
    zone: str

    def query(self, name: str, **changed: date) -> pd.DataFrame:
        """The rows of sql/checks/<name>.sql."""
        values = {"as_of": self.as_of, "first_day": self.first_day, "time_zone": self.zone} | changed
        return self.target.query((SQL / f"{name}.sql").read_text(encoding="utf-8"), **values)

    @cached_property
    def days(self) -> pd.DataFrame:
        """Records per entity and day."""
        return self.query("entity_days")

    @cached_property
    def status(self) -> pd.DataFrame:
        """The ledger's line per entity."""
        return state.status(self.target)

    @cached_property
    def weeks(self) -> pd.DataFrame:
        """The KPIs of full weeks, as many more as labor takes to be complete."""
        return self.query("weekly_kpis", first_day=self.first_day - series.LATE.lookback - timedelta(weeks=1))


SERIES: dict[str, Callable[[_Sources, Rule], Iterable[Measure]]] = {
    "coverage": lambda given, rule: series.coverage(given.days, rule.least),
    "newest_records": lambda given, _: series.silence(given.days, given.as_of),
    "daily_volume": lambda given, _: series.volume(given.days, given.as_of),
    "company_week": lambda given, _: series.newest_week(given.weeks, given.as_of, company=True),
    "unit_week": lambda given, _: series.newest_week(given.weeks, given.as_of, company=False),
    "entities_read": lambda given, _: series.reads(given.status, datetime.now(UTC)),
    "quarantine": lambda given, _: series.quarantine(given.status),
}


def run(as_of: str = "", weeks: int = WEEKS) -> Validation:
    """Check the warehouse up to the day that its KPI tables reach; rows of the last `weeks` full weeks are recent.

    Raises UserError before the KPI tables were built, where they reach another day than `as_of` (an ISO day, empty: any
    will do), or for a settings or suite file that cannot be used.
    """
    config, limits = settings.load(), thresholds()
    declared = suites.declared(limits)
    with warehouse.connect(config) as target:
        last_day = _last_day(target)
        if as_of and windows.parse_day(as_of, "as_of") != last_day:
            raise UserError(f"The KPI tables reach {last_day}, not {as_of}: build them with that as_of first.")
        newest_monday = last_day + timedelta(days=1) - timedelta(weeks=1, days=(last_day.weekday() + 1) % 7)
        given = _Sources(target, last_day, newest_monday - timedelta(weeks=weeks), config.time_zone)
        expectations = suites.run(target, declared, given.first_day, last_day, config.time_zone)
        own = {name: rule for name, rule in limits.checks.items() if "." not in name}
        checks = [*expectations, *(_checked(given, name, rule) for name, rule in own.items())]
        return Validation(
            as_of=last_day,
            first_day=given.first_day,
            checks=tuple(sorted(checks, key=_worst_first)),
            months=_months(given.days),
            week=_week(given),
        )


def _last_day(target: warehouse.Warehouse) -> date:
    try:
        found = target.query("SELECT MAX(last_day) AS day FROM st_mart_v2.kpi_weekly_by_bu")["day"][0]
    except target.NotFound:
        found = None
    if found is None:
        raise UserError("There are no KPI tables to check yet: run `make nightly` first.")
    return found


def _worst_first(check: Check) -> tuple[int, bool]:
    return COLORS.index(check.color), check.severity == "warning"


def _checked(given: _Sources, name: str, rule: Rule) -> Check:
    try:
        if name in SERIES:
            measures = list(SERIES[name](given, rule))
        else:
            rows = given.query(name).itertuples()
            measures = [Measure(str(row.item), float(row.value), str(row.detail)) for row in rows]
    except Exception as error:  # whatever the engine says: this check is red, the others go on
        return unable(name, rule, error)
    return judge(name, rule, measures)


def _months(days: pd.DataFrame) -> pd.DataFrame:
    by_month = days.assign(month=[f"{day:%Y-%m}" for day in days["day"]])
    table = by_month.pivot_table(index="month", columns="entity", values="records", aggfunc="sum", fill_value=0)
    return table.iloc[::-1].rename_axis(columns=None).reset_index()


def _week(given: _Sources) -> pd.DataFrame:
    measures = series.newest_week(given.weeks, given.as_of, company=True)
    rows = [(each.item.removeprefix(f"{series.COMPANY}, "), each.detail, each.value) for each in measures]
    frame = pd.DataFrame(rows, columns=["kpi", "newest week", "spreads from usual"])
    return frame.sort_values("spreads from usual", ascending=False)
