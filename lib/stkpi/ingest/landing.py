"""Landing files: records as NDJSON.gz, written beside, fsynced and renamed, so that a file is whole or absent."""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import orjson
from isal import igzip

from stkpi.servicetitan.client import Page

# Neither engine can hold a NUL in a text; an even number of backslashes before it would make it plain text.
_NUL = re.compile(rb"(?<!\\)((?:\\\\)*)\\u0000")

# What remains of a record that is too large: by it the row is found, and counted in its window.
IDENTITY = ("id", "createdOn", "modifiedOn", "date")


@dataclass
class Landing:
    """What one read brought. `distinct` counts records that differ by id (or by content, where there is none)."""

    path: Path
    fetched: int = 0
    total: int | None = None
    digest: str = ""
    names: set[str] = field(default_factory=set)
    seen: set[int | str] = field(default_factory=set)

    @property
    def distinct(self) -> int:
        """How many different records were read."""
        return len(self.seen)

    @property
    def complete(self) -> bool:
        """Whether the read brought as many records as the server says there are (or the server does not say)."""
        return self.total is None or self.distinct >= self.total or self.fetched == self.total == 0


def line(seq: int, record: dict[str, Any]) -> tuple[bytes, str]:
    """A record as a landing line `{"seq", "digest", "record"}` and its digest (SHA-256, sorted keys)."""
    body = orjson.dumps(record, option=orjson.OPT_SORT_KEYS)
    if b"\\u0000" in body:
        body = _NUL.sub(rb"\1\\ufffd", body)
    digest = hashlib.sha256(body).hexdigest()
    return b'{"seq":%d,"digest":"%s","record":%s}\n' % (seq, digest.encode(), body), digest


def stand_in(text: bytes, reason: str) -> bytes:
    """The line that is loaded for one that is too large: its number, digest, reason, and what identifies the record."""
    whole = orjson.loads(text)
    record = {name: whole["record"].get(name) for name in IDENTITY}
    return orjson.dumps({"seq": whole["seq"], "digest": whole["digest"], "record": record, "refused": reason}) + b"\n"


def write(path: Path, pages: Iterable[Page], repeats: bool = False) -> Landing:
    """Stream pages into a landing file at `path` (…ndjson.gz). Bounded memory: one page at a time.

    repeats: equal rows without an id are rows of their own (payroll), not one row read twice
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
                text, digest = line(landing.fetched, record)
                out.write(text)
                content.update(digest.encode())
                landing.names.update(record)
                identity = record.get("id")
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
