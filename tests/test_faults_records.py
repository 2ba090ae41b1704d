"""Wrong without an error: records that cannot be what they say (faults 83 to 89, 111, 113, 118, 120, 122).

One bad record never stops the others, and never becomes another figure in silence.
"""

import re
from datetime import UTC, date, datetime
from typing import Any

import pytest
from small_company import column, job, pay, quarantine, run

from sandbox.faults import Order
from stkpi import warehouse
from stkpi.ingest import run as ingest
from stkpi.ingest.shapes import find_faults
from stkpi.marts import build as marts
from stkpi.servicetitan import entities
from stkpi.servicetitan.entities import ENTITIES
from stkpi.validation import run as validation

CREATED = {"createdOn": "2025-01-05T00:00:00Z", "modifiedOn": "2025-01-05T00:00:00Z"}


def read_twice(entity: str) -> Any:
    """Read an entity, and again on the next night, which must neither find nor lose a thing."""
    first, second = run(entity)[entity], run(entity)[entity]
    assert (second.changed, second.deleted, second.status) == (0, 0, first.status)
    assert first.fetched == first.loaded + first.quarantined
    return first


# --- 83, 87, 113: what Python or JSON cannot hold ---------------------------------------------------------------------


def test_083_half_an_emoji_goes_to_quarantine_alone_until_it_is_whole(api, break_):
    break_("mangle", "jobs$", field="summary", raw='"paint \\ud83d"', ids=[110])
    assert read_twice("jobs").status == "partial"
    assert (len(column("id")), "110" in column("id")) == (29, False)
    assert quarantine() == [("jobs", "110", "summary holds half a character, as of an emoji")]
    break_()
    assert [r.error for r in ingest.run_ingest("jobs", "full").entities] == [None]
    assert (len(column("id")), quarantine()) == (30, [])


@pytest.mark.parametrize(("raw", "shown"), [("1e400", "1e400"), ("-1e999", "-1e999"), ("NaN", "NaN"), ("1e35", "1e35")])
def test_087_a_number_beyond_all_numbers_goes_to_quarantine_alone(raw, shown, api, break_):
    break_("mangle", "jobs$", field="total", raw=raw, ids=[110])
    assert read_twice("jobs").status == "partial"
    assert len(column("id")) == 29
    assert quarantine() == [("jobs", "110", f"total is not NUMERIC: {shown}")]


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"field": "id", "value": [1, 2]}, "id is a list"),
        ({"field": "id", "value": {"value": 110}}, "id is an object"),
        ({"field": "id", "value": True}, "id is not INT64: true"),
    ],
)
def test_113_an_id_that_is_none_goes_to_quarantine_alone(change, reason, api, break_):
    break_("mangle", "jobs$", ids=[110], **change)
    assert run("jobs")["jobs"].status == "partial"
    assert len(column("id")) == 29
    assert [(entity, said) for entity, _, said in quarantine()] == [("jobs", reason)]


@pytest.mark.parametrize("raw", ["null", "7", '"x"', "[1]"])
def test_113_what_is_no_record_goes_to_quarantine_alone(raw, api, break_):
    break_("add_row", "jobs$", raw=raw)
    result = run("jobs")["jobs"]
    assert (result.status, len(column("id"))) == ("partial", 30)
    shown = {"null": "None", '"x"': "x"}.get(raw, raw)
    assert quarantine() == [("jobs", None, f"is not a record: {shown}")]


# --- 84 to 86, 113: what is no date of this world ---------------------------------------------------------------------

DATED = [
    (entity, field.name)
    for entity in ("jobs", "returns", "payroll")
    for field in ENTITIES[entity].fields
    if field.type in ("TIMESTAMP", "DATE")
]


