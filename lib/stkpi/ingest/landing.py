"""Landing files: records as NDJSON.gz, written under another name, synced and renamed: a file is whole or absent."""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import orjson
from isal import igzip

from stkpi.ingest.shapes import Fault, quote
from stkpi.servicetitan.client import Page

# Neither engine can hold a NUL in a text. After an odd number of backslashes, \u0000 is plain text and stays.
_NUL = re.compile(rb"(?<!\\)((?:\\\\)*)\\u0000")

# The fields to keep of a record that is too large: they identify the row, and count it in its window.
IDENTITY = ("id", "createdOn", "modifiedOn", "date")


@dataclass
class Landing:
    """The records of one reading. `seen` identifies each by its id, or by its content if it has none.

    moved: rows moved between the pages while they were read
    """

    path: Path
    fetched: int = 0
    total: int | None = None
    moved: bool = False
    digest: str = ""
    names: set[str] = field(default_factory=set)
    seen: set[int | float | str] = field(default_factory=set)

    @property
    def distinct(self) -> int:
        """How many different records there are."""
        return len(self.seen)

    @property
    def complete(self) -> bool:
        """Whether there are as many records as the server counts (or it does not say how many)."""
        return self.total is None or self.distinct >= self.total or self.fetched == self.total == 0


def encode_line(seq: int, record: Any, refused: str = "") -> tuple[bytes, str]:
    """Encode a record as a line `{"seq", "digest", "record"}`; also return its digest (SHA-256, sorted keys).

    refused: why the record cannot be used; it is a part of the line then. So is why it cannot be encoded.
    """
    try:
        body = orjson.dumps(record, option=orjson.OPT_SORT_KEYS)
    except TypeError as error:
        body, refused = _encode_broken(record, refused, str(error))
    if b"\\u0000" in body:
        body = _NUL.sub(rb"\1\\ufffd", body)
    digest = hashlib.sha256(body).hexdigest()
    reason = b',"refused":' + orjson.dumps(refused) if refused else b""
    return b'{"seq":%d,"digest":"%s","record":%s%s}\n' % (seq, digest.encode(), body, reason), digest


def _encode_broken(record: Any, refused: str, error: str) -> tuple[bytes, str]:
    """Encode a record with half a character (as U+FFFD, like a NUL), or only what identifies it, with the reason."""
    try:
        text = json.dumps(record, ensure_ascii=False).encode("utf-16", "surrogatepass").decode("utf-16", "replace")
        return orjson.dumps(orjson.loads(text), option=orjson.OPT_SORT_KEYS), refused
    except (TypeError, ValueError, RecursionError):
        kept = {name: record.get(name) for name in IDENTITY} if isinstance(record, dict) else {}
        plain = {
            name: quote(value) if isinstance(value, str) else value
            for name, value in kept.items()
            if isinstance(value, str | int)
        }
        return orjson.dumps(plain), refused or f"cannot be encoded: {error}"


def substitute_line(text: bytes, reason: str) -> bytes:
    """Return the line to load for one that is too large: its number, digest, reason, and the fields of IDENTITY."""
    whole = orjson.loads(text)
    record = {name: whole["record"].get(name) for name in IDENTITY}
    return orjson.dumps({"seq": whole["seq"], "digest": whole["digest"], "record": record, "refused": reason}) + b"\n"


def _find_identity(record: dict[str, Any], place: Sequence[str]) -> Any:
    value: Any = record
    for name in place:
        value = value.get(name) if isinstance(value, dict) else None
    return value


def write_landing(
    path: Path,
    pages: Iterable[Page],
    repeats: bool = False,
    place: Sequence[str] = ("id",),
    find_faults: Callable[[dict[str, Any]], Iterable[Fault]] = lambda _: (),
) -> Landing:
    """Stream pages into a landing file at `path` (…ndjson.gz), with one page in memory at a time.

    repeats: equal rows without an id are different rows (payroll), not one row that was read twice
    place: the names that lead to a record's id
    find_faults: says what is wrong with a record; the first reason refuses it
    Raises RequestFailed from the pages; then no file is left at `path`.
    """
    landing, content = Landing(path), hashlib.sha256()
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_suffix(".part")
    with unfinished.open("wb") as raw, igzip.GzipFile(fileobj=raw, mode="wb", compresslevel=1) as out:
        for page in pages:
            if page.total is not None:
                landing.total = page.total
            landing.moved |= page.moved
            for record in page.rows:
                if isinstance(record, dict):
                    faults = list(find_faults(record))
                    landing.names.update(record, (fault.part for fault in faults if fault.part))
                    refused, identity = next((f.reason for f in faults if f.reason), ""), _find_identity(record, place)
                else:
                    refused, identity = f"is not a record: {quote(record)}", None
                text, digest = encode_line(landing.fetched, record, refused)
                out.write(text)
                content.update(digest.encode())
                if not identity or not isinstance(identity, str | int | float):
                    alone = repeats or not isinstance(record, dict)
                    identity = f"{digest}-{landing.fetched}" if alone else digest
                landing.seen.add(identity)
                landing.fetched += 1
        out.close()
        raw.flush()
        os.fsync(raw.fileno())
    unfinished.replace(path)
    landing.digest = content.hexdigest()
    return landing
