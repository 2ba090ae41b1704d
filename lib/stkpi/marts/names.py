"""Names in the company's files that no record of ServiceTitan has: a rename there, or a typing error here. And as what
each unit and job type counted, under which name, so that a rename cannot move the past without a word.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from stkpi import company, settings
from stkpi.errors import suggest_name
from stkpi.warehouse import Warehouse

# What the first column of each file names.
RECORDS = {company.UNITS: ("business unit", "business_units"), company.JOB_TYPE_RULES: ("job type", "job_types")}
_REMEMBER = """MERGE INTO st_logs_v2.counted_names AS T
USING (SELECT kind, id, name, counted_as FROM st_ref_v2.counted_as) AS S
ON T.kind = S.kind AND T.id = S.id
WHEN MATCHED AND (T.name != S.name OR T.counted_as != S.counted_as)
  AND (@accept OR T.name = S.name OR T.counted_as = S.counted_as) THEN
  UPDATE SET name = S.name, counted_as = S.counted_as
WHEN NOT MATCHED THEN INSERT (kind, id, name, counted_as) VALUES (S.kind, S.id, S.name, S.counted_as)"""


def remember_names(target: Warehouse, *, accept: bool) -> None:
    """Keep as what each unit and job type counts now, but for those that were renamed and count otherwise since.

    accept: those too: a person has decided that the past shall count so
    """
    target.run_transaction(_REMEMBER, accept=accept)


@dataclass(frozen=True)
class Unmatched:
    """A name in a file that nothing has, and how a sentence about it ends: see `suggest_name`."""

    path: Path
    line: int
    kind: str
    name: str
    suggestion: str

    def __str__(self) -> str:
        where = f"{company.show_path(self.path)}, line {self.line}"
        return f"{where}: ServiceTitan has no {self.kind} called {self.name}; {self.suggestion}"


def find_unmatched_names(target: Warehouse, config: settings.Settings) -> list[Unmatched]:
    """Return the names that no unit and no job type of the tenant has; none before their first ingest."""
    folder = company.find_folder(config)
    return [one for file in RECORDS for one in _compare(folder / file, _read_names(target, RECORDS[file][1]))]


def find_unmapped_units(target: Warehouse, config: settings.Settings) -> list[str]:
    """Return the names of the units that no line of the company's file has; none before their first ingest."""
    path = company.find_folder(config) / company.UNITS
    listed = {row["business_unit"] for row in company.read_table(path, company.COLUMNS[company.UNITS])}
    return sorted(set(_read_names(target, "business_units")) - listed)


def _read_names(target: Warehouse, entity: str) -> list[str]:
    try:
        found = target.query(f"SELECT DISTINCT TRIM(name) AS name FROM st_raw_v2.raw_{entity} WHERE name IS NOT NULL")
    except target.NotFound:
        return []
    return [str(name) for name in found["name"]]


def _compare(path: Path, known: Iterable[str]) -> Iterator[Unmatched]:
    column = company.COLUMNS[path.name][0]
    names = list(known)
    for line, row in company.read_rows(path, company.COLUMNS[path.name]) if names else ():
        if (name := row[column]) not in names:
            yield Unmatched(path, line, RECORDS[path.name][0], name, suggest_name(name, names))
