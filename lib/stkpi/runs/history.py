"""The history of runs: one JSON line per event in `runs/history.jsonl`, from which the index of all runs is made."""

from __future__ import annotations

import errno
import json
import os
from collections.abc import Iterator
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

FILE = "history.jsonl"
FORMER_FILE = "ledger.jsonl"  # its name until November 2026
_ALWAYS = {"at", "event", "run_id"}
_NOTHING = {"seconds": 0.0, "rows": 0, "html": None, "error": None}
_FIELDS = {"started": _ALWAYS, "step": _ALWAYS | {"name", "status"}, "finished": _ALWAYS | {"status"}}


def find_history(runs: Path) -> Path:
    """Return the path of the history in the folder `runs`; rename a history that still has its former name."""
    history, former = runs / FILE, runs / FORMER_FILE
    if former.exists() and not history.exists():
        former.rename(history)
    return history


def append_event(history: Path, **event: Any) -> None:
    """Append one event; it is on the disk when this returns, or nothing of it (an OSError)."""
    with history.open("ab", buffering=0) as file:
        size = os.fstat(file.fileno()).st_size
        # The newline comes first: it also ends a line that a kill cut off, so that only that line is lost.
        line = b"\n" + json.dumps({"at": format_now(), **event}).encode()
        try:
            if file.write(line) < len(line):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(history))
            os.fsync(file.fileno())
        except OSError:
            with suppress(OSError):  # what is no ordinary file has no length
                os.ftruncate(file.fileno(), size)
            raise


def read_runs(history: Path, running: str | None = None) -> list[dict[str, Any]]:
    """Return every run, newest first, each with run_id, status, started_at, finished_at, sandbox and steps.

    running: the id of the run that is going on
    A run that started, did not finish and is not `running` was cut off: its status is "interrupted". A line that is no
    event, such as one that a kill has torn, is passed over.
    """
    runs: dict[str, dict[str, Any]] = {}
    for event in _read_events(history):
        run_id = event["run_id"]
        if event["event"] == "started":
            status = "running" if run_id == running else "interrupted"
            runs[run_id] = {"status": status, "started_at": event["at"], "finished_at": None, "steps": [], **event}
        elif run_id in runs and event["event"] == "step":
            runs[run_id]["steps"].append(_NOTHING | event)
        elif run_id in runs:
            runs[run_id] |= {"status": event["status"], "finished_at": event["at"]}
    return list(reversed(runs.values()))


def _read_events(history: Path) -> Iterator[dict[str, Any]]:
    for line in history.read_bytes().splitlines() if history.exists() else ():
        try:
            event = json.loads(line)
        except ValueError:  # torn, or not UTF-8
            continue
        if isinstance(event, dict) and event.keys() >= _FIELDS.get(str(event.get("event")), {""}):
            yield event


def format_now() -> str:
    """Return the current time in UTC, to the second, in ISO format."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def read_json(path: Path) -> dict[str, Any]:
    """Return the content of a file that a run left; empty where there is none, or only a part of one."""
    try:
        found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, ValueError):
        return {}
    return found
