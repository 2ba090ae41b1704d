"""Landing files: whole or absent, with what is needed to know whether all rows came."""

import json
from pathlib import Path

import pytest
from isal import igzip

from stkpi.ingest import landing
from stkpi.servicetitan.client import Page, RequestFailed


def lines(path: Path) -> list[dict]:
    return [json.loads(text) for text in igzip.open(path).read().splitlines()]


def test_records_are_numbered_and_hashed_whatever_the_order_of_their_fields(tmp_path):
    pages = [Page([{"id": 1, "a": "x"}], True, total=2), Page([{"a": "x", "id": 1}], False)]
    landed = landing.write_landing(tmp_path / "jobs.ndjson.gz", pages)
    first, second = lines(landed.path)
    assert (first["seq"], second["seq"]) == (0, 1)
    assert first["digest"] == second["digest"]
    assert first["record"] == {"a": "x", "id": 1}
    assert (landed.fetched, landed.distinct, landed.total, landed.complete) == (2, 1, 2, False)


def test_equal_rows_without_an_id_are_rows_of_their_own_where_the_entity_repeats_them(tmp_path):
    rows = [Page([{"id": None, "amount": 12.5}] * 3, False, total=3)]
    assert landing.write_landing(tmp_path / "payroll.ndjson.gz", rows, repeats=True).complete
    assert not landing.write_landing(tmp_path / "jobs.ndjson.gz", rows).complete


def test_a_nul_cannot_be_stored_and_a_backslash_before_u0000_is_text(tmp_path):
    landed = landing.write_landing(tmp_path / "jobs.ndjson.gz", [Page([{"id": 1, "a": "x\0y", "b": "\\u0000"}], False)])
    assert lines(landed.path)[0]["record"] == {"a": "x\ufffdy", "b": "\\u0000", "id": 1}


def test_a_read_that_breaks_off_leaves_no_file(tmp_path):
    def pages():
        yield Page([{"id": 1}], True)
        raise RequestFailed("gone")

    with pytest.raises(RequestFailed):
        landing.write_landing(tmp_path / "jobs.ndjson.gz", pages())
    assert not (tmp_path / "jobs.ndjson.gz").exists()
