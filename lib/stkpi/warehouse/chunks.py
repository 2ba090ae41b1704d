"""An NDJSON.gz file in parts that fit into a request, cut the same way each time."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from isal import igzip

MAX_BYTES = 8_000_000  # a request over 10 MB is refused
MAX_ROWS = 5_000


@dataclass(frozen=True)
class Part:
    """Lines of the file, each with its newline, from the line with number `first`."""

    first: int
    lines: tuple[bytes, ...]

    @property
    def name(self) -> str:
        """Which lines it holds: the same name means the same lines of a file."""
        return f"{self.first}-{self.first + len(self.lines) - 1}"

    @property
    def body(self) -> bytes:
        """What is sent."""
        return b"".join(self.lines)

    def halves(self) -> tuple[Part, Part]:
        """The first and the second half of its lines."""
        middle = len(self.lines) // 2
        return Part(self.first, self.lines[:middle]), Part(self.first + middle, self.lines[middle:])


def without_large(path: Path, limit: int, stand_in: Callable[[bytes, str], bytes]) -> Path:
    """A copy of the file, beside it, in which another line stands in for each that has more bytes than `limit`."""
    copy = path.with_name(f"small.{path.name}")
    with igzip.open(path, "rb") as lines, igzip.open(copy, "wb", compresslevel=1) as out:
        for line in lines:
            out.write(line if len(line) <= limit else stand_in(line, f"too large to load: {len(line):,} bytes"))
    return copy


def read(path: Path, max_bytes: int = MAX_BYTES, max_rows: int = MAX_ROWS) -> Iterator[Part]:
    """The parts of a file, each of at most `max_bytes` (uncompressed) and `max_rows`; a longer line is a part alone."""
    first, lines, size = 0, [], 0
    with igzip.open(path, "rb") as file:
        for line in file:
            if lines and (size + len(line) > max_bytes or len(lines) == max_rows):
                yield Part(first, tuple(lines))
                first, lines, size = first + len(lines), [], 0
            lines.append(line)
            size += len(line)
    if lines:
        yield Part(first, tuple(lines))