@pytest.mark.parametrize("text", ["0001-01-01T00:00:00Z", "9999-12-31T23:59:59.9999999Z"])
def test_084_year_1_and_9999_in_any_date_field_are_no_date(text, api, monkeypatch):
    for entity in ("jobs", "returns", "payroll"):
        for number, field in enumerate(name for owner, name in DATED if owner == entity):
            record = {"jobs": job, "returns": lambda n: {"id": n, "active": True, **CREATED}, "payroll": pay}[entity]
            changed = record(2000 + number if entity != "payroll" else number) | {"id": 2000 + number, field: text}
            changed = CREATED | {k: v for k, v in changed.items() if k not in CREATED} | {field: text}
            api.store.add(entity, changed, datetime(2025, 1, 5, tzinfo=UTC))
    api.store.settle()
    results = run("jobs,returns,payroll")
    assert {name: (r.status, r.error) for name, r in results.items()} == dict.fromkeys(results, ("ok", None))
    assert all(result.windows < 12 for result in results.values())  # it were 2,024 from year 1 on
    for entity, field in DATED:
        number = [name for owner, name in DATED if owner == entity].index(field)
        assert str(column(f"`{field}`", entity)[str(2000 + number)]) in ("NaT", "None"), (entity, field)
    assert {r.changed for r in run("jobs,returns,payroll").values()} == {0}


@pytest.mark.parametrize("value", [None, "0001-01-01T00:00:00Z", "9999-12-31T00:00:00Z"])
def test_085_a_record_without_a_creation_arrives_and_so_does_its_change(value, api):
    api.store.add("jobs", job(200, createdOn=value, total=10), datetime(2025, 1, 5, tzinfo=UTC))
    api.store.settle()
    assert read_twice("jobs").status == "ok"
    assert str(column("total")["200"]) == "10.000000000"
    changed = job(200, createdOn=value, total=20.5, modifiedOn="2025-05-01T00:00:00Z")
    api.store.replace("jobs", 30, changed, datetime(2025, 5, 1, tzinfo=UTC))
    api.store.settle()
    assert run("jobs")["jobs"].status == "ok"
    assert str(column("total")["200"]) == "20.500000000"
    api.store.remove("jobs", 30)
    assert run("jobs")["jobs"].status == "ok"
    assert "200" not in column("id")


@pytest.mark.parametrize("value", [None, "0001-01-01T00:00:00Z"])
@pytest.mark.parametrize("late", [False, True])
def test_086_pay_without_a_date_arrives(late, value, api):
    if late:
        run("payroll")
    api.store.add(
        "payroll",
        pay(29, id=900, date=value, amount=19.25, modifiedOn="2025-01-11T00:00:00Z"),
        datetime(2025, 1, 11, tzinfo=UTC),
    )
    api.store.settle()
    assert read_twice("payroll").status == "ok"
    assert (len(column("_key", "payroll")), str(column("amount", "payroll")["900"])) == (31, "19.250000000")
    api.store.remove("payroll", 30)
    assert run("payroll")["payroll"].status == "ok"
    assert len(column("_key", "payroll")) == 30


# --- 88: a known field with another shape -----------------------------------------------------------------------------

SHAPES = [
    ("estimates", {"status": "Sold"}, "status is not an object: Sold", "status (a text)"),
    ("estimates", {"status": {"value": 1, "label": "Sold"}}, "status has no name", "status without name"),
    ("estimates", {"subtotal": {"amount": 7}}, "subtotal is an object", "subtotal (an object)"),
    ("invoices", {"job": 101}, "job is not an object: 101", "job (a number)"),
    ("invoices", {"job": {"jobId": 101}}, "job has no id", "job without id"),
    ("invoices", {"businessUnit": "Mesa"}, "businessUnit is not an object: Mesa", "businessUnit (a text)"),
    ("invoices", {"items": "3 gallons"}, "items is not a list: 3 gallons", "items (a text)"),
    ("invoices", {"items": ["3 gallons"]}, "items holds no object: 3 gallons", "items of a text"),
    ("invoices", {"items": [{"type": "Material", "cost": 5}]}, "items has no totalCost", "items without totalCost"),
    ("payments", {"appliedTo": 7}, "appliedTo is not a list: 7", "appliedTo (a number)"),
    ("payments", {"appliedTo": [{"invoice": 7}]}, "appliedTo has no appliedTo", "appliedTo without appliedTo"),
]  # fmt: skip


@pytest.mark.parametrize(("entity", "change", "reason", "drift"), SHAPES)
def test_088_another_shape_is_drift_and_a_reason_never_a_null(entity, change, reason, drift):
    faults = list(find_faults(ENTITIES[entity], {"id": 1, **change}))
    assert (faults[0].reason, faults[0].part) == (reason, drift)
    assert not list(find_faults(ENTITIES[entity], {"id": 1, **dict.fromkeys(change)}))  # null is no shape


