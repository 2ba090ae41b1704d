"""An increment of the marts ends with the rows of a rebuild, whatever changed, and computes no more than it must."""

from __future__ import annotations

import json
import os
import shutil
from datetime import UTC, date, datetime, timedelta
from itertools import count
from pathlib import Path
from random import Random
from typing import Any

import duckdb
import pytest
import requests

from sandbox.store import Store
from sandbox.tenant import LAST_DAY, populate
from stkpi import company, settings, warehouse
from stkpi.ingest import load
from stkpi.ingest import run as ingest
from stkpi.marts import build as marts
from stkpi.marts import increment
from stkpi.marts import invoice_repair as repair
from stkpi.servicetitan.client import Page
from stkpi.servicetitan.entities import ENTITIES
from stkpi.servicetitan.windows import Window

Record = dict[str, Any]
EDITED = (
    "jobs", "appointments", "estimates", "invoices", "payments", "payroll", "purchase_orders", "returns", "customers",
    "vendor_bills", "credit_memos",
)  # fmt: skip
CLOCK = count()


def difference(file: Path, as_of: date) -> dict[str, int]:
    """The tables to which a full rebuild, of a copy of the warehouse, gives other rows; and how many rows differ."""
    copy = Path(shutil.copy(file, file.with_name("whole.duckdb")))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("WAREHOUSE", str(copy))
        assert marts.build_marts(as_of.isoformat(), full=True).plan.mode == "full"
    found = {}
    with duckdb.connect() as connection:
        connection.execute(f"ATTACH '{file}' AS night (READ_ONLY); ATTACH '{copy}' AS whole (READ_ONLY)")
        for mart in marts.list_marts():
            if mart.kind == "TABLE":
                night, whole = (f"(SELECT * FROM {name}.{mart.name})" for name in ("night", "whole"))
                either = f"({night} EXCEPT ALL {whole}) UNION ALL ({whole} EXCEPT ALL {night})"
                found[mart.name] = connection.execute(f"SELECT COUNT(*) FROM ({either})").fetchone()[0]
    return {name: rows for name, rows in found.items() if rows}


def held(entity: str, where: str = "TRUE") -> list[Record]:
    """The records of an entity as they came, oldest first."""
    with warehouse.connect() as target:
        rows = target.query(f"SELECT _record FROM {ENTITIES[entity].table} WHERE {where} ORDER BY createdOn, _key")
    return [json.loads(record) for record in rows["_record"]]


def put(file: Path, entity: str, records: list[Record], window: Window | None = None) -> None:
    """Load records as an ingest does; with a window as all that there is of the slice."""
    stamp = datetime(2025, 9, 16, tzinfo=UTC) + timedelta(minutes=next(CLOCK))
    rows = [record | {"modifiedOn": stamp.isoformat()} for record in records]
    own = ENTITIES[entity]
    read = load.Reading(own, f"test-{stamp:%H%M}", "incremental", "test", window, removes=window is not None)
    with warehouse.connect() as target:
        load.load_pages(target, file.with_suffix(".landing"), read, [Page(rows, has_more=False, total=len(rows))])


# --- any edit of any record -------------------------------------------------------------------------------------------


