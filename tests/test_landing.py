"""Records on their way into a table: numbered, hashed, typed, and with what is needed to know whether all came."""

import json
import random
from collections import Counter
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import pytest
from isal import igzip

from stkpi.ingest import landing, load
from stkpi.ingest.columns import Columns
from stkpi.ingest.shapes import are_faultless, find_faults
from stkpi.servicetitan.client import Page, RequestFailed
from stkpi.servicetitan.entities import ENTITIES, LANDING, Entity, projection_sql
from stkpi.warehouse.duckdb import DuckDBWarehouse


def land(path: Path, pages: Any, entity: str = "jobs") -> landing.Landing:
    """Write a landing file."""
    landed = landing.Landing()
    landing.write_landing(path, landing.read_batches(landed, ENTITIES[entity], pages))
    return landed


def lines(path: Path) -> list[dict]:
    return [json.loads(text) for text in igzip.open(path).read().splitlines()]


def test_records_are_numbered_and_hashed_whatever_the_order_of_their_fields(tmp_path):
    pages = [Page([{"id": 1, "a": "x"}], True, total=2), Page([{"a": "x", "id": 1}], False)]
    landed = land(tmp_path / "jobs.ndjson.gz", pages)
    first, second = lines(tmp_path / "jobs.ndjson.gz")
    assert (first["seq"], second["seq"]) == (0, 1)
    assert first["digest"] == second["digest"]
    assert first["record"] == {"a": "x", "id": 1}
    assert (landed.fetched, landed.distinct, landed.total, landed.complete) == (2, 1, 2, False)


def test_equal_rows_without_an_id_are_rows_of_their_own_where_the_entity_repeats_them(tmp_path):
    rows = [Page([{"id": None, "amount": 12.5}] * 3, False, total=3)]
    assert land(tmp_path / "payroll.ndjson.gz", rows, "payroll").complete
    assert not land(tmp_path / "jobs.ndjson.gz", rows).complete


def test_a_nul_cannot_be_stored_and_a_backslash_before_u0000_is_text(tmp_path):
    land(tmp_path / "jobs.ndjson.gz", [Page([{"id": 1, "a": "x\0y", "b": "\\u0000"}], False)])
    assert lines(tmp_path / "jobs.ndjson.gz")[0]["record"] == {"a": "x\ufffdy", "b": "\\u0000", "id": 1}


def test_a_read_that_breaks_off_leaves_no_file(tmp_path):
    def pages():
        yield Page([{"id": 1}], True)
        raise RequestFailed("gone")

    with pytest.raises(RequestFailed):
        land(tmp_path / "jobs.ndjson.gz", pages())
    assert not (tmp_path / "jobs.ndjson.gz").exists()


def test_large_records_come_in_batches_and_one_beyond_the_limit_is_refused_with_what_identifies_it():
    rows = [{"id": number, "summary": "x" * 1_000_000} for number in range(20)] + [{"id": 99, "summary": "x" * 2**21}]
    landed = landing.Landing()
    batches = list(landing.read_batches(landed, ENTITIES["jobs"], [Page(rows, False, total=21)], max_bytes=2**21))
    assert max(sum(map(len, batch.texts)) for batch in batches) < landing.BATCH_BYTES + 2**21
    assert [batch.first for batch in batches] == [0, 4, 8, 12, 16, 20]
    assert (landed.fetched, landed.complete, batches[-1].refused[-1][:25]) == (21, True, "too large to load: 2,097,")
    assert json.loads(batches[-1].texts[-1]) == {"id": 99, "createdOn": None, "modifiedOn": None, "date": None}


def test_a_record_of_just_the_limit_is_loaded():
    [text] = next(landing.read_batches(landing.Landing(), ENTITIES["jobs"], [Page([{"id": 1}], False)])).texts
    for room, refused in ((0, [""]), (-1, ["too large to load: 8 bytes"])):
        batches = landing.read_batches(
            landing.Landing(), ENTITIES["jobs"], [Page([{"id": 1}], False)], len(text) + room
        )
        assert next(batches).refused == refused


# --- typing: at once where a value has its column's type, by a second look where it has not ---------------------------

