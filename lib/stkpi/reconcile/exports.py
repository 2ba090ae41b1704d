"""ServiceTitan's reports as people have them: an exported .xlsx or .csv file, or the rows of the Reporting API.

`read_file` finds the header, the columns and the stated dates by itself. Layouts seen in the field: title rows above
the header, blank, group, count and total rows between the data, the header again, a second sheet "Filters" with the
dates, numbers as text (`$2,139.46`, `(1,234.50)`, `-68.80%`), flags as TRUE, Yes or 1, ids as floats, several ids in
one cell, a unit in merged cells, two columns with one label, Excel's errors, the calendar of 1904, a byte-order mark.

A column is never guessed by what it may mean: it has one of the names below, or such a name with a typing error, and
then `likened` says so.
"""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from dataclasses import field as dataclass_field
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal, InvalidOperation
from difflib import SequenceMatcher
from functools import lru_cache
from itertools import islice
from pathlib import Path
from statistics import mode
from typing import IO, Any
from zipfile import ZipFile, is_zipfile

import openpyxl
import pandas as pd
from openpyxl.utils.cell import range_boundaries

from stkpi.errors import UserError

HEADER_WITHIN = 100  # rows; titles and filters stand above the header, never so many
CLOSE = 0.8  # likeness of a word with a typing error: "Nmber" is Number
SHORT = 4  # letters; a shorter word has no typing error, it is another word
EXCEL_EPOCH = date(1899, 12, 30)
SERIALS = (25_000, 80_000)  # Excel's numbers of the days from 1968 to 2119

