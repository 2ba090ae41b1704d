"""Records as text with a digest, in batches; as Arrow tables, or as landing files, which BigQuery loads.

A landing file is NDJSON.gz, written under another name, synced and renamed: it is whole or absent.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import re
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from typing import Any

import orjson
import pyarrow as pa
from isal import igzip

from stkpi.ingest.columns import Columns, make_arrays
from stkpi.ingest.shapes import are_faultless, find_faults, quote
from stkpi.servicetitan.client import Page
from stkpi.servicetitan.entities import Entity

# Neither engine can hold a NUL in a text. After an odd number of backslashes, \u0000 is plain text and stays.
_NUL = re.compile(rb"(?<!\\)((?:\\\\)*)\\u0000")

_HALF = re.compile("[\ud800-\udfff]")  # of a character that is written as two

# The fields to keep of a record that is too large: they identify the row, and count it in its window.
IDENTITY = ("id", "createdOn", "modifiedOn", "date")
BATCH_BYTES = 4_000_000  # of records that are held as text


@dataclass
class Landing:
    """What came in one reading. `seen` identifies each record by its id, or by its content if it has none.

    moved: rows moved between the pages while they were read
    """

    fetched: int = 0
    total: int | None = None
    moved: bool = False
    names: set[str] = field(default_factory=set)
    seen: set[int | float | str] = field(default_factory=set)
    content: Any = field(default_factory=hashlib.sha256, repr=False)

    @property
    def digest(self) -> str:
        """The digest of all records, in the order in which they came."""
        return str(self.content.hexdigest())

    @property
    def distinct(self) -> int:
        """How many different records there are."""
        return len(self.seen)

    @property
    def complete(self) -> bool:
        """Whether there are as many records as the server counts (or it does not say how many)."""
        return self.total is None or self.distinct >= self.total


@dataclass(frozen=True)
class Batch:
    """Some records, numbered from `first`: their texts and digests, and why they cannot be used, or "".

    altered: the places of those whose text does not say all that they said
    """

    first: int
    records: list[Any]
    columns: Columns
    texts: list[bytes]
    digests: list[str]
    refused: list[str]
    altered: frozenset[int]


def read_batches(
    landing: Landing, entity: Entity, pages: Iterable[Page], max_bytes: float = math.inf
) -> Iterator[Batch]:
    """Yield the records of pages in batches of about BATCH_BYTES, and note in `landing` what came.

    max_bytes: of a record; a larger one is refused, and only what identifies it is kept
    Raises RequestFailed from the pages.
    """
    for page in pages:
        if page.total is not None:
            landing.total = page.total
        landing.moved |= page.moved
        pending = _Pending()
        for record in page.rows:
            pending.add(record, max_bytes)
            if pending.size > BATCH_BYTES:
                yield _make_batch(landing, entity, pending)
                pending = _Pending()
        if pending.records:
            yield _make_batch(landing, entity, pending)
        del page, pending  # before the next page is fetched


@dataclass
class _Pending:
    """Records that become a batch; `altered` says why those cannot be used whose text does not say all, or ""."""

    records: list[Any] = field(default_factory=list)
    texts: list[bytes] = field(default_factory=list)
    digests: list[str] = field(default_factory=list)
    altered: dict[int, str] = field(default_factory=dict)
    size: int = 0

    def add(self, record: Any, max_bytes: float) -> None:
        """Add a record as JSON with sorted keys, with the SHA-256 of that."""
        number = len(self.records)
        try:
            text = orjson.dumps(record, option=orjson.OPT_SORT_KEYS)
        except TypeError as error:
            text, self.altered[number] = _encode_broken(record, str(error))
        if b"\\u0000" in text:
            text = _NUL.sub(rb"\1\\ufffd", text)
            self.altered.setdefault(number, "")
        self.digests.append(hashlib.sha256(text).hexdigest())
        if len(text) > max_bytes:
            self.altered[number] = f"too large to load: {len(text):,} bytes"
            record = keep_identity(record)
            text = orjson.dumps(record)
        self.records.append(record)
        self.texts.append(text)
        self.size += len(text)


def _encode_broken(record: Any, error: str) -> tuple[bytes, str]:
    """Encode a record with half a character (as U+FFFD), or only what identifies one that is worse, with the reason."""
    try:
        text = json.dumps(record, ensure_ascii=False).encode("utf-16", "surrogatepass").decode("utf-16", "replace")
        body = orjson.dumps(orjson.loads(text), option=orjson.OPT_SORT_KEYS)
        return body, f"{_find_half(record)} holds half a character, as of an emoji"
    except (TypeError, ValueError, RecursionError):
        plain = {
            name: quote(value) if isinstance(value, str) else value
            for name, value in keep_identity(record).items()
            if isinstance(value, str | int)
        }
        return orjson.dumps(plain), f"cannot be encoded: {error}"


def keep_identity(record: Any) -> dict[str, Any]:
    """Return the fields of IDENTITY; none of what is no record."""
    return {name: record.get(name) for name in IDENTITY} if isinstance(record, dict) else {}


def _make_batch(landing: Landing, entity: Entity, pending: _Pending) -> Batch:
    """Find what is wrong with records, and note in `landing` which they are."""
    records, digests, columns = pending.records, pending.digests, Columns(pending.records)
    refused = [""] * len(records)
    for number, reason in pending.altered.items():
        refused[number] = reason
    landing.names.update(*columns.records)
    if not (set(map(type, records)) <= {dict} and are_faultless(entity, columns)):
        for number, record in enumerate(records):
            if not isinstance(record, dict):
                refused[number] = f"is not a record: {quote(record)}"
                continue
            faults = list(find_faults(entity, record))
            landing.names.update(fault.part for fault in faults if fault.part)
            refused[number] = next((fault.reason for fault in faults if fault.reason), refused[number])
    for number, (id, digest) in enumerate(zip(columns.read(entity.find_place("id")), digests, strict=True)):
        if not id or not isinstance(id, str | int | float):
            alone = entity.keyless or not isinstance(records[number], dict)
            id = f"{digest}-{landing.fetched + number}" if alone else digest  # noqa: PLW2901
        landing.seen.add(id)
    landing.content.update("".join(digests).encode())
    batch = Batch(landing.fetched, records, columns, pending.texts, digests, refused, frozenset(pending.altered))
    landing.fetched += len(records)
    return batch


def write_landing(path: Path, batches: Iterable[Batch]) -> None:
    """Stream batches into a landing file at `path` (…ndjson.gz), one at a time.

    Each line is `{"seq", "digest", "record"}`, with `refused` where a record cannot be used.
    Raises RequestFailed from the pages; then no file is left at `path`.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_suffix(".part")
    with unfinished.open("wb") as raw, igzip.GzipFile(fileobj=raw, mode="wb", compresslevel=1) as out:
        for batch in batches:
            for seq, text, digest, refused in zip(
                count(batch.first), batch.texts, batch.digests, batch.refused, strict=False
            ):
                reason = b',"refused":' + orjson.dumps(refused) if refused else b""
                out.write(b'{"seq":%d,"digest":"%s","record":%s%s}\n' % (seq, digest.encode(), text, reason))
        out.close()
        raw.flush()
        os.fsync(raw.fileno())
    unfinished.replace(path)


