"""Every record of the tenant, held as the bytes that the API sends, with a column for each field that a filter reads.

A dict costs ten times its JSON, and a company of ten years has millions of records: pages are joined from ready bytes,
filters are numpy comparisons over columns.
"""

from collections.abc import Callable, Iterable, Iterator
from datetime import UTC, datetime
from typing import Any

import numpy as np
import orjson

from sandbox.resources import RESOURCES, Kind

DEFAULT_COMPANY = "painting"
MISSING = np.iinfo(np.int64).min
_CHUNK = 8192


def get_value(record: Any, path: str) -> Any:
    """Return the value at a dotted path; None where any step is null or absent."""
    for name in path.split("."):
        if record is None:
            return None
        record = record.get(name)
    return record


def to_utc_text(value: str | datetime | None) -> str:
    """Format a timestamp for numpy: UTC without a zone, with all its fractional digits if it was UTC already."""
    if value is None:
        return "NaT"
    if isinstance(value, str):
        if value.endswith("Z"):
            return value[:-1]
        value = datetime.fromisoformat(value)
    return value.astimezone(UTC).replace(tzinfo=None).isoformat() if value.tzinfo else value.isoformat()


def to_dates(values: Iterable[str | datetime | None]) -> np.ndarray:
    """Convert timestamps to datetime64[100ns] in UTC (the API's instants have 7 fractional digits); None to NaT."""
    texts = [to_utc_text(value) for value in values]
    dates = np.array(texts, dtype="datetime64[100ns]")
    for n in [n for n, text in enumerate(texts) if text < "1700"]:  # which numpy reads wrong in this unit
        dates[n] = np.datetime64(texts[n][:19], "s")
    return dates


def to_keys(values: Iterable[int | str | None]) -> np.ndarray:
    """Convert ids, flags and texts to int64 that are equal when they are; a text to its hash, ignoring case."""
    return np.array(
        [MISSING if v is None else hash(v.casefold()) if isinstance(v, str) else v for v in values], dtype=np.int64
    )


def _serialize(record: dict[str, Any]) -> bytes:
    # orjson gives its whole buffer of 8 kB away with each result, however short; the copy takes what it needs.
    return bytes(memoryview(orjson.dumps(record)))


class _Column:
    """A growing array: values wait in a list and are encoded a chunk at a time."""

    def __init__(self, encode: Callable[[Iterable[Any]], np.ndarray]) -> None:
        self.encode = encode
        self.waiting: list[Any] = []
        self.chunks: list[np.ndarray] = [encode([])]

    def flush(self) -> None:
        self.chunks.append(self.encode(self.waiting))
        self.waiting = []

    def array(self) -> np.ndarray:
        if self.waiting:
            self.flush()
        if len(self.chunks) > 1:
            self.chunks = [np.concatenate(self.chunks)]
        return self.chunks[0]


class _Table:
    def __init__(self, columns: dict[str, Kind]) -> None:
        self.records: list[bytes | None] = []
        self.removed: dict[int, bytes] = {}
        self.columns = {path: _Column(to_dates if kind == "date" else to_keys) for path, kind in columns.items()}
        self.columns["changed_at"] = _Column(to_dates)
        # A path without dots is by far the most frequent and needs no walk.
        self.readers = [(column, path, "." in path) for path, column in self.columns.items() if path != "changed_at"]
        self.version = 0
        self.settled = 0
        self.touched: dict[int, None] = {}
        self.feed = np.zeros(0, dtype=np.int64)
        self.place = np.zeros(0, dtype=np.int64)

    def write_columns(self, row: int, record: dict[str, Any], changed_at: datetime) -> None:
        self.columns["changed_at"].array()[row] = to_dates([changed_at])[0]
        for column, path, _ in self.readers:
            column.array()[row] = column.encode([get_value(record, path)])[0]

    def touch(self, row: int) -> None:
        self.version += 1
        self.touched.pop(row, None)
        self.touched[row] = None

    def live(self, position: int) -> np.ndarray:
        """Return True for each place of the feed, from a position on, that is the last one of its row."""
        rows = self.feed[position:]
        return self.place[rows] == np.arange(position, position + len(rows))

    def settle(self) -> None:
        """Append the rows changed since the last call to the feed, in the order of change."""
        new = np.arange(self.settled, len(self.records))
        touched = np.array([row for row in self.touched if row < self.settled], dtype=np.int64)
        rows = np.concatenate([new, touched])
        if not len(rows):
            return
        rows = rows[np.argsort(self.columns["changed_at"].array()[rows], kind="stable")]
        self.place = np.concatenate([self.place, np.zeros(len(new), dtype=np.int64)])
        self.place[rows] = np.arange(len(self.feed), len(self.feed) + len(rows))
        self.feed = np.concatenate([self.feed, rows])
        self.settled = len(self.records)
        self.touched = {}