# What a column means, its kind (id, text, date, flag, money), and the names it goes by in lower case, the best first.
# A number and an id are two things, and so are a record's amount and the part of it that is not applied.
FIELDS: Mapping[str, tuple[str, str]] = {
    "job_number": ("id", "job number, job no, job num, job"),
    "job_id": ("id", "job id"),
    "estimate_number": ("id", "estimate number, estimate no, estimate id, estimate"),
    "payment_number": ("id", "payment number, payment no, payment id, payment"),
    "invoice_number": ("id", "invoice number, invoice no, invoice"),
    "invoice_id": ("id", "invoice id"),
    "business_unit": (
        "text",
        "business unit, jobs business unit, job business unit, invoice business unit, business unit name",
    ),
    "name": ("text", "name"),
    "customer_name": ("text", "customer name, customer"),
    "lead_type": ("text", "lead type"),
    "campaign": ("text", "job campaign, campaign, campaign name, campaign category"),
    "job_type": ("text", "job type, job type name"),
    "status": ("text", "status, job status"),
    "sold_by": ("text", "sold by"),
    "technician": ("text", "primary technician, technician, assigned technicians"),
    "location_name": ("text", "location name, location"),
    "payment_type": ("text", "payment type"),
    "created_date": (
        "date",
        "job created date, created date, created on, job created on, date created, creation date, job creation date",
    ),
    "completed_date": (
        "date",
        "job completed date, completed date, completed on, job completed on, completion date, job completion date",
    ),
    "sold_date": ("date", "estimate sold date, sold date, sold on, estimate sold on"),
    "opportunity_date": ("date", "opportunity date"),
    "start_date": (
        "date",
        "scheduled date, job scheduled date, start date, job start date, job start, appointment date, "
        "appointment start date, next appt start date, next appointment start date, next appointment date",
    ),
    "payment_date": ("date", "payment date, paid on, date paid, paid date"),
    "invoice_date": ("date", "invoice date, invoiced on"),
    "estimate_subtotal": ("money", "estimate subtotal, estimates subtotal"),
    "job_sales": ("money", "jobs estimate sales subtotal, job estimate sales subtotal, estimate sales subtotal"),
    "jobs_subtotal": ("money", "jobs subtotal, job subtotal, jobs total revenue, job total revenue"),
    "labor_pay": ("money", "labor pay"),
    "payroll_adjustments": ("money", "payroll adjustments"),
    "material_costs": ("money", "materials equip po bill costs, material costs"),
    "returns": ("money", "returns"),
    "total_costs": ("money", "jobs total costs, job total costs, total costs"),
    "margin": ("money", "jobs gross margin percent, gross margin percent"),
    "total_estimates": ("money", "total estimates"),
    "sales_opportunity": ("flag", "sales opportunity, sales opportunities"),
    "closed": ("flag", "closed, closed opportunities"),
    "completed_jobs": ("money", "completed jobs"),
    "close_rate": ("money", "close rate"),
    "total_sales": ("money", "total sales"),
    "amount": ("money", "amount, payment amount, applied amount"),
    "total": ("money", "total, invoice total, payment total"),
    "balance": ("money", "balance, balance due, amount due"),
    "net_amount": ("money", "net amount"),
}
_NAMES = {name: field for field, (_, names) in FIELDS.items() for name in names.split(", ")}
_BY_NAME = {name.replace(" ", ""): field for name, field in _NAMES.items()}
# Yes and no as Excel and its users write them: in English, Spanish, French, German, Portuguese, Italian and Dutch.
_YES = frozenset(
    {
        "true",
        "yes",
        "y",
        "x",
        "verdadero",
        "s\u00ed",
        "si",
        "vrai",
        "oui",
        "wahr",
        "ja",
        "verdadeiro",
        "sim",
        "vero",
        "waar",
    }
)
_NO = frozenset({"false", "no", "n", "falso", "faux", "non", "falsch", "nein", "n\u00e3o", "nao", "onwaar"})
_ERROR = re.compile(r"#(N/A|REF!|VALUE!|NAME\?|DIV/0!|NULL!|NUM!|SPILL!|CALC!|GETTING_DATA)", re.IGNORECASE)
_SEVERAL = re.compile(r"\s*[;\n|]\s*|,\s+|,(?!\d{3}\b)|(?<=\d{4}),")
_BLANK = (None, "")
# "Total", "Count: 3", "Total for Phoenix", and not "Total Wine", a customer.
_TOTAL = re.compile(r"(grand |sub ?-?)?(totals?|counts?|averages?|sum)(\s*([:(\d]|for\b|of\b).{0,40})?", re.IGNORECASE)
_HEADING = re.compile(r"([^:]{2,40}):\s*(.+)")
_BASIS = re.compile(r"(?:filter by|date type|filter date by):?\s*(.*)", re.IGNORECASE)
_EXPORTED = re.compile(r"export|generat|printed|run (on|at|date)|as of time", re.IGNORECASE)
_DATED = re.compile(r"date|from|to\b|start|end|as of|range|period|between", re.IGNORECASE)
_DAY_IN_TEXT = re.compile(
    r"\d{4}-\d\d-\d\d(?:T[\d:.]+)?|\d{1,2}/\d{1,2}/\d{2,4}(?: \d{1,2}:\d\d(?::\d\d)?(?: ?[AP]M)?)?"
    r"|\d{1,2}\.\d{1,2}\.\d{4}|[A-Z][a-z]{2,8}\.? \d{1,2}, \d{4}",
    re.IGNORECASE,
)
_CLOCKS = (" %I:%M:%S %p", " %I:%M %p", " %I:%M%p", " %H:%M:%S", " %H:%M", "")
_DAYS = ("%m/%d/%Y", "%m/%d/%y", "%m-%d-%Y", "%d.%m.%Y", "%b %d, %Y", "%B %d, %Y")
_FORMATS = tuple(day + clock for day in _DAYS for clock in _CLOCKS)


