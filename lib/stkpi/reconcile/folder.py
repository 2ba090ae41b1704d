"""The files that people put into exports/ of the company folder: each is compared once, and again when our rows have
changed since.

A file in a folder of its own, such as exports/leads/, is compared as the KPI of that name.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pandas as pd

from stkpi import company, settings, warehouse
from stkpi.errors import UserError
from stkpi.reconcile import exports, render
from stkpi.reconcile.compare import Result, Unchanged, compare
from stkpi.warehouse import Warehouse, ensure_tables
from stkpi.warehouse.schema import Column, Table

FOLDER = "exports"
EQUAL, DIFFERENT, NOT_COMPARABLE = "equal", "different", "not comparable"
OUTCOMES = (DIFFERENT, NOT_COMPARABLE, EQUAL)
TABLE = Table(
    "st_logs_v2.compared_files",
    (
        Column("file", "STRING"),
        Column("content", "STRING"),
        Column("ours", "STRING"),
        Column("outcome", "STRING"),
        Column("sentence", "STRING"),
        Column("compared_at", "TIMESTAMP"),
    ),
    description="Each comparison of a file of exports/: digests of the file and of our rows, and what it found",
)
LAST = """
SELECT file, content, ours, outcome, sentence, compared_at FROM st_logs_v2.compared_files
WHERE TRUE QUALIFY ROW_NUMBER() OVER (PARTITION BY file ORDER BY compared_at DESC) = 1
"""
REMEMBER = """
INSERT INTO st_logs_v2.compared_files (file, content, ours, outcome, sentence, compared_at)
VALUES (@file, @content, @ours, @outcome, @sentence, @compared_at)
"""


@dataclass(frozen=True)
class Compared:
    """What is known of a file; `result` only where it was compared now."""

    file: str
    outcome: str
    sentence: str
    compared_at: datetime
    result: Result | None = None


def compare_folder() -> list[Compared]:
    """Compare every file of the company's exports/ that is new, that has changed, or whose numbers here have changed;
    return all of them, what differs first.
    """
    config = settings.load()
    folder = company.read_company(config).folder / FOLDER
    files = [path for path in sorted(folder.rglob("*")) if path.is_file() and not path.name.startswith((".", "~$"))]
    if not files:
        return []
    with warehouse.connect(config) as target:
        ensure_tables(target, [TABLE])
        known = {str(row["file"]): row for row in target.query(LAST).to_dict("records")}
        found = list(_compare_files(target, folder, files, known))
    return sorted(found, key=lambda one: (OUTCOMES.index(one.outcome), one.file))


def _compare_files(
    target: Warehouse, folder: Path, files: list[Path], known: Mapping[str, Mapping[Any, Any]]
) -> Iterator[Compared]:
    for path in files:
        name = path.relative_to(folder).as_posix()
        content = hashlib.sha256(path.read_bytes()).hexdigest()
        before = known.get(name, {})
        same: Mapping[Any, Any] = before if before.get("content") == content else {}
        kpi = path.relative_to(folder).parts[0] if path.parent != folder else ""
        result, ours = None, ""
        try:
            result = compare(exports.read_file(path), target, kpi=kpi, unless=same.get("ours", ""))
            outcome = EQUAL if result.matches else DIFFERENT
            sentence = " ".join([render.summarize(result), *result.doubts])
            ours = result.digest
        except Unchanged:
            outcome, sentence = same["outcome"], same["sentence"]
        except UserError as error:
            outcome, sentence = NOT_COMPARABLE, str(error)
        except Exception as error:  # one file is never the end of a night
            outcome, sentence = NOT_COMPARABLE, f"{name} could not be compared ({type(error).__name__}: {error})."
        if result is None and (outcome, sentence) == (same.get("outcome"), same.get("sentence")):
            yield Compared(name, outcome, sentence, pd.Timestamp(same["compared_at"]).to_pydatetime())
            continue
        at = datetime.now(UTC)
        line = {"file": name, "content": content, "ours": ours, "outcome": outcome, "sentence": sentence}
        target.run_transaction(REMEMBER, **line, compared_at=at)
        yield Compared(name, outcome, sentence, at, result)


def list_lines(compared: Iterable[Compared]) -> list[str]:
    """Return what the terminal shows: the files that were compared now, or can be no longer."""
    return [f"{one.outcome}: {one.sentence}" for one in compared if one.result or one.outcome == NOT_COMPARABLE]


def summarize_folder(compared: list[Compared]) -> str:
    """Return in one sentence how many files there are of each outcome."""
    if not compared:
        return f"There is no file in {FOLDER}/ of the company folder."
    counts = Counter(one.outcome for one in compared)
    found = ", ".join(f"{counts[outcome]} {outcome}" for outcome in OUTCOMES if counts[outcome])
    now = sum(one.result is not None for one in compared)
    return f"{len(compared)} file{'s' if len(compared) > 1 else ''}: {found}; {now} compared tonight."
