"""A company's own folder: its name, the definitions it adopted, and its CSV files.

    company.yml         name; definitions that depart from the default, each with its date and evidence; the saved
                        report of each KPI; limits of checks that differ; other endpoints to read; whether pages show
                        customers' names
    business_units.csv  the rolled-up unit, region, division and segment of each ServiceTitan unit
    job_type_rules.csv  job types that are excluded from production, or are warranty work
    observed.csv        numbers that somebody read off ServiceTitan

COMPANY names the folder; without it, `company/` is a company's and `runs/sandbox/<name>/company` a made-up one's. Every
file may be missing. An adoption looks like this, the newest of a KPI last:

    definitions:
      leads:
        - {adopted_on: 2025-09-14, choices: {status: completed}, evidence: [leads-1, leads-2], note: "as the screen"}

A new adoption is added to company.yml as it stands: a person's comments and order stay. A saved report looks like this,
with its parameters by their labels:

    reports:
      leads: {category: marketing, id: 1001, name: Leads, parameters: {Filter by: Job Creation Date}}

Any list or export feed of ServiceTitan's API becomes a raw table by its name (stkpi.servicetitan.endpoints):

    extra: [telecom/calls, crm/bookings, memberships/memberships]

What the product proposed says why in its `guess` (a column of the CSV files, a key of a report). Without it, it counts
as confirmed.
"""

from __future__ import annotations

import csv
import io
import os
import re
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from datetime import date
from functools import lru_cache
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.comments import CommentedMap
from ruamel.yaml.error import MarkedYAMLError, YAMLError

from stkpi import settings
from stkpi.errors import UserError, suggest_name
from stkpi.spreadsheets import protect_cell, restore_cell

SANDBOX_FOLDER = settings.RUNS / "sandbox" / "painting" / "company"
SANDBOX_PRESET = settings.SANDBOX / "company"

FILE = "company.yml"
KEYS = ("name", "definitions", "reports", "thresholds", "extra", "customer_names")
EXAMPLE = "One looks like {adopted_on: 2025-09-14, choices: {status: completed}, evidence: [leads-1]}."
REPORT_EXAMPLE = "One looks like {category: marketing, id: 1001, parameters: {Filter by: Job Creation Date}}."
NAMES = ("full", "initials")  # how pages show customers' names
UNITS, JOB_TYPE_RULES, OBSERVED = "business_units.csv", "job_type_rules.csv", "observed.csv"
COLUMNS = {
    UNITS: ("business_unit", "rollup", "region", "division", "segment"),
    JOB_TYPE_RULES: ("job_type", "rule"),
}
GUESS = "guess"  # why the product proposed a row; empty or no such column: a person wrote or confirmed it
BOTH = "Both"
# What a cell of these columns may say, in any letter case; it may also be empty.
WORDS = {
    "division": ("Sales", "Production", BOTH),
    "segment": ("RES", "COMM"),
    "rule": ("excluded_from_production", "warranty"),
}


@dataclass(frozen=True)
class Adoption:
    """A definition that the company adopted for a KPI.

    choices: the option of each dimension that departs from the default
    evidence: ids of observed numbers; undone_on: the day it was taken back
    """

    choices: Mapping[str, str]
    adopted_on: date
    evidence: tuple[str, ...] = ()
    note: str = ""
    undone_on: date | None = None


@dataclass(frozen=True)
class SavedReport:
    """The company's saved report that shows a KPI.

    category, id: as the Reporting API calls it; parameters: the chosen value's label by the parameter's label, or the
    labels of several values
    guess: why it was proposed; empty where a person confirmed it
    """

    category: str
    id: str
    name: str = ""
    parameters: Mapping[str, str | tuple[str, ...]] = field(default_factory=dict)
    guess: str = ""

    @property
    def reference(self) -> str:
        """The report as people type it: `report:marketing/1001`."""
        return f"report:{self.category}/{self.id}"


