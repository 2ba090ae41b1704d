"""Cut an NDJSON.gz file into chunks that fit into a request, the same way each time."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from isal import igzip

MAX_BYTES = 8_000_000  # BigQuery refuses a request over 10 MB
MAX_ROWS = 5_000


@dataclass(frozen=True)
class Chunk:
    """Consecutive lines of the file, each with its newline, from line number `first` (from 0)."""

    first: int
    lines: tuple[bytes, ...]

    @property
    def name(self) -> str:
        """First and last line number: the same name means the same lines of a file."""
        return f"{self.first}-{self.first + len(self.lines) - 1}"

    @property
    def body(self) -> bytes:
        """The bytes to send."""
        return b"".join(self.lines)

    def split(self) -> tuple[Chunk, Chunk]:
        """Cut the chunk in two halves, by lines."""
        middle = len(self.lines) // 2
        return Chunk(self.first, self.lines[:middle]), Chunk(self.first + middle, self.lines[middle:])


def split_file(path: Path, max_bytes: int = MAX_BYTES, max_rows: int = MAX_ROWS) -> Iterator[Chunk]:
    """Yield the chunks of a file, each of at most `max_bytes` (uncompressed) and `max_rows`.

    A line longer than `max_bytes` is a chunk by itself.
    """
    first, size = 0, 0
    lines: list[bytes] = []
    with igzip.open(path, "rb") as file:
        for line in file:
            if lines and (size + len(line) > max_bytes or len(lines) == max_rows):
                yield Chunk(first, tuple(lines))
                first, lines, size = first + len(lines), [], 0
            lines.append(line)
            size += len(line)
    if lines:
        yield Chunk(first, tuple(lines))