class Editor:
    """Changes random records in every way that moves a number: dates, links, money, flags; and makes new ones."""

    def __init__(self, seed: int) -> None:
        self.rng = Random(seed)
        self.records = {entity: held(entity) for entity in EDITED}
        self.new_ids = count(9_000_000_000)

    def edits(self, entity: str, number: int, newest: int) -> list[Record]:
        """Changed copies of records, of the `newest` ones only, and a few new records."""
        pool = self.records[entity][-newest:]
        changed = {record["id"]: record for record in self.rng.choices(pool, k=number)}.values()
        records = [self.edited(entity, record) for record in changed]
        born = self.edited(entity, self.rng.choice(pool)) | {"id": next(self.new_ids), "createdOn": self.created()}
        return [*records, born]

    def edited(self, entity: str, record: Record) -> Record:
        rng, job = self.rng, self.some("jobs")
        match entity:
            case "jobs":
                unit, kind = self.some("jobs"), self.some("jobs")
                other = {
                    "businessUnitId": unit["businessUnitId"],
                    "jobTypeId": kind["jobTypeId"],
                    "customerId": kind["customerId"],
                    "completedOn": self.instant(),
                    "jobStatus": rng.choice(("Completed", "Canceled", "Scheduled")),
                    "firstAppointmentId": self.some("appointments")["id"],
                    "warrantyId": rng.choice((None, 5)),
                }
            case "appointments":
                other = {"jobId": job["id"], "start": self.instant(), "active": rng.random() < 0.8, "status": "Done"}
            case "estimates":
                status = {"name": rng.choice(("Sold", "Open"))}
                other = {"jobId": self.link(job), "status": status, "soldOn": self.instant(), "subtotal": self.money()}
            case "invoices":
                named = rng.choice((None, {"id": self.link(job)}))
                other = {"job": named, "invoiceDate": self.day(), "total": self.money(), "subTotal": self.money()}
                other["active"] = rng.random() < 0.8
            case "payments":
                parts = [
                    {
                        "appliedId": next(self.new_ids),
                        "appliedTo": self.link(self.some("invoices")),
                        "appliedAmount": str(self.money()),
                        "appliedOn": self.instant(),
                    }
                    for _ in range(rng.randrange(3))
                ]
                other = {"appliedTo": parts, "date": self.day(), "unappliedAmount": str(rng.choice((0, self.money())))}
                other["active"] = rng.random() < 0.8
            case "credit_memos":
                part = {"appliedTo": self.link(self.some("invoices")), "appliedAmount": 7.5, "appliedOn": self.day()}
                parts = [part | {"appliedId": next(self.new_ids)} for _ in range(rng.randrange(3))]
                other = {"appliedTo": parts, "date": self.day(), "balance": rng.choice((0, self.money()))}
                other["active"] = rng.random() < 0.8
            case "payroll":
                other = {"jobId": rng.choice((None, self.link(job))), "amount": self.money()}
            case "purchase_orders":
                other = {"jobId": self.link(job), "total": self.money(), "status": rng.choice(("Sent", "Canceled"))}
            case "vendor_bills":
                order = rng.choice((None, self.some("purchase_orders")["id"]))
                other = {"jobId": self.link(job), "purchaseOrderId": order, "billAmount": str(self.money())}
            case "returns":
                other = {"jobId": self.link(job), "returnAmount": self.money(), "active": rng.random() < 0.8}
            case _:
                other = {"name": rng.choice(("A test", "Anna", None))}
        kept = {name: value for name, value in other.items() if rng.random() < 0.6}
        return record | kept | {"summary": next(self.new_ids)}

    def some(self, entity: str) -> Record:
        return self.rng.choice(self.records[entity])

    def link(self, record: Record) -> int:
        """The record's id, or one that nothing has yet: it may come later."""
        return record["id"] if self.rng.random() < 0.9 else 9_000_000_000 + self.rng.randrange(40)

    def created(self) -> str | None:
        return self.rng.choice((None, self.instant(), "2025-09-14T12:00:00Z", "2025-09-14T12:00:00Z"))

    def day(self) -> str:
        return f"{LAST_DAY + timedelta(days=self.rng.choice((-1, -9, -400, 9, 300, self.rng.randrange(-700, 500))))}"

    def instant(self) -> str | None:
        return self.rng.choice((None, f"{self.day()}T03:00:00Z", f"{self.day()}T20:00:00Z"))

    def money(self) -> float:
        return self.rng.randrange(-50_000, 900_000) / 100