@dataclass(frozen=True)
class Company:
    """What company.yml says.

    definitions: the adoptions of each KPI, oldest first; reports: the saved report of each KPI
    thresholds: limits by the name of the check, as the file has them; keys: the keys that the file has, empty or not
    extra: the endpoints of ServiceTitan's API that are read besides those that the KPIs need
    customer_names: one of NAMES; empty: full on a person's own machine, initials on pages that are shared
    """

    folder: Path
    name: str = ""
    definitions: Mapping[str, tuple[Adoption, ...]] = field(default_factory=dict)
    reports: Mapping[str, SavedReport] = field(default_factory=dict)
    thresholds: Mapping[str, Any] = field(default_factory=dict)
    keys: frozenset[str] = frozenset()
    extra: tuple[str, ...] = ()
    customer_names: str = ""

    def shows_names(self, config: settings.Settings) -> bool:
        """Whether the pages with single rows show customers' names in full."""
        return self.customer_names == "full" or (not self.customer_names and not config.shares_pages)

    def find_adoption(self, kpi: str) -> Adoption | None:
        """Return the adoption in force: the newest that is not undone."""
        return next((one for one in reversed(self.definitions.get(kpi, ())) if one.undone_on is None), None)

    def departures(self, kpi: str) -> Mapping[str, str]:
        """Return the options by dimension in which the KPI's definition departs from the default."""
        adoption = self.find_adoption(kpi)
        return adoption.choices if adoption else {}

    def find_choices(self, reference: str) -> Mapping[str, str | tuple[str, ...]]:
        """Return the parameters, by label, of the saved report that `reference` names; none where it is not listed."""
        listed = (report.parameters for report in self.reports.values() if report.reference == reference)
        return next(listed, {})


# --- the folder -------------------------------------------------------------------------------------------------------


def find_folder(config: settings.Settings) -> Path:
    """Return the company's folder, whether it exists or not.

    The painting company's is a working copy: files that it lacks are copied from the preset, others are kept.
    """
    if config.company == SANDBOX_FOLDER:
        _complete(config.company, SANDBOX_PRESET)
    return config.company


def _complete(folder: Path, preset: Path) -> None:
    for source in sorted(preset.iterdir()):
        if not (folder / source.name).exists():
            _write(folder / source.name, source.read_bytes())


def show_path(path: Path) -> Path:
    """Shorten a path to what a person types."""
    return path.relative_to(settings.ROOT) if path.is_relative_to(settings.ROOT) else path


# --- company.yml ------------------------------------------------------------------------------------------------------


def read_company(config: settings.Settings) -> Company:
    """Read company.yml; without one the company is empty.

    Raises UserError, with the file and line, for what cannot be read. Whether a KPI, dimension or option exists is not
    checked here.
    """
    folder = find_folder(config)
    path = folder / FILE
    return _parse_company(folder, path.read_bytes() if path.exists() else None)


@lru_cache(maxsize=4)
def _parse_company(folder: Path, _written: bytes | None) -> Company:
    """What company.yml says, as long as it is written so: a night asks a hundred times."""
    path = folder / FILE
    content = _read_yaml(path)
    for key in content:
        if key not in KEYS:
            raise _error(path, content.lc.key(key)[0], f"{key} is unknown; {suggest_name(str(key), KEYS)}")
    names = str(content.get("customer_names") or "")
    if names not in ("", *NAMES):
        line = content.lc.key("customer_names")[0]
        raise _error(path, line, f"customer_names is {names}: write {' or '.join(NAMES)}.")
    definitions: Any = content.get("definitions") or CommentedMap()
    adoptions: dict[str, tuple[Adoption, ...]] = {}
    for kpi, entries in definitions.items():
        if not isinstance(entries, list | None):
            raise _error(path, definitions.lc.key(kpi)[0], f"{kpi} must be a list of adoptions. {EXAMPLE}")
        adoptions[str(kpi)] = tuple(_read_adoption(path, entry) for entry in entries or ())
    return Company(
        folder,
        str(content.get("name") or ""),
        adoptions,
        {str(kpi): _read_report(path, kpi, entry) for kpi, entry in _read_entries(path, content, "reports")},
        dict(_read_entries(path, content, "thresholds")),
        frozenset(content),
        _read_extra(path, content),
        names,
    )


def _read_extra(path: Path, content: Any) -> tuple[str, ...]:
    names = content.get("extra") or ()
    if not isinstance(names, list | tuple) or not all(isinstance(name, str) for name in names):
        raise _error(
            path, content.lc.key("extra")[0], "extra must be a list of endpoints: [telecom/calls, crm/bookings]."
        )
    return tuple(names)


