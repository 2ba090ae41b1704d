"""Propose a company's own files from what ServiceTitan says, so that its first figures are not empty.

Only what is missing is appended; what a person wrote stays byte for byte. Every guess says why, and counts until it is
confirmed or corrected. The made-up company has its files and gets no proposal.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import pandas as pd

from stkpi import company, settings, warehouse
from stkpi.errors import UserError
from stkpi.ingest.run import run_ingest
from stkpi.kpis.catalog import read_catalog
from stkpi.kpis.definition import read_definitions
from stkpi.marts.build import SQL, resolve_day
from stkpi.marts.names import find_unmatched_names
from stkpi.proposal.clock import check_time_zone, read_starts
from stkpi.proposal.job_types import JobType, names_a_rule, propose_rules
from stkpi.proposal.reports import propose_reports
from stkpi.proposal.units import Unit, propose_units
from stkpi.servicetitan.client import Client, RequestFailed

# What must be in the warehouse for any proposal.
NEEDED = ("business_units", "job_types")
UNREAD = "; its jobs were not read yet"  # ends a guess that the jobs may correct
COLUMNS = ["file", "name", "counts as", "guess"]


@dataclass(frozen=True)
class Proposal:
    """What was written into the company's folder, and what is still a guess there.

    written, notes: sentences: what was appended, and what a person should look at
    guesses: a row per guess that nobody confirmed, of this night or an earlier one; columns COLUMNS
    """

    written: tuple[str, ...]
    notes: tuple[str, ...]
    guesses: pd.DataFrame = field(default_factory=lambda: pd.DataFrame(columns=COLUMNS))

    @property
    def headline(self) -> str:
        """What is still a guess, in one sentence; empty where nothing is."""
        if self.guesses.empty:
            return ""
        files = ", ".join(dict.fromkeys(self.guesses["file"]))
        return (
            f"{len(self.guesses)} entries of {files} are guesses until you confirm them: correct what is wrong, then "
            f"empty the `{company.GUESS}` of what is right."
        )

    @property
    def lines(self) -> list[str]:
        """What the terminal shows."""
        return [*self.written, *self.notes, *filter(None, [self.headline])]


def set_up() -> Proposal:
    """Write or complete the company's folder; read its units and job types first where the warehouse has none.

    Raises UserError for settings, credentials or files that cannot be used.
    """
    config = settings.load()
    with warehouse.connect(config) as target:
        missing = [name for name in NEEDED if not _has_rows(target, name)]
    if missing:
        for result in run_ingest(",".join(missing)).entities:
            if result.error:
                raise UserError(f"{result.entity} could not be read: {result.error}")
    return complete_folder(config)


def complete_folder(config: settings.Settings | None = None) -> Proposal:
    """Append to the company's files what they lack, as guesses; see `Proposal` for the answer.

    Raises UserError for a file that cannot be read.
    """
    config = config or settings.load()
    read_definitions(config)  # what is wrong in company.yml is said before anything is written
    folder, own = company.find_folder(config), company.read_company(config)
    notes: list[str] = []
    written: list[str] = []
    with warehouse.connect(config) as target:
        units, types = (_read_names(target, name) for name in NEEDED)
        rows: dict[str, tuple[list[int], list[dict[str, str]]]] = {}
        if folder != company.SANDBOX_FOLDER:
            rows = _propose_rows(target, config, units, types)
        notes += [str(one) for one in find_unmatched_names(target, config)]
        zone = check_time_zone(read_starts(target, resolve_day(None, config)), config.time_zone)
        notes += [zone] if zone else []
    try:
        for file, (replaced, added) in rows.items():
            if added:
                company.append_rows(folder / file, (*company.COLUMNS[file], company.GUESS), added, replaced)
                again = f", {len(replaced)} of them anew, now that the jobs were read" * bool(replaced)
                written.append(f"{len(added)} lines were written to {company.show_path(folder / file)}{again}.")
        if folder != company.SANDBOX_FOLDER:
            written += _complete_yaml(config, own, units)
    except OSError as error:
        notes.append(f"{company.show_path(folder)} cannot be written ({error.strerror}): units count as they are.")
    except RequestFailed as error:
        notes.append(f"No saved reports were looked up: {error}.")
    return Proposal(tuple(written), tuple(notes), list_guesses(config))


def list_guesses(config: settings.Settings) -> pd.DataFrame:
    """Return the guesses of the company's files that nobody confirmed, a row each; columns COLUMNS."""
    folder, found = company.find_folder(config), []
    for file, columns in company.COLUMNS.items():
        for row in company.read_table(folder / file, (*columns, company.GUESS)):
            if row[company.GUESS]:
                name, *values = (row[column] for column in columns)
                words = ", ".join(dict.fromkeys(filter(None, values))) or "not listed"
                found.append((str(company.show_path(folder / file)), name, words, row[company.GUESS]))
    for kpi, report in company.read_company(config).reports.items():
        if report.guess:
            label = read_catalog()[kpi].label
            found.append((str(company.show_path(folder / company.FILE)), label, report.name, report.guess))
    return pd.DataFrame(found, columns=COLUMNS)


# --- what the warehouse says ------------------------------------------------------------------------------------------


def _has_rows(target: warehouse.Warehouse, entity: str) -> bool:
    return len(_read_names(target, entity)) > 0


def _read_names(target: warehouse.Warehouse, entity: str) -> pd.DataFrame:
    """Return the records of a short list that have a name, names stripped; no rows before its first ingest."""
    try:
        # Unbounded: there are some dozens.
        found = target.query(f"SELECT * FROM st_raw_v2.raw_{entity} ORDER BY id")
    except target.NotFound:
        return pd.DataFrame(columns=["id", "name", "active"])
    names = found["name"].fillna("").str.strip()
    return found.assign(name=names, active=found["active"].fillna(True))[names != ""]


