"""Landing files: records as NDJSON.gz, written under another name, synced and renamed: a file is whole or absent."""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import orjson
from isal import igzip

from stkpi.servicetitan.client import Page

# Neither engine can hold a NUL in a text. After an odd number of backslashes, \u0000 is plain text and stays.
_NUL = re.compile(rb"(?<!\\)((?:\\\\)*)\\u0000")

# The fields to keep of a record that is too large: they identify the row, and count it in its window.
IDENTITY = ("id", "createdOn", "modifiedOn", "date")


@dataclass
class Landing:
    """The records of one reading. `seen` identifies each by its id, or by its content if it has none."""

    path: Path
    fetched: int = 0
    total: int | None = None
    digest: str = ""
    names: set[str] = field(default_factory=set)
    seen: set[int | str] = field(default_factory=set)

    @property
    def distinct(self) -> int:
        """How many different records there are."""
        return len(self.seen)

    @property
    def complete(self) -> bool:
        """Whether there are as many records as the server counts (or it does not say how many)."""
        return self.total is None or self.distinct >= self.total or self.fetched == self.total == 0


def encode_line(seq: int, record: dict[str, Any]) -> tuple[bytes, str]:
    """Encode a record as a line `{"seq", "digest", "record"}`; also return its digest (SHA-256, sorted keys)."""
    body = orjson.dumps(record, option=orjson.OPT_SORT_KEYS)
    if b"\\u0000" in body:
        body = _NUL.sub(rb"\1\\ufffd", body)
    digest = hashlib.sha256(body).hexdigest()
    return b'{"seq":%d,"digest":"%s","record":%s}\n' % (seq, digest.encode(), body), digest


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


def write_landing(path: Path, pages: Iterable[Page], repeats: bool = False, place: Sequence[str] = ("id",)) -> Landing:
    """Stream pages into a landing file at `path` (…ndjson.gz), with one page in memory at a time.

    repeats: equal rows without an id are different rows (payroll), not one row that was read twice
    place: the names that lead to a record's id
    Raises RequestFailed from the pages; then no file is left at `path`.
    """
    landing, content = Landing(path), hashlib.sha256()
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_suffix(".part")
    with unfinished.open("wb") as raw, igzip.GzipFile(fileobj=raw, mode="wb", compresslevel=1) as out:
        for page in pages:
            if page.total is not None:
                landing.total = page.total
            for record in page.rows:
                text, digest = encode_line(landing.fetched, record)
                out.write(text)
                content.update(digest.encode())
                landing.names.update(record)
                identity = _find_identity(record, place)
                if identity is None:
                    identity = f"{digest}-{landing.fetched}" if repeats else digest
                landing.seen.add(identity)
                landing.fetched += 1
        out.close()
        raw.flush()
        os.fsync(raw.fileno())
    unfinished.replace(path)
    landing.digest = content.hexdigest()
    return landing