FITTING = {
    "INT64": [7, -3, 0, 2**63 - 1, None],
    "STRING": ["x", "", "Ωmega 🎨", '{"a": 1}', "[x", None],
    "NUMERIC": [12, 350104.11, -0.1, 0.1 + 0.2, 1e16, 1e-7, "12.50", None],
    "FLOAT64": [0.25, None],
    "BOOL": [True, False, None],
    "TIMESTAMP": ["2025-08-01T13:13:02.9368539-07:00", "2025-08-01T00:00:00Z", "0001-01-01T00:00:00Z", None],
    "DATE": ["2025-08-01T00:00:00Z", "2025-08-01", "9999-12-31T23:59:59.9999999Z", None],
    "JSON": [[], [3, 1], {"b": 1, "a": [None]}, None],
}
STRANGE: list[Any] = [
    7.0, 7.5, 2**63, 1e300, "7", "7.0", " 7", "1_0", "1e3", "0x1F", "", "abc", "null", "1,234.50", "1,2,3", "NaN",
    True, [1], [], {"a": 1}, {}, "x\0y", "\ud83d", "\ufffd", "yes", "TRUE",
    "2025-13-01", "2025-08-01 10:00", "2025-08-01T10:00:00.123456789Z", "1899-01-01T00:00:00Z",
]  # fmt: skip


def invent(entity: Entity, chance: random.Random, strange: float) -> dict[str, Any]:
    """A record of an entity; of its values, the share `strange` is not what its column says."""
    record: dict[str, Any] = {}
    for field in entity.fields:
        value = chance.choice(STRANGE if chance.random() < strange else FITTING[field.type])
        if field.elements and chance.random() < 0.8:
            value = [
                {inner.name: chance.choice(FITTING[inner.type]) for inner in field.elements}
                for _ in range(chance.randrange(3))
            ]
        source = chance.choice(field.sources)
        head, _, inner = source.partition(".")
        if inner and isinstance(record.setdefault(head, {}), dict):
            record[head][inner] = value
        elif not inner and chance.random() < 0.95:
            record[head] = value
    record["id"] = chance.choice([chance.randrange(40), chance.randrange(40), None, 0, record.get("id")])
    return record


@pytest.fixture(scope="module")
def file(tmp_path_factory) -> Iterator[DuckDBWarehouse]:
    with DuckDBWarehouse(tmp_path_factory.mktemp("typed") / "warehouse.duckdb", 5) as target:
        yield target


QUICK = ("jobs", "invoices", "payroll")


@pytest.mark.parametrize(
    "entity",
    [
        pytest.param(entity, marks=() if name in QUICK else pytest.mark.soak, id=name)
        for name, entity in ENTITIES.items()
    ],
)
def test_what_is_typed_at_once_is_what_the_projection_gives_reasons_included(entity, file):
    """The projection is the rule: BigQuery runs it on every record, DuckDB on those that do not fit at once."""
    chance = random.Random(entity.name)
    rows = [invent(entity, chance, share) for share in (0.0,) * 60 + (0.02,) * 60 + (0.3,) * 30]
    rows += [*chance.choices(rows, k=20), "no record", None, 7]
    pages = [Page(rows[:50], True), Page(rows[50:60] * 2, True), Page(rows[50:], False)]
    typed = load._stage_rows(file, entity, landing.Landing(), pages)
    columns = ", ".join(f"{field.name} {field.type}" for field in LANDING)
    file.execute(f"CREATE OR REPLACE TEMP TABLE every ({columns})")
    for batch in landing.read_batches(landing.Landing(), entity, pages):
        whole = landing.make_table(entity, batch, Counter())
        file.insert_rows("INSERT INTO every SELECT _seq, _digest, PARSE_JSON(_text), _refused FROM batch", batch=whole)
    expected = file.query(f"SELECT * FROM ({projection_sql(entity, 'every')}) AS t ORDER BY _seq")
    found = file.query(f"SELECT * FROM {typed} ORDER BY _seq")
    assert list(found.columns) == list(expected.columns)
    wrong = [
        (name, *pair)
        for name in expected.columns
        for pair in zip(expected["_record"], expected[name], found[name], strict=True)
        if str(pair[1]) != str(pair[2]) and json.loads(pair[1]) != json.loads(pair[2])  # DuckDB writes 1e16 in full
    ]
    assert wrong == []
    assert 20 < sum(expected["_reject"].isna()) < len(expected)


@pytest.mark.parametrize("entity", ENTITIES.values(), ids=lambda entity: entity.name)
def test_records_that_are_faultless_at_a_glance_have_no_fault(entity):
    chance = random.Random(entity.name)
    for share in (0.0, 0.0, 0.01, 0.02):
        for _ in range(60):
            records = [invent(entity, chance, share) for _ in range(3)]
            if are_faultless(entity, Columns(records)):
                assert [list(find_faults(entity, record)) for record in records] == [[], [], []]


@pytest.mark.parametrize("entity", ENTITIES.values(), ids=lambda entity: entity.name)
def test_records_as_servicetitan_sends_them_need_no_second_look(entity, tenant):
    records = list(islice(tenant.rows(entity.name), 300))
    [batch] = landing.read_batches(landing.Landing(), entity, [Page(records, False)])
    assert are_faultless(entity, batch.columns)
    assert landing.make_table(entity, batch, Counter())["_fits"].to_pylist() == [True] * len(records)
