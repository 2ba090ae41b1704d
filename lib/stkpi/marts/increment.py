"""What a build of the marts has to compute: everything, or the weeks that changed since the last build.

A full rebuild and the nightly increment run the same SELECTs and differ in two bounds (`Bounds`). What changed is
found by comparing the records with what the last build saw of them (st_ref_v2.records); st_ref_v2.roots says when the
first record of the same job was created: from then on is read, and no other part of the history. An increment ends with
the rows that a full rebuild would give; where no bound can promise that (other SQL, units, job types or rules, an
earlier last day), everything is computed.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import astuple, dataclass, replace
from datetime import UTC, date, datetime, timedelta
from functools import reduce
from typing import Any, Literal

import pandas as pd

from stkpi import settings
from stkpi.errors import UserError
from stkpi.ingest import state
from stkpi.kpis.definition import Definition
from stkpi.warehouse import Warehouse, ensure_tables

BUILDS = "st_logs_v2.builds"
RECORDS = "st_ref_v2.records"
# As the raw tables are now, from the oldest record on that was loaded since the last build.
COMPARED_RECORDS = "st_stage_v2.records"
# Any row may depend on these: where one of them changes, everything is computed.
REFERENCES = ("st_ref_v2.dim_business_units", "st_ref_v2.dim_job_types")
# The entities that are in RECORDS.
COMPARED = (
    "('jobs', 'appointments', 'estimates', 'invoices', 'payments', 'payroll', 'purchase_orders', 'returns', "
    "'vendor_bills', 'credit_memos')"
)
# A window that was being read while the last build started may have been committed after it.
OVERLAP = timedelta(days=1)
WEEK = timedelta(days=7)
EVERY = "*"
EVER, NEVER = datetime.min.replace(tzinfo=UTC), datetime(9999, 12, 31, tzinfo=UTC)


@dataclass(frozen=True)
class Bounds:
    """From where on rows are computed. A full rebuild has no bounds: the first day and instant that there are.

    created_from: what hangs together and was created from then on is read, and its rows are replaced
    changed_from: a Monday; of facts only the rows from this day on, and of KPI tables all rows from it on
    """

    created_from: datetime = EVER
    changed_from: date = date.min

    def widen(self) -> Bounds:
        """The bounds with one more week: by another zone or window a row can count in the week before its own."""
        return replace(self, changed_from=max(self.changed_from, date.min + WEEK) - WEEK)

    def __or__(self, other: Bounds) -> Bounds:
        """The bounds within which both are."""
        return Bounds(*map(min, astuple(self), astuple(other)))


Mode = Literal["full", "increment", "days", "nothing"]


@dataclass(frozen=True)
class Plan:
    """What a build computes: all, what lies within the bounds, only the KPI tables of new days, or nothing."""

    mode: Mode
    reason: str
    bounds: Bounds = Bounds()
    compared_from: datetime = NEVER  # what was created from then on is in COMPARED_RECORDS
    since: datetime | None = None  # when the last complete build ended; None: there is none
    interrupted: Bounds | None = None  # what builds that did not end since may have computed
    recounted: tuple[str, ...] = ()  # the KPIs that count by another definition, or other SQL, than they did

    @property
    def has_records(self) -> bool:
        """Whether COMPARED_RECORDS has all records that are to be replaced; a root may begin before them."""
        return self.bounds.created_from >= self.compared_from


def make_plan(
    target: Warehouse,
    selects: Mapping[str, str],
    given: Mapping[str, Any],
    departures: Mapping[str, Mapping[str, str]],
    *,
    full: bool,
) -> Plan:
    """Decide what is to be computed.

    selects: the SELECT of each mart by its table; given: the values of @time_zone, @first_day and @as_of
    departures: where the company's definitions depart from the default, by KPI
    """
    ensure_tables(target, state.TABLES)
    lines: list[Any] = target.query(
        f"SELECT * FROM {BUILDS}"
        f" WHERE noted_at >= (SELECT MAX(noted_at) FROM {BUILDS} WHERE status = 'complete') ORDER BY noted_at"
    ).to_dict("records")
    if not lines:
        return Plan("full", "as asked" if full else "it is the first build")
    if lines[0]["noted_at"] > datetime.now(UTC):
        return Plan("full", "the last build says that it was made in the future")
    reasons = [] if full else list(_full_rebuild_reasons(target, selects, given, departures, lines))
    if full or reasons:
        plan = Plan("full", "as asked" if full else reasons[0])
    else:
        plan = _plan_increment(target, selects[RECORDS], given, lines)
        if departures and plan.mode != "nothing":
            plan = replace(plan, bounds=plan.bounds.widen())
    last, *unfinished = lines
    started = [_read_bounds(line) if line["mode"] != "full" else Bounds() for line in unfinished]
    return replace(
        plan,
        since=last["noted_at"].to_pydatetime(),
        interrupted=reduce(Bounds.__or__, started) if started else None,
        recounted=tuple(_list_recounted(last, selects, given, departures)),
    )


def _list_recounted(
    last: Mapping[str, Any],
    selects: Mapping[str, str],
    given: Mapping[str, Any],
    departures: Mapping[str, Mapping[str, str]],
) -> list[str]:
    """The KPIs whose definition is another since the last build; EVERY where the SQL or the time zone is."""
    before = {} if pd.isna(last["departures"]) else json.loads(last["departures"])
    if changed := [name for name in {**before, **departures} if before.get(name) != departures.get(name)]:
        return changed
    return [EVERY] if last["digest"] != compute_digest(selects, given["time_zone"]) else []


def record_build(target: Warehouse, status: str, line: Mapping[str, Any]) -> None:
    """Write down what a build is going to do, or that it's done: the next one takes over what did not end."""
    values = {**line, "status": status, "noted_at": datetime.now(UTC)}
    if status == "complete":  # what a wrong clock has noted would stay the newest for ever
        target.execute(f"DELETE FROM {BUILDS} WHERE noted_at > @noted_at", **values)
    names, marks = ", ".join(values), ", ".join(f"@{name}" for name in values)
    target.execute(f"INSERT INTO {BUILDS} ({names}) VALUES ({marks})", **values)


