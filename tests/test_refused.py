"""A list that the API application may not read: a night goes on without an optional one, and says so until it may."""

from datetime import UTC, datetime

import pytest
import requests

from sandbox import server
from sandbox.store import Store
from sandbox.tenant import LAST_DAY, populate
from stkpi import settings, warehouse
from stkpi.errors import UserError
from stkpi.ingest import run as ingest
from stkpi.ingest import state
from stkpi.marts import build as marts
from stkpi.runs import doctor
from stkpi.servicetitan.entities import ENTITIES
from stkpi.validation import series
from stkpi.validation.checks import read_thresholds

LISTS = {"vendor_bills": "/inventory-bills/paginated$", "credit_memos": "/credit-memos$"}


def refuse(running: server.Sandbox, *paths: str, status: int = 403) -> None:
    """Refuse these paths from now on, and no other."""
    requests.delete(f"{running.url}/sandbox/faults", timeout=10).raise_for_status()
    for path in paths:
        order = {"path": path, "fault": "status", "status": status}
        requests.post(f"{running.url}/sandbox/faults", json=order, timeout=10).raise_for_status()


@pytest.fixture
def start(serve, monkeypatch, tmp_path):
    """`start(store)` serves a company, and points the settings at it and at a warehouse that is not there yet."""

    def run(store: Store) -> server.Sandbox:
        running = serve(store, calls_per_second=1_000_000)
        more = {"WAREHOUSE": str(tmp_path / "warehouse.duckdb"), "AS_OF": LAST_DAY.isoformat()}
        for name, value in (running.environment | more).items():
            monkeypatch.setenv(name, value)
        return running

    return run


def read_all() -> tuple[str, set[str]]:
    """Read everything; return the status, and which entities were refused."""
    report = ingest.run_ingest()
    refused = [each for each in report.entities if each.status == "refused"]
    assert all("not permitted (403)" in each.error for each in refused)
    return report.status, {each.entity for each in refused}


def sum_produced() -> tuple[int, float]:
    """Build, and return how many jobs were produced, and the sum of the vendor bills among their costs."""
    marts.build_marts(LAST_DAY.isoformat())
    with warehouse.connect() as target:
        [made] = target.query("SELECT COUNT(*) AS n, SUM(bills) AS bills FROM st_mart_v2.fact_production").to_dict(
            "records"
        )
    return made["n"], float(made["bills"])


def find_told() -> tuple[set[str], set[str]]:
    """The lists that the check of the night names, which is yellow, and those that the status names."""
    with warehouse.connect() as target:
        status = state.read_status(target)
    rule = read_thresholds().checks["refused_lists"]
    measures = [each for each in series.measure_refusals(status) if rule.color(each.item, each.value) == "yellow"]
    # The check of the last readings, which is red for what was not read, leaves them to this one.
    assert all(each.value < 1 for each in series.measure_reads(status, datetime.now(UTC)))
    told = [line.split()[0] for line in ingest.describe_status() if "ServiceTitan refuses it" in line]
    return {each.item.replace(" ", "_") for each in measures}, set(told)


def test_a_night_without_vendor_bills_and_credit_memos_and_the_one_that_may_read_them(start):
    store = Store()
    populate(store, seed=3, scale=0.003)
    running = start(store)
    refuse(running, *LISTS.values())
    assert read_all() == ("ok", LISTS.keys())
    jobs, bills = sum_produced()
    assert (jobs > 10, bills) == (True, 0)
    assert find_told() == (LISTS.keys(), LISTS.keys())
    with pytest.raises(doctor.Note, match=r"\(403\): Accounting > Inventory Bills; Accounting > Credit Memos\. At"):
        doctor.check_scopes(settings.load())

    refuse(running)
    assert read_all() == ("ok", set())
    again, bills = sum_produced()
    assert (again, bills > 0) == (jobs, True)
    assert find_told() == (set(), set())
    with warehouse.connect() as target:
        assert state.count_stored(target, ENTITIES["credit_memos"]) == len(list(store.rows("credit_memos"))) > 0
        stored = state.count_stored(target, ENTITIES["vendor_bills"])

    # What was read before the scope was taken away stays.
    refuse(running, LISTS["vendor_bills"])
    [result] = ingest.run_ingest("vendor_bills").entities
    assert result.status == "refused"
    assert find_told() == ({"vendor_bills"}, {"vendor_bills"})
    with warehouse.connect() as target:
        assert state.count_stored(target, ENTITIES["vendor_bills"]) == stored > 0


def test_a_list_that_the_tenant_does_not_have_is_no_different(start):
    running = start(Store())
    refuse(running, LISTS["credit_memos"], status=404)
    [result] = ingest.run_ingest("credit_memos").entities
    assert (result.status, "answers 404" in result.error) == ("refused", True)
    with pytest.raises(doctor.Note, match="answers 404"):
        doctor.check_scopes(settings.load())


def test_any_other_list_and_any_other_failure_still_stop_the_figures(start):
    running = start(Store())
    refuse(running, "/returns$", LISTS["credit_memos"])
    report = ingest.run_ingest()
    found = {each.entity: each.status for each in report.entities if each.status != "ok"}
    assert found == {"returns": "failed", "credit_memos": "refused"}
    assert report.status == "partial"
    with pytest.raises(UserError, match="Inventory > Returns"):
        doctor.check_scopes(settings.load())
    with warehouse.connect() as target:
        assert state.find_unread(target, ENTITIES.values()) == ["returns"]
        # Lists that are empty were read.
        assert set(state.read_status(target)["entity"]) == ENTITIES.keys() - {"returns"}
    with pytest.raises(UserError, match="Nothing of returns was read"):
        marts.build_marts(LAST_DAY.isoformat())