@dataclass(frozen=True)
class Export:
    """The rows of a report and what its file says about them.

    cells: a row per data row, a column per known field as the file has it, and `row`, its number in the file
    headers: what the file calls each field; `unknown` are the columns that mean nothing here
    likened: the fields whose column has a typing error in its name; `repeated`: those with two columns that differ
    first_day, last_day: the dates that the file states, both included; None where it states none
    basis: by which of the jobs' dates the report is filtered, as it says: Job Completion Date
    exported_at: when it was made, where the file knows: on the tenant's clock, or as an aware UTC time
    left_out: the rows that are no data, blank ones aside: the number of each in the file, and why
    totals: of these the rows of counts and totals: row, and its cells by field
    origin: who says so, in a sentence: a file by its name, or ServiceTitan
    epoch: the day from which its numbers of days are counted
    """

    name: str
    cells: pd.DataFrame
    headers: Mapping[str, str]
    unknown: tuple[str, ...] = ()
    likened: tuple[str, ...] = ()
    repeated: tuple[str, ...] = ()
    first_day: date | None = None
    last_day: date | None = None
    basis: str = ""
    exported_at: datetime | None = None
    left_out: tuple[tuple[int, str], ...] = ()
    totals: tuple[tuple[int, Mapping[str, Any]], ...] = ()
    origin: str = ""
    epoch: date = EXCEL_EPOCH

    def ids(self, field: str) -> pd.Series:
        """A column of ids, a tuple of texts per cell, empty where a cell is empty or an error of Excel.

        Raises UserError for what Excel has shortened.
        """
        return self._convert_cells(field, parse_ids, "an id").map(lambda ids: ids or ())

    def money(self, field: str) -> pd.Series:
        """A column of amounts or flags as Decimal, zero where a cell is empty. Raises UserError for what is neither."""
        parse, noun = (parse_flag, "yes or no") if FIELDS[field][0] == "flag" else (parse_number, "an amount")
        return self._convert_cells(field, parse, noun).map(lambda value: value or Decimal(0))

    def dates(self, field: str) -> pd.Series:
        """A column of dates, None where a cell is empty. Raises UserError for what is no date."""
        return self._convert_cells(field, lambda value: parse_day(value, self.epoch), "a date")

    def text(self, field: str) -> pd.Series:
        """A column as text, None where a cell is empty."""
        return self._convert_cells(field, lambda value: str(value).strip() or None, "text")

    def _convert_cells(self, field: str, convert: Callable[[Any], Any], noun: str) -> pd.Series:
        if field in self.repeated:
            raise UserError(
                f"{self.name} has two columns {self.headers[field]} with different values: delete the one that is not "
                "meant, or export the report without it."
            )
        known: dict[Any, Any] = {}
        values = []
        for value, row in zip(self.cells[field], self.cells["row"], strict=True):
            cell = (type(value), value)  # TRUE is not 1
            if cell not in known and value not in _BLANK:
                try:
                    known[cell] = convert(value)
                except (ValueError, InvalidOperation):
                    raise UserError(
                        f"{self.name}, row {row}: {self.headers[field]} is {_show_cell(value)}, which is not {noun}: "
                        "correct the cell, or export the report again."
                    ) from None
            values.append(known.get(cell))
        return pd.Series(values, index=self.cells.index, dtype=object)


class Uncalculated(str):
    """A formula of which the file holds no result, because no spreadsheet program has calculated it."""


def _show_cell(value: Any) -> str:
    return f"the formula {value} without a result" if isinstance(value, Uncalculated) else repr(value)


# --- cells ----------------------------------------------------------------------------------------------------------


def parse_number(value: Any) -> Decimal | None:
    """A cell as a number: 2139.46, `$2,139.46`, `(1,234.50)` = -1234.50, `-68.80%` = -0.688, `1.234,56`; `-` is None.

    Raises ValueError for anything else.
    """
    if isinstance(value, int | float | Decimal) and not isinstance(value, bool):
        return Decimal(str(value))
    text = str(value).strip().replace("\u2212", "-").replace("\u00a0", "").replace(" ", "")
    if text in ("-", "\u2013", "\u2014", ""):
        return None
    sign = -1 if "-" in text or ("(" in text and ")" in text) else 1
    digits = re.sub(r"[$€£()+-]", "", text.removesuffix("%"))
    if re.fullmatch(r"\d{1,3}(\.\d{3})*,\d{1,2}|\d+,\d{1,2}", digits):  # a comma before the cents
        digits = digits.replace(".", "").replace(",", ".")
    elif not re.fullmatch(r"(\d+|\d{1,3}(,\d{3})+)?(\.\d*)?", digits):
        raise ValueError(value)
    amount = sign * Decimal(digits.replace(",", ""))
    return amount / 100 if text.endswith("%") else amount


def parse_flag(value: Any) -> Decimal | None:
    """A cell as yes (1) or no (0), or as the number of them: True, `TRUE`, `Yes`, `VERDADERO`, 1.

    Raises ValueError for anything else.
    """
    if isinstance(value, bool):
        return Decimal(value)
    text = str(value).strip().lower()
    return Decimal(text in _YES) if text in _YES or text in _NO else parse_number(value)