def check_built(target: Warehouse, definitions: Mapping[str, Definition]) -> None:
    """Raise UserError where the tables count a KPI by another definition than the one in force."""
    try:
        lines: list[Any] = target.query(
            f"SELECT * FROM {BUILDS} WHERE status = 'complete' ORDER BY noted_at DESC LIMIT 1"
        ).to_dict("records")
    except target.NotFound:
        return
    found = lines[0].get("departures") if lines else None
    built = json.loads(found) if isinstance(found, str) else {}
    changed = [d.kpi.label for name, d in definitions.items() if built.get(name, {}) != d.departures]
    if changed:
        raise UserError(
            f"Another definition of {', '.join(changed)} is in force since the tables were built: run the nightly or a "
            "rebuild first."
        )


def compute_digest(selects: Mapping[str, str], time_zone: str) -> str:
    """Changes with what the tables are made by."""
    return hashlib.sha256("\n".join((time_zone, *selects.values())).encode()).hexdigest()


def _full_rebuild_reasons(
    target: Warehouse,
    selects: Mapping[str, str],
    given: Mapping[str, Any],
    departures: Mapping[str, Mapping[str, str]],
    lines: Sequence[Mapping[str, Any]],
) -> Iterable[str]:
    """Say why everything must be computed; `lines` are the last complete build and those after it."""
    last, *unfinished = lines
    if any(line["mode"] == "full" for line in unfinished):
        yield "the last rebuild did not end"
    before = {} if pd.isna(last["departures"]) else json.loads(last["departures"])
    if changed := [name for name in {**before, **departures} if before.get(name) != departures.get(name)]:
        yield f"another definition is in force for {', '.join(sorted(changed))}"
    if last["digest"] != compute_digest(selects, given["time_zone"]):
        yield "the SQL or the time zone changed"
    if given["as_of"] < last["as_of"]:
        yield f"the last build reached {last['as_of']}, a later day"
    if missing := sorted(selects.keys() - target.list_columns("st_ref_v2", "st_mart_v2").keys()):
        yield f"{', '.join(missing)} is missing"
    if any(_differs_from_table(target, name, selects[name], given) for name in REFERENCES):
        yield "a business unit, a job type or a rule of theirs changed"