def _read_entries(path: Path, content: Any, key: str) -> list[tuple[Any, Any]]:
    """The entries below a key, each of which must be a mapping itself."""
    entries: Any = content.get(key) or CommentedMap()
    if not isinstance(entries, CommentedMap):
        raise _error(path, content.lc.key(key)[0], f"{key} must be lines of `name: {{…}}`.")
    for name, entry in entries.items():
        if not isinstance(entry, CommentedMap):
            raise _error(path, entries.lc.key(name)[0], f"{name} must be lines of `key: value`.")
    return list(entries.items())


def _read_report(path: Path, kpi: Any, entry: Any) -> SavedReport:
    known, line = tuple(SavedReport.__dataclass_fields__), entry.lc.line
    if strange := [key for key in entry if key not in known]:
        raise _error(
            path,
            entry.lc.key(strange[0])[0],
            f"{strange[0]} is unknown in the report of {kpi}; {suggest_name(str(strange[0]), known)}",
        )
    if missing := [key for key in known[:2] if entry.get(key) in (None, "")]:
        raise _error(path, line, f"the report of {kpi} has no {missing[0]}. {REPORT_EXAMPLE}")
    parameters = entry.get("parameters") or {}
    if not isinstance(parameters, dict) or any(isinstance(value, dict) for value in parameters.values()):
        raise _error(
            path, line, f"the parameters of the report of {kpi} must be lines of `label: value`. {REPORT_EXAMPLE}"
        )
    return SavedReport(
        category=str(entry["category"]),
        id=str(entry["id"]),
        name=str(entry.get("name") or ""),
        parameters={str(label): _read_chosen(value) for label, value in parameters.items()},
        guess=str(entry.get(GUESS) or ""),
    )


def _read_chosen(value: Any) -> str | tuple[str, ...]:
    if isinstance(value, list):
        return tuple(str(one) for one in value)
    return "" if value is None else str(value)


def append_key(config: settings.Settings, key: str, value: Any, comment: str) -> None:
    """Append a key that company.yml lacks, with a comment above it; whatever the file has stays byte for byte.

    Only a file whose end takes no further line (such as `{name: Acme}`) is written anew.
    """
    path = find_folder(config) / FILE
    text, encoding = _decode(path) if path.exists() else ("", "utf-8")
    new = io.StringIO()
    _yaml().dump({key: value}, new)
    added = f"{text}{_end_line(text)}# {comment}\n{new.getvalue()}"
    with suppress(YAMLError):
        if _yaml().load(added) == {**_read_yaml(path), key: value}:
            _write(path, _encode(added, encoding))
            return
    content = _read_yaml(path)
    content[key] = value
    _write_yaml(path, content)


def _end_line(text: str) -> str:
    return "" if not text or text.endswith("\n") else "\n"


def _error(path: Path, line: int, problem: str) -> UserError:
    return UserError(f"{show_path(path)}, line {line + 1}: {problem}")


def adopt_definition(
    config: settings.Settings,
    kpi: str,
    choices: Mapping[str, str],
    *,
    adopted_on: date,
    evidence: Iterable[str] = (),
    note: str = "",
) -> Adoption:
    """Append an adoption to the KPI's history in company.yml; the folder and file are made where they are missing."""
    adoption = Adoption(dict(choices), adopted_on, tuple(evidence), note)
    read_company(config)  # what cannot be read is not written to
    path = find_folder(config) / FILE
    content = _read_yaml(path)
    entry = {"adopted_on": adopted_on, "choices": dict(choices), "evidence": list(evidence), "note": note}
    if not content.get("definitions"):
        content["definitions"] = {}
    if not content["definitions"].get(kpi):
        content["definitions"][kpi] = []
    content["definitions"][kpi].append({name: each for name, each in entry.items() if each or name == "choices"})
    _write_yaml(path, content)
    return adoption


def undo_adoption(config: settings.Settings, kpi: str, *, undone_on: date) -> Adoption:
    """Mark the KPI's adoption in force as undone; the one before it is in force again. Return the one undone.

    Raises UserError where none is in force.
    """
    adoption = read_company(config).find_adoption(kpi)
    if adoption is None:
        raise UserError(f"There is nothing to undo: {kpi} has its default definition.")
    path = find_folder(config) / FILE
    content = _read_yaml(path)
    entry = next(each for each in reversed(content["definitions"][kpi]) if not each.get("undone_on"))
    entry["undone_on"] = undone_on
    _write_yaml(path, content)
    return replace(adoption, undone_on=undone_on)