def parse_ids(value: Any) -> tuple[str, ...]:
    """A cell as the ids that it names, see `parse_id`: `397, 398` are two, `12,345` is one, `#N/A` is none.

    Raises ValueError for what `parse_id` refuses.
    """
    if isinstance(value, str) and value.isdigit():  # as nearly all are
        return (value,)
    texts = _SEVERAL.split(value) if isinstance(value, str) else [value]
    ids = [parse_id(text) for text in texts if not _ERROR.fullmatch(str(text).strip())]
    return tuple(dict.fromkeys(id for id in ids if id))


def parse_id(value: Any) -> str | None:
    """A cell as an id: `#1234`, 1234.0 and `1234.0` are 1234.

    Raises ValueError for a formula, and for the text `1.23E+08`, which has lost digits.
    """
    text = str(value).strip().lstrip("#'").strip()
    if re.fullmatch(r"\d+\.0*", text):
        return text.partition(".")[0]
    if re.fullmatch(r"\d{1,3}(,\d{3})+", text):
        return text.replace(",", "")
    if re.fullmatch(r"\d(\.\d+)?e\+?\d+", text, re.IGNORECASE):
        if isinstance(value, float):
            return str(int(value))
        raise ValueError(value)
    if text.startswith("="):
        raise ValueError(value)
    return text or None


def parse_day(value: Any, epoch: date = EXCEL_EPOCH) -> date | None:
    """A cell as the day it names: a date, US order (8/18/2025), ISO with or without a time, or Excel's number of a day.

    A time with an offset is the tenant's own clock: its day is the one that is written. Raises ValueError otherwise.
    """
    at = parse_moment(value, epoch)
    return at and at.date()


def parse_moment(value: Any, epoch: date = EXCEL_EPOCH) -> datetime | None:
    """A cell as a local date and time, see `parse_day`."""
    if isinstance(value, datetime):
        return value.replace(tzinfo=None)
    if isinstance(value, date):
        return datetime(value.year, value.month, value.day)  # noqa: DTZ001 a calendar day has no zone
    text = str(value).strip()
    if re.fullmatch(r"\d{5}(\.\d+)?", text) and SERIALS[0] < float(text) < SERIALS[1]:
        return datetime.fromordinal(epoch.toordinal()) + timedelta(days=float(text))
    if text in ("", "-", "\u2014"):
        return None
    try:
        return datetime.fromisoformat(re.sub(r"(\.\d{6})\d+", r"\1", text)).replace(tzinfo=None)
    except ValueError:
        pass  # not ISO: as people write it
    for pattern in _FORMATS:
        try:
            return datetime.strptime(text, pattern)  # noqa: DTZ007 the tenant's own clock
        except ValueError:
            continue
    raise ValueError(value)


# --- columns, rows and stated dates ---------------------------------------------------------------------------------


def _list_words(header: Any) -> list[str]:
    text = re.sub("[\u2019']", "", str(header or "").lower().replace("#", " number ").replace("%", " percent "))
    return re.findall(r"[^\W_]+", text)


def _simplify(header: Any) -> str:
    return "".join(_list_words(header))


def find_columns(header: Sequence[Any]) -> tuple[dict[str, int], tuple[str, ...]]:
    """The place of every field that the header names, and which of them it names with a typing error."""
    places: dict[str, int] = {}
    names = [_simplify(cell) for cell in header]
    for name, field in _BY_NAME.items():  # the best name of a field first
        if name in names:
            places.setdefault(field, names.index(name))
    likened = []
    for place, name in enumerate(names):
        if name and name not in _BY_NAME:
            words = _list_words(header[place])
            free = (known for known, field in _NAMES.items() if field not in places)
            if near := next((known for known in free if _is_typo(words, known.split())), None):
                places[_NAMES[near]] = place
                likened.append(_NAMES[near])
    return dict(sorted(places.items(), key=lambda item: item[1])), tuple(likened)


def _is_typo(words: Sequence[str], known: Sequence[str]) -> bool:
    """Whether a name is a known one with typing errors inside of its words.

    Their ends mean something: Estimates is a count, Unapplied the opposite of Applied.
    """
    return len(words) == len(known) and all(
        word == right
        or (
            min(len(word), len(right)) >= SHORT
            and abs(len(word) - len(right)) <= 1
            and (word[0], word[-1]) == (right[0], right[-1])
            and SequenceMatcher(None, word, right).ratio() >= CLOSE
        )
        for word, right in zip(words, known, strict=True)
    )


