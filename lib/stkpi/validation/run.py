"""Say whether today's numbers can be trusted: suites, SQL checks, comparisons with the past; red, yellow or green.

Limits and severities are in expectations/thresholds.yml. A file sql/checks/<name>.sql whose name has limits there is a
check: a row per `item` with its `value` (what the limits judge) and a `detail` in words. Checks that look at every KPI
are made from the company's definitions (`kpi_checks`).
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from functools import cached_property
from typing import Any

import pandas as pd

from stkpi import company, settings, warehouse
from stkpi.dates import parse_day
from stkpi.errors import UserError
from stkpi.ingest import state
from stkpi.kpis.definition import Definition, read_definitions
from stkpi.kpis.sql import provisional_days
from stkpi.marts import build as marts
from stkpi.marts.names import find_unmatched_names
from stkpi.servicetitan.endpoints import list_entities
from stkpi.servicetitan.entities import with_all_records
from stkpi.validation import kpi_checks, series, suites
from stkpi.validation.checks import (
    COLORS,
    THRESHOLDS,
    Check,
    Measure,
    Rule,
    change_limits,
    describe_departed,
    fail_check,
    judge,
    read_thresholds,
    skip_check,
)

SQL = marts.SQL / "checks"
WEEKS = series.WEEKS
# What is made from the definitions instead of read from a file.
GENERATED: dict[str, Callable[[Mapping[str, Definition]], str]] = {
    "weekly_equals_facts": kpi_checks.weekly_equals_facts_sql,
    "weekly_kpis": kpi_checks.weekly_kpis_sql,
}


@dataclass(frozen=True)
class Validation:
    """What a validation looked at and found: the checks, worst first."""

    as_of: date
    first_day: date
    checks: tuple[Check, ...]
    months: pd.DataFrame  # a row per month, newest first, with the records of each entity
    week: pd.DataFrame  # a row per KPI of the company, the most unusual first

    @property
    def counts(self) -> dict[str, int]:
        """How many checks are red, yellow and green."""
        found = Counter(check.color for check in self.checks)
        return {color: found[color] for color in COLORS}

    @property
    def error(self) -> str | None:
        """Which critical checks are red, in one sentence; None if none is."""
        stopping = [check for check in self.checks if check.is_blocking]
        if not stopping:
            return None
        are = "checks are" if len(stopping) > 1 else "check is"
        found = stopping[0].found.rstrip(".")
        return f"{len(stopping)} critical {are} red. “{stopping[0].title}” fails: {found}."

    def to_dict(self) -> dict[str, Any]:
        """Return the content of validation.json."""
        days = {"as_of": self.as_of.isoformat(), "first_day": self.first_day.isoformat()}
        return days | {"counts": self.counts, "checks": [check.to_dict() for check in self.checks]}

    def format_lines(self) -> Iterator[str]:
        """Yield one line per check, worst first."""
        for check in self.checks:
            yield f"{check.color:<7} {check.severity:<9} {check.name}: {check.found}"

    def to_frame(self) -> pd.DataFrame:
        """Return one row per check, worst first: color, severity, check, found, remedy."""
        columns = {"color": "color", "severity": "severity", "title": "check", "found": "found", "remedy": "remedy"}
        return pd.DataFrame([{column: getattr(c, name) for name, column in columns.items()} for c in self.checks])


@dataclass(frozen=True)
class _Sources:
    """What the checks read: the warehouse, up to which day, and from which on rows are recent."""

    target: warehouse.Warehouse
    as_of: date
    first_day: date
    config: settings.Settings
    definitions: Mapping[str, Definition]

    def query(self, name: str, **changed: date) -> pd.DataFrame:
        """Return the rows of the check's SQL."""
        values = {"as_of": self.as_of, "first_day": self.first_day, "time_zone": self.config.time_zone} | changed
        return self.target.query(read_check_sql(name, self.definitions), **values)

    @cached_property
    def days(self) -> pd.DataFrame:
        """Records per entity and day."""
        return self.query("entity_days")

    @cached_property
    def status(self) -> pd.DataFrame:
        """What the last reads of each entity left."""
        return state.read_status(self.target)

    @cached_property
    def weeks(self) -> pd.DataFrame:
        """The KPIs of full weeks, and of as many more as the latest of their records takes to arrive."""
        late = timedelta(days=provisional_days(self.definitions), weeks=1)
        return self.query("weekly_kpis", first_day=self.first_day - late)

    def compare_newest_week(self, *, company: bool) -> Iterable[Measure]:
        """Compare the newest week of the company, or of each unit, with the weeks before."""
        kpis = {name: definition.kpi for name, definition in self.definitions.items()}
        return series.measure_newest_week(self.weeks, kpis, self.as_of, company=company)

    def compare_names(self) -> Iterable[Measure]:
        """Compare the names in the company's files with those of ServiceTitan."""
        unmatched = find_unmatched_names(self.target, self.config)
        return [Measure(one.name, 1, str(one)) for one in unmatched] or [Measure("", 0, "Every name is.")]

    def find_missing_fields(self) -> Iterable[Measure]:
        """Name the fields that figures are made of, and that no record of the newest reading had."""
        built = marts.list_marts(self.definitions)
        for name, columns in state.read_missing_fields(self.target).items():
            table = f"st_raw_v2.raw_{name}"
            used = {word for mart in built if table in mart.reads for word in re.findall(r"\w+", mart.sql)}
            gone = [column for column in columns if column in used]
            yield Measure(name, len(gone), f"no record has {', '.join(gone)} any more" if gone else "has every field")