def test_088_a_field_that_is_renamed_in_all_records_is_a_critical_red_that_names_it(healthy, sandbox):
    assert check("missing_fields").color == "green"
    renamed = Order(re.compile("/estimates$"), "mangle", {"field": "soldOn", "drop": True, "rows": 10_000})
    sandbox.faults.append(renamed)  # the company is everybody's: the fault goes before anybody else reads it
    try:
        assert ingest.run_ingest("estimates").status == "ok"
    finally:
        sandbox.faults.remove(renamed)
    found = check("missing_fields")
    assert (found.color, found.is_blocking) == ("red", True)
    assert "estimates: no record has soldOn any more" in found.found
    assert ingest.run_ingest("estimates").status == "ok"
    assert check("missing_fields").color == "green"


GOOD = {
    "estimates": {"id": 1, "status": {"value": 1, "name": "Sold"}, "subtotal": 350104.11, **CREATED},
    "invoices": {"id": 1, "job": {"id": 7}, "items": [{"type": "Material", "totalCost": "1,234.50"}], **CREATED},
    "payments": {"id": 1, "appliedTo": [{"appliedTo": 7, "appliedAmount": "5", "appliedOn": None}], **CREATED},
}


def test_088_such_a_record_waits_in_quarantine_and_the_others_load(api, break_):
    for entity, record in GOOD.items():
        changes = [change for owner, change, _, _ in SHAPES if owner == entity]
        for number in range(len(changes) + 1):
            api.store.add(entity, record | {"id": 1 + number, "active": True})
        for number, change in enumerate(changes):
            ((field, value),) = change.items()
            break_("mangle", f"{entity}$", field=field, value=value, ids=[2 + number])
    api.store.settle()
    results = run("estimates,invoices,payments")
    assert {name: (r.status, r.loaded, r.in_quarantine) for name, r in results.items()} == {
        "estimates": ("partial", 1, 3),
        "invoices": ("partial", 1, 6),
        "payments": ("partial", 1, 2),
    }
    assert sorted(reason for _, _, reason in quarantine()) == sorted(reason for _, _, reason, _ in SHAPES)
    assert set(results["estimates"].drift) == {"status (a text)", "status without name", "subtotal (an object)"}
    assert column("status", "estimates") == {"1": "Sold"}
    break_()
    results = run("estimates,invoices,payments")
    assert {(r.status, r.in_quarantine) for r in results.values()} == {("ok", 0)}


# --- 89, 120: ids and amounts that are written otherwise --------------------------------------------------------------


def test_089_an_id_as_a_fraction_is_the_same_id(api, break_):
    run("jobs")
    break_("mangle", "jobs$", field="id", raw="110.0", ids=[110])
    break_("mangle", "jobs$", field="customerId", raw="7.0", ids=[110])
    assert ingest.run_ingest("jobs", "full").entities[0].status == "ok"
    assert (len(column("id")), column("customerId")["110"], quarantine()) == (30, 7, [])


def test_089_gross_pay_with_id_0_twice_is_two_rows(api):
    for _ in range(2):
        api.store.add("payroll", pay(0, id=0, amount=33.25))
    api.store.settle()
    assert read_twice("payroll").status == "ok"
    assert [str(v)[:5] for v in column("amount", "payroll").values()].count("33.25") == 2


def test_089_warranty_0_is_none(healthy):
    with warehouse.connect() as target:
        target.execute("UPDATE st_raw_v2.raw_jobs SET warrantyId = 0 WHERE warrantyId IS NULL")
        before = target.query("SELECT COUNT(*) AS n FROM st_ref_v2.dim_jobs WHERE has_warranty_id")["n"].item()
        (mart,) = (mart for mart in marts.list_marts() if mart.name == "st_ref_v2.dim_jobs")
        select = mart.sql.replace("root_created >= @created_from", "TRUE")
        found = target.query(
            f"SELECT COUNTIF(has_warranty_id) AS n FROM ({select.split('SELECT * FROM final')[0]} SELECT * FROM final)",
            created_from=datetime(1990, 1, 1, tzinfo=UTC),
            time_zone="America/Phoenix",
        )["n"].item()
    assert found == before > 0


