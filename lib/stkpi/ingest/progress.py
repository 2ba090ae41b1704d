"""Progress of an ingest: a bar on a terminal; elsewhere one line per entity, and more for an entity that takes long."""

from __future__ import annotations

import threading
import time
from typing import Self

from tqdm import tqdm

from stkpi.ingest.read import EntityResult

QUIET_SECONDS = 10  # without a line, where there is no bar to show that the work goes on


class Progress:
    """Print the progress of an ingest over a number of entities; safe to call from several threads."""

    def __init__(self, entities: int) -> None:
        self._bar = tqdm(total=entities, unit="entity", disable=None)
        self._lock, self._printed_at = threading.Lock(), time.monotonic()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.close()

    def report(self, text: str) -> None:
        """Report that a window was read."""
        with self._lock:
            if not self._bar.disable:
                self._bar.set_postfix_str(text)
            elif time.monotonic() - self._printed_at > QUIET_SECONDS:
                self._print(text)

    def finish(self, result: EntityResult) -> None:
        """Report that an entity has ended."""
        text = f"{result.entity}: {result.fetched:,} rows fetched, {result.changed:,} new or changed"
        with self._lock:
            if self._bar.disable:
                self._print(f"{text}, {result.seconds} s" + (f" — {result.error}" if result.error else ""))
            else:
                self._bar.set_postfix_str(text)
                self._bar.update()

    def _print(self, text: str) -> None:
        print(text, flush=True)
        self._printed_at = time.monotonic()