SERIES: dict[str, Callable[[_Sources, Rule], Iterable[Measure]]] = {
    "coverage": lambda given, rule: series.measure_coverage(given.days, rule.least),
    "newest_records": lambda given, _: series.measure_silence(given.days, given.as_of),
    "daily_volume": lambda given, _: series.measure_volume(given.days, given.as_of),
    "company_week": lambda given, _: given.compare_newest_week(company=True),
    "unit_week": lambda given, _: given.compare_newest_week(company=False),
    "entities_read": lambda given, _: series.measure_reads(
        given.status, datetime.now(UTC), list_entities(given.config)
    ),
    "refused_lists": lambda given, _: series.measure_refusals(given.status),
    "unmatched_names": lambda given, _: given.compare_names(),
    "missing_fields": lambda given, _: given.find_missing_fields(),
}


def read_check_sql(name: str, definitions: Mapping[str, Definition]) -> str:
    """Return the SELECT of a check: sql/checks/<name>.sql, or what the definitions make of it."""
    made = GENERATED.get(name)
    return made(definitions) if made else with_all_records((SQL / f"{name}.sql").read_text(encoding="utf-8"))


def run(as_of: str = "", weeks: int = WEEKS) -> Validation:
    """Check the warehouse up to the day that its KPI tables reach; rows of the last `weeks` full weeks are recent.

    Raises UserError before the KPI tables were built, where they reach another day than `as_of` (an ISO day, empty: any
    will do), or for a settings or suite file that cannot be used.
    """
    config = settings.load()
    limits = change_limits(read_thresholds(), company.read_company(config).thresholds)
    definitions = read_definitions(config)
    own = {name: rule for name, rule in limits.checks.items() if "." not in name}
    if unknown := [(name, rule.kpi) for name, rule in own.items() if rule.kpi and rule.kpi not in definitions]:
        raise UserError(
            f"{THRESHOLDS}: {unknown[0][0]} names the KPI {unknown[0][1]}, which the catalog does not have."
        )
    prepared = suites.prepare_suites(limits, definitions)
    with warehouse.connect(config, read_only=True) as target:
        last_day = _read_last_day(target)
        if as_of and parse_day(as_of, "as_of") != last_day:
            raise UserError(f"The KPI tables reach {last_day}, not {as_of}: build them with that as_of first.")
        newest_monday = last_day + timedelta(days=1) - timedelta(weeks=1, days=(last_day.weekday() + 1) % 7)
        given = _Sources(target, last_day, newest_monday - timedelta(weeks=weeks), config, definitions)
        expectations = suites.run_suites(target, prepared, given.first_day, last_day, config.time_zone)
        checks = [*expectations, *(_make_check(given, name, rule) for name, rule in own.items())]
        return Validation(
            as_of=last_day,
            first_day=given.first_day,
            checks=tuple(sorted(checks, key=_rank_worst_first)),
            months=_count_months(given.days),
            week=_rank_newest_week(given),
        )


def _read_last_day(target: warehouse.Warehouse) -> date:
    try:
        found = target.query("SELECT MAX(last_day) AS day FROM st_mart_v2.kpi_weekly_by_bu")["day"][0]
    except target.NotFound:
        found = None
    if found is None:
        raise UserError("There are no KPI tables to check yet: build them first (03_kpi_build).")
    return found


def _rank_worst_first(check: Check) -> tuple[int, bool]:
    return COLORS.index(check.color), check.severity == "warning"


def _make_check(given: _Sources, name: str, rule: Rule) -> Check:
    if rule.kpi and given.definitions[rule.kpi].departures:
        return skip_check(name, rule, describe_departed([given.definitions[rule.kpi]]))
    try:
        if name in SERIES:
            measures = list(SERIES[name](given, rule))
        else:
            rows = given.query(name)
            found = zip(rows["item"], rows["value"], rows["detail"], strict=True)
            measures = [Measure(str(item), float(value), str(detail)) for item, value, detail in found]
    except Exception as error:  # whatever the engine says: this check is red, the others go on
        return fail_check(name, rule, error)
    return judge(name, rule, measures)


def _count_months(days: pd.DataFrame) -> pd.DataFrame:
    by_month = days.assign(month=[f"{day:%Y-%m}" for day in days["day"]], entity=days["entity"].str.replace("_", " "))
    table = by_month.pivot_table(index="month", columns="entity", values="records", aggfunc="sum", fill_value=0)
    return table.iloc[::-1].rename_axis(columns=None).reset_index()


def _rank_newest_week(given: _Sources) -> pd.DataFrame:
    measures = given.compare_newest_week(company=True)
    rows = [(each.item.removeprefix(f"{series.COMPANY}, "), each.detail, each.value) for each in measures]
    frame = pd.DataFrame(rows, columns=["KPI", "newest week", "times the usual variation"])
    return frame.sort_values("times the usual variation", ascending=False)
