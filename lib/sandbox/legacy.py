"""Old invoice rows: some of a warehouse's invoices overwritten as the old mapper left them, with the truth kept.

The old mapper's rows have no job, job number and unit, and none of the columns that this project's ingest adds. What is
left to know the job by differs: the record as ServiceTitan sent it, a flat export of it, the `invoiceId` of the job, a
job number, a reference number that somebody typed. Some name several jobs, some another customer's job, some nothing.

`python -m sandbox.legacy FILE.duckdb` does it to a warehouse of the sandbox: give it a copy.
"""

from __future__ import annotations

import argparse
import gzip
import tempfile
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import cycle
from pathlib import Path
from random import Random
from typing import Any

import orjson

from stkpi.warehouse import Warehouse
from stkpi.warehouse.duckdb import DuckDBWarehouse

STAGE = "st_stage_v2.legacy"
COLUMNS = (
    ("id", "INT64"),
    ("customer_id", "INT64"),
    ("reference_number", "STRING"),
    ("record", "JSON"),
    ("keeps_record", "BOOL"),
)
OVERWRITE = f"""UPDATE st_raw_v2.raw_invoices AS T
SET
  jobId = NULL, jobNumber = NULL, businessUnitId = NULL, businessUnitName = NULL, customerId = S.customer_id,
  referenceNumber = S.reference_number, _record = IF(S.keeps_record, T._record, S.record),
  _key = NULL, _hash = NULL, _run_id = NULL, _ingested_at = NULL, _source = NULL
FROM {STAGE} AS S
WHERE T.id = S.id"""

# What becomes of the invoices, in turn: those that a job names as its own, others of a job, those without a job.
MAIN = ("nested", "bare", "flat", "bare", "claimed twice", "bare", "nested", "bare", "flat")
OTHERS = (
    "nested",
    "number",
    "reference",
    "flat",
    "two numbers",
    "other customer",
    "shared number",
    "lost",
    "reference",
)
WITHOUT_JOB = ("lost", "says so")
EVIDENCE = {
    "nested": "record",  # as ServiceTitan sent it
    "flat": "record",
    "bare": "invoice_id",
    "number": "job_number",
    "reference": "reference",
    "claimed twice": "ambiguous",
    "shared number": "ambiguous",
    "two numbers": "ambiguous",
    "other customer": "none",
    "says so": "none",  # the record says that there is no job, whatever the reference number names
    "lost": "none",
}
TEXTS = ("Job {} deposit", "{} final", "job#{}", "{}-2", "balance of {}, check", "{}")


@dataclass(frozen=True)
class Planted:
    """An invoice's true job (None: it has none), and the evidence left of it.

    evidence: record, invoice_id, job_number, reference; ambiguous, where it names several jobs; none, where nothing may
        link it
    """

    job_id: int | None
    evidence: str


def plant_old_rows(target: Warehouse, share: float = 0.12, seed: int = 1) -> dict[int, Planted]:
    """Overwrite `share` of the invoices with old rows, with and without a job; return the truth by invoice id.

    For the ambiguous ones, some other jobs get a number or an invoice id that is taken.
    """
    rng = Random(seed)
    jobs = target.query("SELECT id, jobNumber, invoiceId, customerId FROM st_raw_v2.raw_jobs ORDER BY id")
    wanted = "id, jobId, jobNumber, businessUnitId, customerId, referenceNumber"
    invoices = target.query(f"SELECT {wanted} FROM st_raw_v2.raw_invoices ORDER BY id").to_dict("records")
    chosen = list(_choose_invoices(invoices, set(jobs["invoiceId"]), share, rng))
    taken = {invoice["jobId"] for _, invoice in chosen}
    spare = [job for job in jobs.to_dict("records") if job["id"] not in taken]
    rng.shuffle(spare)
    rows = []
    for kind, invoice in chosen:
        customer = invoice["customerId"]
        other = spare.pop()
        if kind == "other customer":
            other = next(job for job in spare if job["customerId"] != customer)
        elif kind == "says so":
            other = next((job for job in spare if job["customerId"] == customer), other)
        rows.append(_make_old_row(kind, invoice, other, rng.choice(TEXTS)))
        if kind == "shared number":
            same = {"number": invoice["jobNumber"], "id": other["id"]}
            target.execute("UPDATE st_raw_v2.raw_jobs SET jobNumber = @number WHERE id = @id", **same)
        elif kind == "claimed twice":
            same = {"invoice": invoice["id"], "id": other["id"]}
            target.execute("UPDATE st_raw_v2.raw_jobs SET invoiceId = @invoice WHERE id = @id", **same)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "legacy.ndjson.gz"
        path.write_bytes(gzip.compress(b"\n".join(map(orjson.dumps, rows))))
        target.load_file(STAGE, path, COLUMNS)
    target.execute(OVERWRITE, f"DROP TABLE {STAGE}")
    return {invoice["id"]: Planted(invoice["jobId"], EVIDENCE[kind]) for kind, invoice in chosen}


def _choose_invoices(
    invoices: list[dict[str, Any]], main: set[int], share: float, rng: Random
) -> Iterator[tuple[str, dict[str, Any]]]:
    """Choose invoices with a kind of old row each, at most one of a job, so that no two share their evidence."""
    others = {invoice["jobId"]: invoice for invoice in invoices if invoice["jobId"] and invoice["id"] not in main}
    pools = {
        MAIN: [invoice for invoice in invoices if invoice["id"] in main and invoice["jobId"] not in others],
        OTHERS: list(others.values()),
        WITHOUT_JOB: [invoice for invoice in invoices if not invoice["jobId"]],
    }
    for kinds, pool in pools.items():
        yield from zip(cycle(kinds), rng.sample(pool, round(len(pool) * share)), strict=False)


def _make_old_row(kind: str, invoice: dict[str, Any], other: dict[str, Any], text: str) -> dict[str, Any]:
    """Make the old row of an invoice (COLUMNS); `other` is another job, `text` what somebody may have typed."""
    number, record, reference = invoice["jobNumber"], None, invoice["referenceNumber"]
    match kind:
        case "flat":
            record = {name: invoice[name] for name in ("id", "jobId", "jobNumber", "businessUnitId")}
        case "number" | "shared number":
            record = {"id": invoice["id"], "jobId": None, "jobNumber": number}
        case "reference":
            reference = text.format(number)
        case "two numbers":
            reference = f"Jobs {number} and {other['jobNumber']}"
        case "other customer" | "says so":
            reference = text.format(other["jobNumber"])
    return {
        "id": invoice["id"],
        "customer_id": None if kind == "two numbers" else invoice["customerId"],
        "reference_number": reference,
        "record": record,
        "keeps_record": kind in ("nested", "says so"),
    }


def main() -> None:
    """Plant old rows in the warehouse of a command line and print how many invoices have each kind of evidence."""
    parser = argparse.ArgumentParser(prog="python -m sandbox.legacy", description=__doc__.split(":", maxsplit=1)[0])
    parser.add_argument("warehouse", type=Path, help="a DuckDB file, which is changed: give a copy")
    with DuckDBWarehouse(parser.parse_args().warehouse, wait=0) as target:
        planted = plant_old_rows(target)
    for evidence, count in Counter(each.evidence for each in planted.values()).most_common():
        print(f"{count:6,} {evidence}")


if __name__ == "__main__":
    main()