def _score_header(row: Sequence[Any]) -> int:
    """How many columns a row names if it is the header; one that stands alone counts only if it names a row."""
    found = {_BY_NAME[name] for name in map(_simplify, row) if name in _BY_NAME}
    alone = len([cell for cell in row if cell not in _BLANK]) == 1
    if len(found) == 1 and not (alone and (FIELDS[min(found)][0] == "id" or found == {"customer_name"})):
        return 0
    return len(found)


Stated = tuple[date | None, date | None, datetime | None, str]


def find_stated_dates(lines: Iterable[Sequence[Any]], epoch: date = EXCEL_EPOCH) -> Stated:
    """The first day, last day, time of export and basis that the lines around the data state, None or empty for what
    they do not.
    """
    days: list[date] = []
    exported, basis = None, ""
    for line in lines:
        cells = [cell for cell in line if cell not in _BLANK]
        label = " ".join(str(cell) for cell in cells if isinstance(cell, str))
        if stated := _BASIS.fullmatch(label.strip()):
            basis = str(stated[1])
        found = [at for cell in cells for at in _parse_moments(cell, bool(_DATED.search(label)), epoch)]
        if _EXPORTED.search(label):
            exported = exported or next(iter(found), None)
        else:
            days += [at.date() for at in found]
    return (min(days[:2]), max(days[:2]), exported, basis) if days else (None, None, exported, basis)


def _parse_moments(cell: Any, dated: bool, epoch: date) -> list[datetime]:
    texts: Iterable[Any] = _DAY_IN_TEXT.findall(cell) if isinstance(cell, str) else [cell]
    if isinstance(cell, bool) or (isinstance(cell, int | float) and not dated):
        return []
    found = []
    for text in texts:
        try:
            found.append(parse_moment(text, epoch))
        except ValueError:
            continue
    return [at for at in found if at]


def read_table(
    name: str, rows: Iterable[Sequence[Any]], epoch: date = EXCEL_EPOCH, *, only_data: bool = False
) -> Export:
    """The export that rows make, titles and header included. Raises UserError where no row is a header.

    only_data: every row below the header is data, as in what the Reporting API answers, also one without a name
    """
    rows = list(rows)
    above = rows[:HEADER_WITHIN]
    best = max(range(len(above)), key=lambda place: _score_header(above[place]), default=None)
    if best is None:
        raise UserError(f"{name} is empty: export the report again, with its header.")
    if not _score_header(above[best]):
        seen = next((row for row in above if any(cell not in _BLANK for cell in row)), ())
        raise UserError(
            f"{name} has no header that looks like a ServiceTitan report; it begins with "
            f"{', '.join(str(cell)[:30] for cell in seen[:8] if cell not in _BLANK) or 'blank rows'}: name at least "
            "the column Job #, Estimate #, Payment # or Invoice # as ServiceTitan does."
        )
    header = rows[best]
    places, likened = find_columns(header)
    sorted_ = _keep_rows(rows, best, places) if only_data else _sort_rows(rows, best, places)
    cells = pd.DataFrame(sorted_.kept, columns=[*places, "row"], dtype=object)
    headers = {field: str(header[at]).strip() for field, at in places.items()}
    for field, values in sorted_.groups.items():
        filled = pd.Series([values.get(row) for row in cells["row"]], index=cells.index, dtype=object)
        if field not in cells:
            cells.insert(len(cells.columns) - 1, field, filled)
            headers[field] = f"the headings between its rows ({field.replace('_', ' ')})"
        else:
            cells[field] = cells[field].where(~cells[field].isin(_BLANK), filled)
    first, last, exported, basis = find_stated_dates(above[:best], epoch)
    return Export(
        name=name,
        cells=cells,
        headers=headers,
        unknown=tuple(str(cell) for at, cell in enumerate(header) if cell not in _BLANK and at not in places.values()),
        likened=likened,
        repeated=tuple(_find_repeated(rows, header, places, cells["row"])),
        first_day=first,
        last_day=last,
        basis=basis,
        exported_at=exported,
        left_out=tuple(sorted_.left_out),
        totals=tuple(sorted_.totals),
        origin=name,
        epoch=epoch,
    )


