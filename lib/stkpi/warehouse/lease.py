"""One writer at a time in BigQuery, as in a DuckDB file: a table in the scratch dataset says that one is at work.

BigQuery makes a table for one of two programs, and changes it for the one that saw it last (its etag). The holder
renews the table while it lives. One that does not renew it for SECONDS is dead, and another takes over: no clocks are
compared. Calls of the API only: nothing is billed.
"""

from __future__ import annotations

import json
import os
import socket
import sys
import threading
import time
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, ClassVar

from google.api_core.exceptions import Conflict, GoogleAPICallError, NotFound, PreconditionFailed, RetryError
from google.api_core.retry import Retry
from google.auth.exceptions import TransportError
from google.cloud import bigquery
from requests import RequestException

from stkpi.errors import UserError, WarehouseError
from stkpi.warehouse.ownership import LABEL

TABLE = "writer"
SECONDS = 60.0  # without a renewal, after which the holder counts as dead
_KEPT = timedelta(days=1)  # after which BigQuery deletes what a dead holder left
_ONCE = Retry(predicate=lambda _: False)
_CALL_ERRORS = (GoogleAPICallError, RetryError, RequestException, TransportError)


class Lease:
    """The right to write into the datasets of a project. A process holds it once, however often it connects."""

    _held: ClassVar[dict[str, Lease]] = {}
    _guard: ClassVar[threading.Lock] = threading.Lock()

    def __init__(self, client: bigquery.Client, table: str, retry: Retry) -> None:
        """Prepare a lease, without a call. table: the full name of the sign."""
        self._client, self._name, self._retry = client, table, retry
        self._users = 0
        self._done = threading.Event()
        self._renewed_at = 0.0
        self._table: bigquery.Table

    @classmethod
    def acquire(cls, client: bigquery.Client, table: str, retry: Retry, wait: float) -> Lease:
        """Return this process's lease, which `release` gives back.

        wait: seconds to wait while another program has it
        Raises UserError if it still has it then.
        """
        with cls._guard:
            lease = cls._held.get(table)
            if lease is None or lease.is_lost:
                lease = cls(client, table, retry)
                lease._take(wait)
                cls._held[table] = lease
            lease._users += 1
            return lease

    @property
    def is_lost(self) -> bool:
        """Whether another program may have taken over: this one was stopped, or without a network, for too long."""
        return time.monotonic() - self._renewed_at > SECONDS

    def check(self) -> None:
        """Raise WarehouseError if another program may be writing by now."""
        if self.is_lost:
            raise WarehouseError(
                "This program lost its place in BigQuery while it stood still or had no network, and another one may "
                "be writing there: run again; finished work is kept."
            )

    def release(self) -> None:
        """Give the lease back; the last user in the process ends it."""
        with self._guard:
            self._users -= 1
            if self._users or self._done.is_set():
                return
            self._done.set()
            self._renewer.join()
            if not self.is_lost:  # else it may be another's
                with suppress(*_CALL_ERRORS):  # the next program sees that this one has ended
                    self._client.delete_table(self._name, not_found_ok=True, retry=_ONCE)
            self._renewed_at = float("-inf")

    def _take(self, wait: float) -> None:
        sign = bigquery.Table(self._name, [bigquery.SchemaField("held", "BOOL")])
        sign.labels = dict([LABEL])
        seen, seen_at, until, told = "", 0.0, time.monotonic() + wait, False
        while True:
            now = time.monotonic()
            sign.description, sign.expires = json.dumps(_describe_process()), datetime.now(UTC) + _KEPT
            try:
                self._table = self._client.create_table(sign, retry=self._retry)
                break
            except Conflict:
                pass
            try:
                found = self._client.get_table(self._name, retry=self._retry)
                if found.etag != seen:
                    seen, seen_at = found.etag, now
                holder = json.loads(found.description or "{}")
                if now - seen_at >= SECONDS or _is_dead(holder):
                    found.description = sign.description
                    self._table = self._client.update_table(found, ["description"], retry=self._retry)
                    break
            except (NotFound, PreconditionFailed):  # given back, or taken by a third
                continue
            who = f"{holder.get('host', 'another computer')}, process {holder.get('process', 'unknown')}"
            if now > until:
                raise UserError(
                    f"Another program writes to these datasets ({who}): end that, or wait for it, and try again."
                )
            if not told:
                print(f"Waiting: another program writes to these datasets ({who}).", file=sys.stderr, flush=True)
                told = True
            time.sleep(0.5)
        self._renewed_at = time.monotonic()
        self._renewer = threading.Thread(target=self._renew, name="lease", daemon=True)
        self._renewer.start()

    def _renew(self) -> None:
        while not self._done.wait(SECONDS / 3):
            begun = time.monotonic()
            self._table.expires = datetime.now(UTC) + _KEPT
            try:
                self._table = self._client.update_table(self._table, ["expires"], retry=_ONCE)
                self._renewed_at = begun
            except (NotFound, PreconditionFailed):  # another program took over
                self._renewed_at = float("-inf")
                return
            except _CALL_ERRORS:
                continue  # the next one may get through in time


def _describe_process() -> dict[str, Any]:
    """Return what tells this process from any other, and its computer's name for a person."""
    return {"host": socket.gethostname(), "machine": _identify_machine(), "process": os.getpid()}


def _identify_machine() -> str:
    """Return what this machine and its processes' numbers are told by; empty where they cannot be."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
        return f"{socket.gethostname()} {boot} {Path('/proc/self/ns/pid').readlink()}"
    except OSError:
        return ""


def _is_dead(holder: dict[str, Any]) -> bool:
    """Tell whether the holder was a process of this machine that has ended, or this one, before it lost its place."""
    machine, process = holder.get("machine"), holder.get("process")
    if not machine or machine != _identify_machine() or not isinstance(process, int):
        return False
    try:
        if process == os.getpid():
            return True
        os.kill(process, 0)
    except ProcessLookupError:
        return True
    except PermissionError:  # another user's
        pass
    return False