def _yaml() -> YAML:
    """A reader and writer that keeps a person's comments, order and quotes."""
    yaml = YAML()
    yaml.preserve_quotes = True
    yaml.width = 4096
    yaml.indent(mapping=2, sequence=4, offset=2)
    return yaml


def _read_yaml(path: Path) -> Any:
    try:
        content = _yaml().load(_decode(path)[0]) if path.exists() else None
    except MarkedYAMLError as error:
        line = f", line {error.problem_mark.line + 1}" if error.problem_mark else ""
        raise UserError(f"{show_path(path)}{line}: {error.problem or error.context}.") from None
    if content is None:
        return CommentedMap()
    if not isinstance(content, CommentedMap):
        raise UserError(f"{show_path(path)} must be lines of `key: value`, such as `name: Example Painting`.")
    return content


def _write_yaml(path: Path, content: Any) -> None:
    text = io.StringIO()
    _yaml().dump(content, text)
    _write(path, (text.getvalue().rstrip(" \n") + "\n").encode())


def _read_adoption(path: Path, entry: Any) -> Adoption:
    known = ("adopted_on", "choices", "evidence", "note", "undone_on")
    line = entry.lc.line if hasattr(entry, "lc") else 0
    try:
        if strange := [key for key in entry if key not in known]:
            raise ValueError(f"{strange[0]} is unknown; {suggest_name(str(strange[0]), known)}")
        if missing := [key for key in known[:2] if key not in entry]:
            raise ValueError(f"it has no {missing[0]}")
        choices = entry["choices"] or {}
        if odd := [name for name, option in choices.items() if not isinstance(option, str)]:
            raise ValueError(f"{odd[0]} must name one option")
        return Adoption(
            choices={str(name): option for name, option in choices.items()},
            adopted_on=_read_day(entry["adopted_on"]),
            evidence=tuple(str(id) for id in entry.get("evidence") or ()),
            note=str(entry.get("note") or ""),
            undone_on=_read_day(entry["undone_on"]) if entry.get("undone_on") else None,
        )
    except (AttributeError, TypeError, ValueError) as error:
        raise _error(path, line, f"an adoption cannot be read: {error}. {EXAMPLE}") from None


def _read_day(value: Any) -> date:
    return value if type(value) is date else date.fromisoformat(str(value))


# --- the CSV files ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Layout:
    """How a CSV file is written: by a program, an Excel of some country or by hand."""

    encoding: str
    delimiter: str
    skipped: int  # lines before the rows
    lines: tuple[str, ...]


def read_table(path: Path, columns: Sequence[str]) -> list[dict[str, str]]:
    """Read a CSV file of the company as people save them; a missing one has no rows.

    It may be UTF-8, UTF-16 or Windows-1252, with commas, semicolons or tabs, with blanks around the values, with empty
    lines and other columns. Returns the stripped values of `columns`, with the words of WORDS in their right letter
    case. Raises UserError for a missing column, an unknown word and a line with too many values.
    """
    return [row for _, row in read_rows(path, columns)]


def read_rows(path: Path, columns: Sequence[str]) -> list[tuple[int, dict[str, str]]]:
    """Read a CSV file like `read_table`, each row with its line number, for messages."""
    if not path.exists():
        return []
    layout, header, found = _find_layout(path, columns), None, []
    try:
        for line, values in _split(layout):
            where = f"{show_path(path)}, line {line}"
            if header is None:
                header = _read_header(path, values, columns)
                continue
            if any(values[len(header) :]):
                raise UserError(f"{where}: it has more values than columns; a value with a comma needs quotes.")
            named = dict(zip(header, values, strict=False))
            found.append((line, {name: _check_word(where, name, named.get(name, "")) for name in columns}))
    except csv.Error as error:
        raise UserError(f"{show_path(path)}: {error}.") from None
    return found


def append_row(path: Path, columns: Sequence[str], row: Mapping[str, str]) -> None:
    """Append a row to a CSV file; see `append_rows`."""
    append_rows(path, columns, [row])