@dataclass
class _Sorted:
    """The rows below a header: kept are the cells of data with the row's number; groups has what the heading above a
    row says, by field and row.
    """

    kept: list[list[Any]] = dataclass_field(default_factory=list)
    left_out: list[tuple[int, str]] = dataclass_field(default_factory=list)
    totals: list[tuple[int, Mapping[str, Any]]] = dataclass_field(default_factory=list)
    groups: dict[str, dict[int, str]] = dataclass_field(default_factory=dict)


@dataclass(frozen=True)
class _Columns:
    """The columns of a table by kind: their places among the cells of a row."""

    ids: list[int]
    words: list[int]
    sums: list[int]
    customers: list[int]

    @property
    def needed(self) -> int:
        """How many words a row of data has as a rule: a total has one at most."""
        return min(2, len(self.words))

    def judge(self, cells: Sequence[Any]) -> bool | None:
        """Whether a row is data; None where it has ids that may be counts, and hardly a word."""
        # A third word decides nothing.
        words = sum(1 for _ in islice((at for at in self.words if _is_word(cells[at])), 2))
        if any(_is_id(cells[at]) for at in self.ids):
            return True if 0 < self.needed <= words else None
        if words < max(self.needed, 1) or any(isinstance(cell, str) and _TOTAL.fullmatch(cell) for cell in cells):
            return False
        has_name = not self.ids or any(_is_word(cells[at]) for at in self.customers)
        return has_name or (words > 1 and any(cells[at] not in _BLANK for at in self.sums))

    def is_count(self, cells: Sequence[Any], counts: Collection[int], shortest: int) -> bool:
        """Whether the ids of a row are counts: as many as there are rows, or numbers shorter than every id.

        shortest: the digits of the shortest id; where there are ids only, of most, and then both must hold
        """
        ids = [(_read_digits(cells[at]) or [""])[0] for at in self.ids if _is_id(cells[at])]
        tests = [(bool(id) and int(id) in counts, bool(id) and len(id) < shortest) for id in ids]
        return all(any(test) if self.needed else all(test) for test in tests)


def _keep_rows(rows: Sequence[Sequence[Any]], best: int, places: Mapping[str, int]) -> _Sorted:
    numbered = enumerate(rows[best + 1 :], start=best + 2)
    return _Sorted([[*(_cell(row, at) for at in places.values()), place] for place, row in numbered])


def _sort_rows(rows: Sequence[Sequence[Any]], best: int, places: Mapping[str, int]) -> _Sorted:
    """Tell data from headings, counts and totals. A row with an id is data, unless its ids are counts."""
    found = _Sorted()
    kinds = [FIELDS[field][0] for field in places]
    columns = _Columns(
        ids=[at for at, kind in enumerate(kinds) if kind == "id"],
        words=[at for at, kind in enumerate(kinds) if kind in ("text", "date")],
        sums=[at for at, kind in enumerate(kinds) if kind in ("money", "flag")],
        customers=[at for at, field in enumerate(places) if field == "customer_name"],
    )
    header = [_simplify(cell) for cell in rows[best]]
    group: dict[str, str] = {}
    judged: list[tuple[int, list[Any], bool | None]] = []
    for place, row in enumerate(rows[best + 1 :], start=best + 2):
        filled = list(islice((cell for cell in row if cell not in _BLANK and str(cell).strip()), 2))
        if not filled:
            continue
        alone = str(filled[0]).strip() if len(filled) == 1 else ""
        heading = None if not alone or _TOTAL.fullmatch(alone) else _HEADING.fullmatch(alone)
        cells = [_cell(row, at) for at in places.values()]
        if heading and not any(_is_id(cells[at]) for at in columns.ids):
            found.left_out.append((place, "a heading"))
            if field := _BY_NAME.get(_simplify(heading[1])):
                group = {**group, field: heading[2].strip()}
        elif (
            not _read_digits(filled[0])
            and _BY_NAME.get(_simplify(filled[0]))
            and [_simplify(cell) for cell in row] == header
        ):
            found.left_out.append((place, "the header again"))
        else:
            judged.append((place, cells, columns.judge(cells)))
        for field, value in group.items():
            found.groups.setdefault(field, {})[place] = value
    sure = [cells for _, cells, is_data in judged if is_data or not columns.needed]
    lengths = [len(id) for cells in sure for at in columns.ids for id in _read_digits(cells[at])]
    shortest = (min if columns.needed else mode)(lengths) if lengths else 0
    of_group = 0
    for place, cells, is_data in judged:
        counts = (len(found.kept), of_group)
        if is_data or (is_data is None and not columns.is_count(cells, counts, shortest)):
            found.kept.append([*cells, place])
            of_group += 1
        else:
            found.left_out.append((place, "a count or a total"))
            found.totals.append((place, dict(zip(places, cells, strict=True))))
            of_group = 0
    found.left_out.sort()
    return found