@pytest.mark.soak
@pytest.mark.parametrize("seed", [1, 2])
def test_after_any_edits_an_increment_equals_a_rebuild(seed, healthy):
    editor = Editor(seed)
    modes = []
    for night in range(1, 7):
        newest = 30 if night % 2 else 1_000_000
        for entity in editor.rng.sample(EDITED, night % 4 + 1):
            put(healthy, entity, editor.edits(entity, editor.rng.randrange(4), newest))
        as_of = LAST_DAY + timedelta(days=night // 2)
        modes.append(marts.build_marts(as_of.isoformat()).plan.mode)
        assert difference(healthy, as_of) == {}, f"night {night}"
    assert set(modes) == {"increment"}


@pytest.mark.soak
def test_credit_memos_that_count_are_followed_by_an_increment(healthy, tmp_path, monkeypatch):
    monkeypatch.setenv("COMPANY", str(shutil.copytree(os.environ["COMPANY"], tmp_path / "own")))
    company.adopt_definition(settings.load(), "outstanding_ar", {"entity": "all_credits"}, adopted_on=LAST_DAY)
    assert marts.build_marts().plan.mode == "full"
    editor, before = Editor(3), total_owed()
    put(healthy, "credit_memos", editor.edits("credit_memos", 3, 1_000_000))
    assert marts.build_marts().plan.mode == "increment"
    assert total_owed() != before
    assert difference(healthy, LAST_DAY) == {}


def total_owed() -> Any:
    with warehouse.connect() as target:
        return target.query("SELECT SUM(amount) AS amount FROM st_mart_v2.fact_receivables")["amount"][0]


# --- nights of a tenant over HTTP -------------------------------------------------------------------------------------


@pytest.mark.soak
@pytest.mark.parametrize("seed", [2, 5])
def test_night_after_night_an_increment_equals_a_rebuild(seed, serve, tmp_path, monkeypatch):
    store = Store()
    populate(store, seed=seed, scale=0.02)
    tenant = serve(store, seed=seed, calls_per_second=1_000_000, export_page_size=300)
    file = tmp_path / "warehouse.duckdb"
    for name, value in (tenant.environment | {"WAREHOUSE": str(file)}).items():
        monkeypatch.setenv(name, value)
    for step in range(4):
        if step:
            requests.post(f"{tenant.url}/sandbox/mutate", json={"step": step}, timeout=60).raise_for_status()
        assert ingest.run_ingest().status == "ok"
        as_of = LAST_DAY + timedelta(days=step)
        plan = marts.build_marts(as_of.isoformat()).plan
        assert plan.mode == ("increment" if step else "full")
        if step:
            assert difference(file, as_of) == {}, f"night {step}"


# --- no more than it must ---------------------------------------------------------------------------------------------


def test_where_nothing_changed_nothing_is_computed_but_new_days(healthy):
    before = marts.build_marts()
    assert before.plan.mode == "nothing"
    assert before.headline.startswith("No week was computed: nothing changed since 20")
    with warehouse.connect() as target:  # views are not counted: that computes all of their rows
        views = {name for dataset in ("st_ref_v2", "st_mart_v2") for name in target.list_views(dataset)}
    assert {"st_mart_v2.dashboard_daily", "st_ref_v2.candidates_jobs"} <= views
    assert not views & set(before.tables["table"])
    wednesday = LAST_DAY + timedelta(days=3)
    after = marts.build_marts(wednesday.isoformat())
    assert after.headline == ("1 week from Monday, 15 September 2025 on computed: the days from 2025-09-15 on are new.")
    assert set(after.tables.loc[after.tables["seconds"] > 0, "table"]) <= {
        "st_mart_v2.kpi_daily_by_bu", "st_mart_v2.kpi_weekly_by_bu"
    }  # fmt: skip
    assert difference(healthy, wednesday) == {}
    thursday = marts.build_marts((LAST_DAY + timedelta(days=4)).isoformat())  # the running week again
    assert thursday.plan.bounds.changed_from == date(2025, 9, 15)
    assert difference(healthy, LAST_DAY + timedelta(days=4)) == {}


def test_only_the_weeks_from_the_first_changed_one_are_computed(healthy):
    [job] = held("jobs", "createdOn >= '2025-09-10' AND jobStatus = 'Scheduled'")[:1]
    put(healthy, "jobs", [job | {"jobStatus": "Canceled"}])
    marker = "UPDATE st_mart_v2.fact_leads SET customer_name = 'kept' WHERE event_date < '2025-09-08'"
    with warehouse.connect() as target:
        target.execute(marker)
    built = marts.build_marts()
    assert built.headline == ("1 week from Monday, 08 September 2025 on computed: 1 record of 1 job changed.")
    with warehouse.connect() as target:
        earlier = target.query(
            "SELECT DISTINCT customer_name FROM st_mart_v2.fact_leads WHERE event_date < '2025-09-08'"
        )
    assert list(earlier["customer_name"]) == ["kept"]
    assert built.plan.bounds.created_from >= datetime(2025, 9, 8, tzinfo=UTC)


def test_a_window_of_one_more_day_computes_the_week_before_as_well(healthy, tmp_path, monkeypatch):
    """Leads up to the next Monday: what happens to a Monday's job changes two weeks, of which one has no record."""
    monkeypatch.setenv("COMPANY", str(shutil.copytree(os.environ["COMPANY"], tmp_path / "own")))
    company.adopt_definition(settings.load(), "leads", {"window": "late_end"}, adopted_on=LAST_DAY)
    assert marts.build_marts().plan.mode == "full"
    before = count_leads("2025-09-01")
    monday = "createdOn BETWEEN '2025-09-08 15:00:00+00' AND '2025-09-09 06:00:00+00' AND jobStatus != 'Canceled'"
    put(healthy, "jobs", [job | {"jobTypeId": 0} for job in held("jobs", monday)])
    assert marts.build_marts().plan.bounds.changed_from == date(2025, 9, 1)
    assert count_leads("2025-09-01") < before
    assert difference(healthy, LAST_DAY) == {}


def count_leads(week: str) -> int:
    with warehouse.connect() as target:
        sql = f"SELECT SUM(leads) AS leads FROM st_mart_v2.kpi_weekly_by_bu WHERE week_start = '{week}'"
        return int(target.query(sql)["leads"][0])


def test_pay_that_is_taken_back_leaves_its_job(healthy):
    day = datetime(2025, 9, 8, tzinfo=UTC)
    window = Window(day, day + timedelta(days=1))
    items = held("payroll", "date = '2025-09-08'")
    assert items
    put(healthy, "payroll", items[1:], window)
    assert marts.build_marts().plan.mode == "increment"
    assert difference(healthy, LAST_DAY) == {}


@pytest.mark.parametrize(
    ("entity", "cost"), [("purchase_orders", "total"), ("returns", "returnAmount"), ("vendor_bills", "billAmount")]
)
def test_a_cost_that_is_another_now_computes_its_job_again(healthy, entity, cost):
    record = held(entity, "createdOn >= '2025-06-01' AND jobId IS NOT NULL")[-1]
    put(healthy, entity, [record | {cost: 4321.09}])
    built = marts.build_marts()
    assert built.plan.mode == "increment"
    assert "1 record of 1 job changed" in built.headline


def test_what_was_paid_before_its_invoice_goes_with_it_to_another_job(healthy, monkeypatch):
    """The payment is older than the invoice that moves, and than any record that was loaded since the last build."""
    monkeypatch.setattr(increment, "OVERLAP", timedelta(0))
    payment, *_ = held("payments", "createdOn >= '2025-06-01' AND createdOn < '2025-07-01'")
    [one, other, *_] = held("invoices", "createdOn >= '2025-09-08' AND jobId IS NOT NULL AND adjustmentToId IS NULL")
    part = payment["appliedTo"][0] | {"appliedTo": one["id"]}
    put(healthy, "payments", [payment | {"appliedTo": [part]}])
    marts.build_marts()
    assert difference(healthy, LAST_DAY) == {}
    put(healthy, "invoices", [one | {"job": other["job"]}])
    assert marts.build_marts().plan.mode == "increment"
    assert difference(healthy, LAST_DAY) == {}


def test_a_repair_counts_as_a_change(healthy):
    with warehouse.connect() as target:
        target.execute(
            "UPDATE st_raw_v2.raw_invoices SET jobId = NULL, jobNumber = NULL"
            " WHERE createdOn >= '2025-09-08' AND createdOn < '2025-09-09'"
        )
    marts.build_marts(full=True)
    repaired = repair.run(dry_run=False)
    assert repaired.filled > 0
    built = marts.build_marts()
    assert built.plan.mode == "increment"
    assert f"{repaired.filled:,} records of" in built.headline
    assert difference(healthy, LAST_DAY) == {}
    assert repair.run(dry_run=False).filled == 0
    assert marts.build_marts().plan.mode == "nothing"


# --- what makes a rebuild ---------------------------------------------------------------------------------------------

RULES = "a business unit, a job type or a rule of theirs changed"
LATER = "the last build reached 2025-09-21, a later day"


def test_a_build_that_was_killed_is_made_up_for(healthy, monkeypatch):
    editor = Editor(4)
    put(healthy, "jobs", editor.edits("jobs", 3, 30))
    put(healthy, "customers", editor.edits("customers", 3, 30))
    computed = []

    def dies(target, mart, mode, parameters):
        if mart.name == "st_mart_v2.fact_leads":
            raise KeyboardInterrupt
        computed.append(mart.name)
        return compute(target, mart, mode, parameters)

    compute = marts._compute
    with monkeypatch.context() as patch:
        patch.setattr(marts, "_compute", dies)
        with pytest.raises(KeyboardInterrupt):
            marts.build_marts()
    assert {"st_ref_v2.records", "st_ref_v2.dim_customers"} <= set(computed)  # what would tell is overwritten
    assert marts.build_marts().plan.mode == "increment"
    assert difference(healthy, LAST_DAY) == {}


def test_a_rebuild_that_was_killed_is_repeated(healthy, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(marts, "_compute", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            marts.build_marts(full=True)
    assert marts.build_marts().headline == "All weeks were computed: the last rebuild did not end."


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ("UPDATE st_raw_v2.raw_business_units SET name = 'Phoenix South' WHERE id = 1001", RULES),
        ("UPDATE st_raw_v2.raw_job_types SET name = 'Look and see' WHERE name LIKE 'ESTIMATE%'", RULES),
        ("DROP TABLE st_mart_v2.fact_leads", "st_mart_v2.fact_leads is missing"),
        ("UPDATE st_logs_v2.builds SET digest = 'of other SQL' WHERE TRUE", "the SQL or the time zone changed"),
        ("UPDATE st_logs_v2.builds SET as_of = '2025-09-21' WHERE TRUE", LATER),
        ("DELETE FROM st_logs_v2.builds WHERE TRUE", "it is the first build"),
    ],
)  # fmt: skip
def test_what_cannot_be_bounded_makes_a_rebuild(change, reason, healthy):
    with warehouse.connect() as target:
        target.execute(change)
    assert marts.build_marts().headline == f"All weeks were computed: {reason}."
    assert marts.build_marts().plan.mode == "nothing"