def _read_evidence(target: warehouse.Warehouse) -> pd.DataFrame:
    """Return how many jobs each unit and job type has, and what they are; no rows before the first ingest of jobs."""
    try:
        return target.query((SQL / "proposal" / "evidence.sql").read_text(encoding="utf-8"))
    except target.NotFound:
        return pd.DataFrame(columns=["business_unit_id", "job_type_id", "total", "estimated", "invoiced", "worked"])


def _propose_rows(
    target: warehouse.Warehouse, config: settings.Settings, units: pd.DataFrame, types: pd.DataFrame
) -> dict[str, tuple[list[int], list[dict[str, str]]]]:
    """Return for each CSV file the lines that better guesses replace, and the rows that are to be appended.

    Only a guess that was made before the jobs were read, and that nobody has changed since, is replaced. The jobs are
    only looked at where a name is missing or such a guess is there.
    """
    folder = company.find_folder(config)
    files = {
        file: company.read_rows(folder / file, (*columns, company.GUESS)) for file, columns in company.COLUMNS.items()
    }
    rules = {row["job_type"] for _, row in files[company.JOB_TYPE_RULES]}
    is_early = any(row[company.GUESS].endswith(UNREAD) for rows in files.values() for _, row in rows)
    has_new_units = bool(set(units["name"]) - {row["business_unit"] for _, row in files[company.UNITS]})
    has_new_types = any(name not in rules and names_a_rule(name) for name in types["name"])
    if not (is_early or has_new_units or has_new_types):
        return {}
    evidence = _read_evidence(target)
    found = {}
    for file, rows in files.items():
        propose = _propose_units if file == company.UNITS else _propose_rules
        names = units if file == company.UNITS else types
        ours = [row for _, row in rows if row[company.GUESS].endswith(UNREAD)] if len(evidence) else []
        if ours:
            kept = [row for _, row in rows if row not in ours]
            ours = [row for row in propose(names, evidence[:0], kept) if row in ours]
        kept = [row for _, row in rows if row not in ours]
        lines = [line for line, row in rows if row in ours]
        found[file] = lines, propose(names, evidence, kept)
    return found


def _propose_units(
    units: pd.DataFrame, evidence: pd.DataFrame, known: Sequence[Mapping[str, str]]
) -> list[dict[str, str]]:
    # Where the company pays no job in ServiceTitan, an invoice alone is work.
    work = "worked" if evidence["worked"].sum() else "invoiced"
    counted = _count(units, evidence, "business_unit_id", {"estimated": "estimated", "worked": work})
    return _mark(propose_units([Unit(**row) for row in counted], known), evidence)


def _propose_rules(
    types: pd.DataFrame, evidence: pd.DataFrame, known: Sequence[Mapping[str, str]]
) -> list[dict[str, str]]:
    counted = _count(types, evidence, "job_type_id", {"jobs": "total", "invoiced": "invoiced"})
    kinds = [JobType(row["name"], row["jobs"], row["invoiced"]) for row in counted]
    return _mark(propose_rules(kinds, [row["job_type"] for row in known]), evidence)


def _mark(rows: list[dict[str, str]], evidence: pd.DataFrame) -> list[dict[str, str]]:
    """Say of guesses that were made before the jobs were read that they were."""
    return rows if len(evidence) else [row | {company.GUESS: row[company.GUESS] + UNREAD} for row in rows]


def _count(names: pd.DataFrame, evidence: pd.DataFrame, key: str, columns: dict[str, str]) -> Iterator[dict[str, Any]]:
    """Return a row per name, with the sums of the columns over all records of that name; in use if one of them is."""
    sums = evidence.groupby(key)[list(columns.values())].sum()
    for name, records in names.groupby("name", sort=False):
        counted = sums.reindex(records["id"]).fillna(0).sum()
        trade = next(iter(records["trade"].dropna()), "") if "trade" in records else ""
        counts = {column: int(counted[source]) for column, source in columns.items()}
        yield {"name": name, "active": bool(records["active"].any()), "trade": trade, **counts}


# --- company.yml ------------------------------------------------------------------------------------------------------


def _complete_yaml(config: settings.Settings, own: company.Company, units: pd.DataFrame) -> list[str]:
    """Append the name and the saved reports to company.yml where it has no such key; return what was done."""
    path, written = company.show_path(own.folder / company.FILE), []
    if "name" not in own.keys and (name := _guess_name(units)):
        company.append_key(config, "name", name, "A guess: the legal name of most units.")
        written.append(f"The name {name} was added to {path}.")
    if "reports" not in own.keys and config.st_client_id:
        reports = propose_reports(Client(config))
        told = f"Guesses until you confirm them: check each report, then delete its line `{company.GUESS}`."
        company.append_key(
            config, "reports", reports, told if reports else "No saved report fits a KPI by its columns."
        )
        names = ", ".join(dict.fromkeys(one["name"] for one in reports.values())) or "none fits"
        written.append(f"The saved reports were looked up for {path}: {names}.")
    return written


def _guess_name(units: pd.DataFrame) -> str:
    """Return the legal name that most units share; empty where they have none."""
    names = Counter(units["officialName"].dropna().str.strip()) if "officialName" in units else Counter()
    most = next(iter(names.most_common(1)), ("", 0))
    return most[0] if most[1] * 2 > len(units) else ""