def _is_id(cell: Any) -> bool:
    text = str(cell if cell is not None else "")
    return bool(_ERROR.fullmatch(text)) or (bool(re.search(r"\d", text)) and not _TOTAL.fullmatch(text))


def _read_digits(cell: Any) -> list[str]:
    text = str(cell if cell is not None else "").strip().removesuffix(".0")
    return [text] if text.isdigit() else []


@lru_cache(maxsize=100_000, typed=True)
def _is_word(cell: Any) -> bool:
    """Whether a cell says something about a row, as a name or a date does, and a count or the word Total does not."""
    if isinstance(cell, str):
        return bool(cell) and not _TOTAL.fullmatch(cell) and (not _read_digits(cell) or _is_serial(float(cell)))
    return cell is not None and (not isinstance(cell, int | float) or _is_serial(cell))


def _is_serial(number: float) -> bool:
    return SERIALS[0] < number < SERIALS[1]


def _find_repeated(
    rows: Sequence[Sequence[Any]], header: Sequence[Any], places: Mapping[str, int], numbers: Iterable[int]
) -> Iterator[str]:
    """The fields of which two columns have the same label and other values."""
    names = [_simplify(cell) for cell in header]
    for field, place in places.items():
        for other in (at for at, name in enumerate(names) if name == names[place] and at != place):
            if any(_cell(rows[number - 1], place) != _cell(rows[number - 1], other) for number in numbers):
                yield field
                break


def _cell(row: Sequence[Any], at: int) -> Any:
    cell = row[at] if at < len(row) else None
    return cell.strip() if type(cell) is str else cell


# --- files ----------------------------------------------------------------------------------------------------------


def read_file(path: Path | str) -> Export:
    """The report in an .xlsx or .csv file. Raises UserError, in one sentence, for a file that holds none.

    Where it states no dates, two in its name do: ServiceTitan calls a file `Leads Dated 08_18_25 - 08_24_25.xlsx`.
    """
    path = Path(path)
    try:
        with path.open("rb") as file:
            magic = file.read(8)
    except FileNotFoundError:
        raise UserError(f"There is no file {path}: give the path of the export.") from None
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror}): give the path of the export.") from None
    if not magic:
        raise UserError(f"{path.name} is empty: export the report again.")
    if magic.startswith(b"\xd0\xcf\x11\xe0"):
        raise UserError(f"{path.name} is an old .xls or a protected file: open it in Excel and save it as .xlsx.")
    export = _read_workbook(path) if magic.startswith(b"PK") else _read_text(path)
    days = _read_days_in_name(path.name)
    if export.first_day is None and len(days) == 2:  # noqa: PLR2004 from and to
        return replace(export, first_day=min(days), last_day=max(days))
    return export


def _read_days_in_name(name: str) -> list[date]:
    days = []
    for text in re.findall(r"\d{4}-\d\d-\d\d|\d{1,2}_\d{1,2}_\d{2,4}|\d{1,2}-\d{1,2}-\d{4}", name):
        with suppress(ValueError):
            days.append(parse_day(text.replace("_", "/")))
    return [day for day in days if day]