class Store:
    """Records of every resource (the keys of RESOURCES). A row handle is a record's place in order of insertion.

    `company` is the name of the one whose records they are, in COMPANIES.
    """

    def __init__(self, company: str = DEFAULT_COMPANY) -> None:
        self.company = company
        self._tables = {name: _Table(resource.columns) for name, resource in RESOURCES.items()}

    def __len__(self) -> int:
        return sum(len(table.records) for table in self._tables.values())

    def add(self, resource: str, record: dict[str, Any], changed_at: datetime | None = None) -> int:
        """Append a record in the API's shape and return its row handle.

        `changed_at` orders the export feed; without it `modifiedOn` does, or `createdOn`.
        """
        table = self._tables[resource]
        table.records.append(_serialize(record))
        for column, path, nested in table.readers:
            column.waiting.append(get_value(record, path) if nested else record.get(path))
        table.columns["changed_at"].waiting.append(changed_at or record.get("modifiedOn") or record["createdOn"])
        table.version += 1
        row = len(table.records) - 1
        if row % _CHUNK == 0:
            for column in table.columns.values():
                column.flush()
        return row

    def replace(self, resource: str, row: int, record: dict[str, Any], changed_at: datetime) -> None:
        """Replace a row with a later version; it moves to the end of the export feed."""
        table = self._tables[resource]
        if table.records[row] is None:
            raise KeyError(f"row {row} of {resource} was removed")
        table.records[row] = _serialize(record)
        table.write_columns(row, record, changed_at)
        table.touch(row)

    def remove(self, resource: str, row: int) -> None:
        """Remove a row from the list; the export feed repeats it at its end, as deleted."""
        table = self._tables[resource]
        record = table.records[row]
        if record is None:
            raise KeyError(f"row {row} of {resource} was removed")
        table.removed[row] = record
        table.records[row] = None
        changed_at = table.columns["changed_at"].array()
        changed_at[row] = changed_at.max()
        table.touch(row)

    def get(self, resource: str, row: int) -> dict[str, Any]:
        """Return the current version of a row. Raises KeyError for a removed one."""
        record = self._tables[resource].records[row]
        if record is None:
            raise KeyError(f"row {row} of {resource} was removed")
        return orjson.loads(record)

    def items(self, resource: str) -> Iterator[tuple[int, dict[str, Any]]]:
        """Yield row handles and current records, in order of insertion."""
        for row, record in enumerate(self._tables[resource].records):
            if record is not None:
                yield row, orjson.loads(record)

    def rows(self, resource: str) -> Iterator[dict[str, Any]]:
        """Yield current records, in order of insertion."""
        return (record for _, record in self.items(resource))

    def version(self, resource: str) -> int:
        """Return a number that grows with every change of the resource."""
        return self._tables[resource].version

    def column(self, resource: str, path: str) -> np.ndarray:
        """Return the column of a field, one value a row, removed ones too: datetime64[100ns] or int64 (`to_keys`)."""
        return self._tables[resource].columns[path].array()

    def present(self, resource: str) -> np.ndarray:
        """Return True for each row that was not removed."""
        table = self._tables[resource]
        present = np.ones(len(table.records), dtype=bool)
        present[list(table.removed)] = False
        return present

    def get_serialized(self, resource: str, rows: Iterable[int]) -> list[bytes]:
        """Return the JSON of rows that are present."""
        records = self._tables[resource].records
        return [records[row] for row in rows]

    def settle(self) -> None:
        """Fix the feed's order of all changes so far: later changes come later."""
        for table in self._tables.values():
            table.settle()

    def find_feed_start(self, resource: str, moment: np.datetime64) -> int:
        """Find the feed position from which on nothing is missed that changed at or after `moment` (UTC)."""
        table = self._tables[resource]
        table.settle()
        late = table.columns["changed_at"].array()[table.feed] >= moment
        late &= table.live(0)
        return int(late.argmax()) if late.any() else len(late)

    def feed(self, resource: str, position: int, size: int) -> tuple[list[tuple[bytes, bool]], int, bool]:
        """Return up to `size` records from a feed position on, each with whether it is active (False for removed rows).

        The position after the last one and whether more follow come with them. Each row appears once, at the
        place of its last change, so a position stays valid forever.
        """
        table = self._tables[resource]
        table.settle()
        rows = table.feed[position:]
        live = np.flatnonzero(table.live(position))
        page = rows[live[:size]].tolist()
        records = [
            (record, True) if (record := table.records[row]) is not None else (table.removed[row], False)
            for row in page
        ]
        after = position + int(live[len(page) - 1]) + 1 if page else max(position, len(table.feed))
        return records, after, len(live) > size