def append_rows(
    path: Path, columns: Sequence[str], rows: Iterable[Mapping[str, str]], replaced: Collection[int] = ()
) -> None:
    """Append rows to a CSV file in the layout that it has; a missing file is made, with `columns` as its header.

    The rows that are there stay as they are, but for the lines `replaced` (numbers as `read_rows` gives them), which
    go. A file without the column `guess`, where it is one of `columns`, gets it.
    """
    layout, header, text = _Layout("utf-8", ",", 0, ()), list(columns), ",".join(columns) + "\n"
    if path.exists() and any(_split(_find_layout(path, columns))):
        layout = _find_layout(path, columns)
        line, values = next(_split(layout))
        header = _read_header(path, values, columns)
        lines = list(layout.lines)
        if GUESS in columns and GUESS not in header:
            header.append(GUESS)
            first = lines[line - 1].rstrip("\r\n")
            lines[line - 1] = f"{first}{layout.delimiter}{GUESS}{lines[line - 1][len(first) :]}"
        text = "".join(text for number, text in enumerate(lines, start=1) if number not in replaced)
    new = io.StringIO()
    writer = csv.DictWriter(new, header, restval="", delimiter=layout.delimiter, lineterminator="\n")
    writer.writerows(_protect_row(row) for row in rows)
    text += _end_line(text) + new.getvalue()
    _write(path, _encode(text, layout.encoding))


def write_rows(path: Path, columns: Sequence[str], rows: Iterable[Mapping[str, str]]) -> None:
    """Write a whole CSV file, as UTF-8 with commas."""
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, lineterminator="\n")
    writer.writeheader()
    writer.writerows(_protect_row(row) for row in rows)
    _write(path, text.getvalue().encode())


def _protect_row(row: Mapping[str, str]) -> dict[str, str]:
    return {name: protect_cell(value) for name, value in row.items()}


def _write(path: Path, data: bytes) -> None:
    """Write a file of the company, all or nothing."""
    path = path.resolve()
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(f".{path.name}.{os.getpid()}")
    unfinished.write_bytes(data)
    unfinished.replace(path)


def _decode(path: Path) -> tuple[str, str]:
    """Return the text of a file and its encoding."""
    data = path.read_bytes()
    if data[:2] in (b"\xff\xfe", b"\xfe\xff"):
        encodings: tuple[str, ...] = ("utf-16",)
    else:
        encodings = ("utf-8-sig" if data.startswith(b"\xef\xbb\xbf") else "utf-8", "cp1252")
    for encoding in encodings:
        with suppress(UnicodeDecodeError):
            return data.decode(encoding), encoding
    raise UserError(f"{show_path(path)} is neither UTF-8 nor Windows-1252 text: save it as CSV UTF-8.")


def _encode(text: str, encoding: str) -> bytes:
    """Encode a text as its file was, or as UTF-8 where that cannot hold it."""
    try:
        return text.encode(encoding)
    except UnicodeEncodeError:
        return text.encode("utf-8-sig")


def _find_layout(path: Path, columns: Sequence[str]) -> _Layout:
    """Tell the delimiter by the first line that is not empty: it names most of the columns."""
    text, encoding = _decode(path)
    lines = tuple(io.StringIO(text, newline=""))
    if lines and (chosen := re.fullmatch(r'"?sep=(.)"?\s*', lines[0])):  # Excel's own first line
        return _Layout(encoding, chosen[1], 1, lines)
    first = next((line for line in lines if line.strip(" \t\r\n,;")), "")

    def count_columns(delimiter: str) -> int:
        names = next(csv.reader([first], delimiter=delimiter, skipinitialspace=True), [])
        return len({name.strip().lower() for name in names} & set(columns))

    return _Layout(encoding, max(",;\t", key=count_columns), 0, lines)


def _split(layout: _Layout) -> Iterator[tuple[int, list[str]]]:
    """Yield the number and stripped values of each line that is not empty."""
    rows = csv.reader(layout.lines[layout.skipped :], delimiter=layout.delimiter, skipinitialspace=True)
    for cells in rows:
        values = [restore_cell(cell.strip()) for cell in cells]
        if any(values):
            yield rows.line_num + layout.skipped, values


def _read_header(path: Path, values: Sequence[str], columns: Sequence[str]) -> list[str]:
    header = [value.lower() for value in values]
    for name in columns:
        if name not in header and name != GUESS:
            raise UserError(f"{show_path(path)} has no column {name}: it needs {', '.join(columns)}.")
    return header


def _check_word(where: str, column: str, value: str) -> str:
    words = WORDS.get(column)
    if not words or not value:
        return value
    known = {word.lower(): word for word in words}
    if value.lower() not in known:
        raise UserError(f"{where}: the {column} cannot be {value}; {suggest_name(value, words)}")
    return known[value.lower()]