def _find_half(record: Any) -> str:
    """Return the field that holds half of a character; of what is no record nothing."""
    fields = record.items() if isinstance(record, dict) else ()
    return quote(
        next((name for name, value in fields if _HALF.search(json.dumps([name, value], ensure_ascii=False))), "")
    )


def substitute_line(text: bytes, reason: str) -> bytes:
    """Return the line to load for one that is too large: its number, digest, reason, and the fields of IDENTITY."""
    whole = orjson.loads(text)
    record = keep_identity(whole["record"])
    return orjson.dumps({"seq": whole["seq"], "digest": whole["digest"], "record": record, "refused": reason}) + b"\n"


def make_table(entity: Entity, batch: Batch, ordinals: Counter[str]) -> pa.Table:
    """Return a batch as `typing_sql` reads it: the columns of the entity, and those of a landing file.

    `_fits` says whether each value has the type of its column, or is a text that may be cast to it.
    ordinals: how often each digest came in the batches before; equal records of a keyless entity are told apart by it
    """
    fits = [not reason and number not in batch.altered for number, reason in enumerate(batch.refused)]
    columns = batch.columns
    if not all(fits):
        columns = Columns([record if fit else None for record, fit in zip(batch.records, fits, strict=True)])
    arrays = make_arrays(entity, columns, fits)
    arrays |= {
        "_seq": pa.array(range(batch.first, batch.first + len(fits)), pa.int64()),
        "_digest": pa.array(batch.digests, pa.string()),
        "_text": pa.array(batch.texts, pa.binary()).cast(pa.string()),
        "_refused": pa.array([reason or None for reason in batch.refused], pa.string()),
        "_fits": pa.array(fits, pa.bool_()),
    }
    if entity.keyless:
        arrays["_ordinal"] = pa.array([_count(ordinals, digest) for digest in batch.digests], pa.int64())
    return pa.table(arrays)


def _count(ordinals: Counter[str], digest: str) -> int:
    ordinals[digest] += 1
    return ordinals[digest]