@pytest.mark.parametrize(
    ("text", "amount"),
    [
        ("1,234.50", "1234.50"), ("-1,234,567.5", "-1234567.50"), ("1234.5", "1234.50"), ("1e3", "1000.00"),
        ("1.234,50", None), ("1,2,3", None), ("12,34", None), ("1,23.5", None), ("$5", None),
    ],
)  # fmt: skip
def test_120_an_amount_is_itself_or_in_quarantine(text, amount, api, break_):
    break_("mangle", "jobs$", field="total", value=text, ids=[110])
    run("jobs")
    reasons = [] if amount else [("jobs", "110", f"total is not NUMERIC: {text}")]
    assert (quarantine(), "110" in column("id")) == (reasons, amount is not None)
    if amount:
        assert f"{column('total')['110']:.2f}" == amount


def test_120_so_it_is_for_the_amounts_within_a_list():
    record = GOOD["invoices"] | {"items": [{"type": "Material", "totalCost": "1.234,50"}]}
    reasons = [fault.reason for fault in find_faults(ENTITIES["invoices"], record) if fault.reason]
    assert reasons == ["items.totalCost is not NUMERIC: 1.234,50"]
    assert entities.plain_number_sql("x") == f"IF(REGEXP_CONTAINS(x, r'{entities.GROUPED}'), REPLACE(x, ',', ''), x)"


# --- 111: quarantine --------------------------------------------------------------------------------------------------


def test_111_a_night_is_not_green_until_what_is_in_quarantine_loads(api, break_):
    break_("mangle", "gross-pay-items$", field="amount", value="much", rows=19)
    assert run("payroll")["payroll"].status == "partial"
    result = run("payroll,tag_types")["payroll"]
    assert (result.status, result.in_quarantine, "19 rows are in quarantine" in result.error) == ("partial", 19, True)
    break_()
    result = run("payroll")["payroll"]
    assert (result.status, result.in_quarantine, len(column("_key", "payroll"))) == ("ok", 0, 30)


def test_111_what_is_in_quarantine_and_gone_in_servicetitan_is_gone(api, break_):
    break_("mangle", "/jobs$", field="total", value="much", ids=[110])
    assert run("jobs")["jobs"].in_quarantine == 1
    break_()
    api.store.remove("jobs", 9)
    result = run("jobs")["jobs"]
    assert (result.status, quarantine()) == ("ok", [])


# --- 118, 122: checks -------------------------------------------------------------------------------------------------


def check(name: str) -> Any:
    limits = validation.read_thresholds().checks[name]
    with warehouse.connect(read_only=True) as target:
        given = validation._Sources(
            target, date(2025, 9, 14), date(2025, 6, 16), validation.settings.load(), validation.read_definitions()
        )
        return validation._make_check(given, name, limits)


def test_118_an_ingest_between_build_and_validation_is_no_alarm(healthy):
    assert check("produced_equals_invoices").color == "green"
    with warehouse.connect() as target:
        newest = "SELECT MAX(invoices.invoice_id) FROM st_ref_v2.dim_invoices AS invoices INNER JOIN"
        newest += " st_mart_v2.fact_production AS facts ON invoices.job_id = facts.job_id WHERE invoices.is_active"
        target.execute(  # as an ingest leaves it that has read a later version
            f"UPDATE st_raw_v2.raw_invoices SET subTotal = subTotal + 1000, _ingested_at = @now WHERE id = ({newest})",
            now=datetime.now(UTC),
        )
    assert check("produced_equals_invoices").color == "green"
    with warehouse.connect() as target:  # and as nothing but damage does
        target.execute("UPDATE st_raw_v2.raw_invoices SET subTotal = subTotal + 1000 WHERE jobId IS NOT NULL")
    assert check("produced_equals_invoices").color == "red"


def test_122_an_undated_invoice_with_a_balance_is_named_by_the_check_that_it_turns_red(healthy):
    with warehouse.connect() as target:
        number = target.query(
            "SELECT MIN(invoice_number) AS number FROM st_ref_v2.dim_invoices"
            " WHERE division = 'Production' AND is_active AND balance > 1000"
        )["number"].item()
        target.execute(
            "DELETE FROM st_mart_v2.fact_receivables WHERE invoice_number = @number AND movement = 'invoiced'",
            "UPDATE st_ref_v2.dim_invoices SET invoice_date = NULL WHERE invoice_number = @number",
            number=number,
        )
    found = check("ar_equals_balances")
    assert (found.color, found.is_blocking) == ("red", True)
    assert f"on invoices without a date, such as {number}" in found.found