def _differs_from_table(target: Warehouse, table: str, select: str, given: Mapping[str, Any]) -> bool:
    """Whether the SELECT gives other rows than the table has."""
    now, before = (target.query(sql, **given).astype(str) for sql in (select, f"SELECT * FROM {table}"))
    return set(now.itertuples(index=False, name=None)) != set(before.itertuples(index=False, name=None))


def _plan_increment(
    target: Warehouse,
    records: str,
    given: Mapping[str, Any],
    lines: Sequence[Mapping[str, Any]],
) -> Plan:
    """The bounds of what changed, of new days, and of what builds since the last complete one may have left undone."""
    last, *unfinished = lines
    parts = [(line["mode"], line["reason"], _read_bounds(line)) for line in unfinished if line["mode"] != "nothing"]
    found = _compare_records(target, records, given, last["started_at"].to_pydatetime() - OVERLAP)
    if found["records"] or found["customers"]:
        told = (_count_noun(found["records"], "record"), _count_noun(found["jobs"], "job"))
        names = f", {_count_noun(found['customers'], 'customer')} new or renamed" if found["customers"] else ""
        parts.append(("increment", f"{told[0]} of {told[1]} changed{names}", _read_bounds(found)))
    if given["as_of"] > last["as_of"]:
        new = last["as_of"] + timedelta(days=1)
        bounds = Bounds(NEVER, new - timedelta(days=new.weekday()))
        parts.append(("days", f"the days from {new} on are new", bounds))
    if not parts:
        none = Bounds(NEVER, NEVER.date())
        return Plan("nothing", f"nothing changed since {last['started_at']:%Y-%m-%d %H:%M} UTC", none)
    mode: Mode = "increment" if any(mode == "increment" for mode, _, _ in parts) else "days"
    reasons = "; ".join(dict.fromkeys(reason for _, reason, _ in parts))
    return Plan(mode, reasons, reduce(Bounds.__or__, (each for _, _, each in parts)), found["compared_from"])


def _compare_records(target: Warehouse, records: str, given: Mapping[str, Any], since: datetime) -> dict[str, Any]:
    """How much changed since the last build and its bounds, see sql/increment/bounds.sql.

    Records that were created before the oldest one that was loaded since have not changed: they are not compared.
    """
    oldest = target.query(
        f"SELECT MIN(IF(entity IN {COMPARED}, oldest, NULL)) AS record, MIN(IF(entity = 'customers', oldest, NULL))"
        " AS customer FROM st_logs_v2.ingestion_logs WHERE finished_at >= @since",
        since=since,
    ).iloc[0]
    record, customer = (
        NEVER if pd.isna(found) else found.to_pydatetime() for found in (oldest.record, oldest.customer)
    )
    target.execute(f"CREATE OR REPLACE TABLE {COMPARED_RECORDS} AS\n{records}", **given, created_from=record)
    sql = (settings.ROOT / "sql" / "increment" / "bounds.sql").read_text(encoding="utf-8")
    found: Any = target.query(sql, oldest=record, oldest_customer=customer).to_dict("records")[0]
    return found | {"compared_from": record}


def _read_bounds(line: Mapping[str, Any]) -> Bounds:
    """The bounds that a row has; what has no date is where no date can be."""
    created, changed = line["created_from"], line["changed_from"]
    return Bounds(NEVER if pd.isna(created) else created.to_pydatetime(), NEVER.date() if pd.isna(changed) else changed)


def describe_plan(done: Plan, first_day: date, as_of: date) -> str:
    """Which weeks were computed and why."""
    if done.mode in ("nothing", "full"):
        return f"{'No week was' if done.mode == 'nothing' else 'All weeks were'} computed: {done.reason}."
    start = max(done.bounds.changed_from, first_day)
    weeks = max(0, (as_of - start).days // 7 + 1)
    since = f" from {start:%A, %d %B %Y} on" if weeks else ""
    return f"{_count_noun(weeks, 'week')}{since} computed: {done.reason}."


def _count_noun(number: int, noun: str) -> str:
    return f"{number:,} {noun}{'s' * (number != 1)}"