def _read_workbook(path: Path) -> Export:
    try:
        with path.open("rb") as file:  # not the path: its ending may be anything, such as `.xlsx (1)`
            if is_zipfile(file) and "mimetype" in ZipFile(file).namelist():
                raise UserError(f"{path.name} is an OpenDocument file: save it as .xlsx, and try again.")
            book = openpyxl.load_workbook(file, read_only=True)
            heads = {sheet.title: list(islice(_list_rows(sheet), HEADER_WITHIN)) for sheet in book.worksheets}
            chosen = max(heads, key=lambda title: max(map(_score_header, heads[title]), default=0))
            rows = [list(row) for row in _list_rows(book[chosen])]
            if any(isinstance(cell, str) and cell.startswith("=") for row in rows for cell in row):
                rows = _read_calculated(file, chosen, rows)
            _fill_merged(file, book[chosen], rows)
            created = book.properties.created.replace(tzinfo=UTC)
            epoch = book.epoch.date()
            book.close()
    except UserError:
        raise
    except Exception as error:  # whatever a damaged file makes of the reader: it is damaged
        raise UserError(
            f"{path.name} is no workbook that can be read ({type(error).__name__}): export it again as .xlsx or .csv."
        ) from error
    # Excel counts the days of 1900 with a leap day that there was not.
    epoch = EXCEL_EPOCH if epoch.year == EXCEL_EPOCH.year else epoch
    export = read_table(path.name, rows, epoch)
    first, last, exported, basis = find_stated_dates(
        (line for title, lines in heads.items() if title != chosen for line in lines), epoch
    )
    return replace(
        export,
        first_day=first or export.first_day,
        last_day=last or export.last_day,
        basis=basis or export.basis,
        exported_at=exported or export.exported_at or created,
    )


def _fill_merged(file: IO[bytes], sheet: Any, rows: list[list[Any]]) -> None:
    """Put the value of merged cells into every row that they cover; openpyxl tells them only where it reads all."""
    with ZipFile(file) as archive:
        text = archive.read(sheet._worksheet_path.lstrip("/"))
    for reference in re.findall(rb'<(?:\w+:)?mergeCell\b[^>]*\bref="([A-Z]+\d+:[A-Z]+\d+)"', text):
        bounds: Any = range_boundaries(reference.decode())
        column, first, _, last = bounds
        for row in rows[first : min(last, len(rows))]:
            row[column - 1] = rows[first - 1][column - 1]


def _list_rows(sheet: Any) -> Iterator[tuple[Any, ...]]:
    # Some writers state a size of one cell; without it openpyxl reads what is there.
    sheet.reset_dimensions()
    return sheet.iter_rows(values_only=True)


def _read_calculated(file: IO[bytes], title: str, rows: Sequence[Sequence[Any]]) -> list[list[Any]]:
    """The rows with the results that the file holds in place of its formulas."""
    book = openpyxl.load_workbook(file, read_only=True, data_only=True)
    results = []
    for row, values in zip(rows, _list_rows(book[title]), strict=True):
        results.append(
            [
                Uncalculated(cell) if isinstance(cell, str) and cell.startswith("=") and value is None else value
                for cell, value in zip(row, values, strict=False)
            ]
        )
    book.close()
    return results


def _read_text(path: Path) -> Export:
    text = _decode(path)
    if text.lstrip()[:1] == "<":
        raise UserError(f"{path.name} is a web page, whatever its name says: export the report as .xlsx or .csv.")
    head = text[:200_000].splitlines(keepends=True)[:HEADER_WITHIN]
    delimiter = max(",;\t|", key=lambda mark: max(map(_score_header, _split_lines(head, mark)), default=0))
    try:
        return read_table(path.name, _split_lines(io.StringIO(text, newline=""), delimiter))
    except csv.Error as error:
        raise UserError(f"{path.name} is no CSV file ({error}): export the report again.") from error


def _split_lines(lines: Iterable[str], delimiter: str) -> Iterator[list[str]]:
    return csv.reader(lines, delimiter=delimiter)


def _decode(path: Path) -> str:
    content = path.read_bytes()
    wide = content.startswith((b"\xff\xfe", b"\xfe\xff"))
    # cp1252 is Windows' own: Excel saves it as "CSV", beside "CSV UTF-8".
    for encoding in ("utf-16",) if wide else ("utf-8-sig", "cp1252"):
        try:
            text = content.decode(encoding)
        except UnicodeDecodeError:
            continue
        if not re.search(r"[\x00-\x08\x0e-\x1f]", text[:100_000]):
            return text
    raise UserError(f"{path.name} is no spreadsheet: export the report as .xlsx or .csv.")
