"""ServiceTitan's reports as people have them: an exported .xlsx or .csv file, or the rows of the Reporting API.

`read_file` finds the header, the columns and the stated dates by itself. Layouts seen in the field: title rows above
the header, blank and count rows between branches, a last row of totals, a second sheet "Filters" with the dates,
numbers as text (`$2,139.46`, `(1,234.50)`, `-68.80%`), job numbers as floats, a typographic apostrophe, a byte-order
mark.
"""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal, InvalidOperation
from difflib import get_close_matches
from itertools import islice
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import openpyxl
import pandas as pd

from stkpi.errors import UserError

HEADER_WITHIN = 100  # rows; titles and filters stand above the header, never so many
CLOSE = 0.86  # likeness of a renamed column: "Job Nmber" is, "Job Type" is not
EXCEL_EPOCH = date(1899, 12, 30)
SERIALS = (25_000, 80_000)  # Excel's numbers of the days from 1968 to 2119

# What a column means, its kind (id, text, date, money), and the names it goes by, without spaces and signs.
FIELDS: Mapping[str, tuple[str, str]] = {
    "job_number": ("id", "jobnumber jobno jobnum jobid job"),
    "estimate_number": ("id", "estimatenumber estimateno estimateid estimate"),
    "payment_number": ("id", "paymentnumber paymentno paymentid payment"),
    "invoice_number": ("id", "invoicenumber invoiceno invoiceid invoice"),
    "business_unit": ("text", "businessunit jobsbusinessunit jobbusinessunit invoicebusinessunit businessunitname"),
    "customer_name": ("text", "customername customer"),
    "lead_type": ("text", "leadtype"),
    "job_type": ("text", "jobtype jobtypename"),
    "status": ("text", "status jobstatus"),
    "sold_by": ("text", "soldby"),
    "technician": ("text", "primarytechnician technician"),
    "location_name": ("text", "locationname location"),
    "payment_type": ("text", "paymenttype"),
    "created_date": ("date", "jobcreateddate createddate createdon jobcreatedon datecreated creationdate"),
    "completed_date": ("date", "jobcompleteddate completeddate completedon jobcompletedon completiondate"),
    "sold_date": ("date", "estimatesolddate solddate soldon estimatesoldon"),
    "opportunity_date": ("date", "opportunitydate"),
    "start_date": ("date", "scheduleddate jobscheduleddate startdate jobstartdate jobstart appointmentdate"),
    "payment_date": ("date", "paymentdate paidon datepaid"),
    "invoice_date": ("date", "invoicedate invoicedon"),
    "estimate_subtotal": ("money", "estimatesubtotal estimatessubtotal estimatesalessubtotal"),
    "jobs_subtotal": ("money", "jobssubtotal jobsubtotal"),
    "labor_pay": ("money", "laborpay"),
    "payroll_adjustments": ("money", "payrolladjustments"),
    "material_costs": ("money", "materialsequippobillcosts materialcosts"),
    "returns": ("money", "returns"),
    "total_costs": ("money", "jobstotalcosts jobtotalcosts totalcosts"),
    "margin": ("money", "jobsgrossmargin grossmargin"),
    "total_estimates": ("money", "totalestimates"),
    "sales_opportunity": ("money", "salesopportunity salesopportunities"),
    "closed": ("money", "closed closedopportunities"),
    "completed_jobs": ("money", "completedjobs"),
    "close_rate": ("money", "closerate"),
    "total_sales": ("money", "totalsales"),
    "amount": ("money", "amount paymentamount appliedamount"),
    "total": ("money", "total invoicetotal"),
    "balance": ("money", "balance balancedue amountdue"),
}
_BY_NAME = {name: field for field, (_, names) in FIELDS.items() for name in names.split()}
_BLANK = (None, "")
_TOTAL = re.compile(r"(grand |sub ?-?)?(totals?|counts?|averages?|sum)\b.{0,30}", re.IGNORECASE)
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
    first_day, last_day: the dates that the file states, both included; None where it states none
    exported_at: when it was made, where the file knows: on the tenant's clock, or as an aware UTC time
    left_out: how many rows were blank, counts or totals; `totals` is the last of them that holds amounts
    """

    name: str
    cells: pd.DataFrame
    headers: Mapping[str, str]
    unknown: tuple[str, ...] = ()
    first_day: date | None = None
    last_day: date | None = None
    exported_at: datetime | None = None
    left_out: int = 0
    totals: Mapping[str, Any] | None = None

    def ids(self, field: str) -> pd.Series:
        """A column of ids as text, None where a cell is empty. Raises UserError for what Excel has shortened."""
        return self._convert_cells(field, parse_id, "an id")

    def money(self, field: str) -> pd.Series:
        """A column of amounts as Decimal, zero where a cell is empty. Raises UserError for what is no number."""
        return self._convert_cells(field, parse_number, "an amount").map(lambda value: value or Decimal(0))

    def dates(self, field: str) -> pd.Series:
        """A column of dates, None where a cell is empty. Raises UserError for what is no date."""
        return self._convert_cells(field, parse_day, "a date")

    def text(self, field: str) -> pd.Series:
        """A column as text, None where a cell is empty."""
        return self._convert_cells(field, lambda value: str(value).strip() or None, "text")

    def _convert_cells(self, field: str, convert: Callable[[Any], Any], noun: str) -> pd.Series:
        known: dict[Any, Any] = dict.fromkeys(_BLANK)
        values = []
        for value, row in zip(self.cells[field], self.cells["row"], strict=True):
            if value not in known:
                try:
                    known[value] = convert(value)
                except (ValueError, InvalidOperation):
                    raise UserError(
                        f"{self.name}, row {row}: {self.headers[field]} is {_show_cell(value)}, which is not {noun}: "
                        "correct the cell, or export the report again."
                    ) from None
            values.append(known[value])
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
    if isinstance(value, int | float | Decimal):
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


def parse_day(value: Any) -> date | None:
    """A cell as the day it names: a date, US order (8/18/2025), ISO with or without a time, or Excel's number of a day.

    A time with an offset is the tenant's own clock: its day is the one that is written. Raises ValueError otherwise.
    """
    at = parse_moment(value)
    return at and at.date()


def parse_moment(value: Any) -> datetime | None:
    """A cell as a local date and time, see `parse_day`."""
    if isinstance(value, datetime):
        return value.replace(tzinfo=None)
    if isinstance(value, date):
        return datetime(value.year, value.month, value.day)  # noqa: DTZ001 a calendar day has no zone
    text = str(value).strip()
    if re.fullmatch(r"\d{5}(\.\d+)?", text) and SERIALS[0] < float(text) < SERIALS[1]:
        return datetime.fromordinal(EXCEL_EPOCH.toordinal()) + timedelta(days=float(text))
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


def _simplify(header: Any) -> str:
    return re.sub(r"[^a-z0-9]", "", str(header or "").lower().replace("#", "number"))


def find_columns(header: Sequence[Any]) -> dict[str, int]:
    """The place of every field that the header names; a misspelt or slightly renamed column counts for what is left."""
    names = [_simplify(cell) for cell in header]
    places: dict[str, int] = {}
    for place, name in enumerate(names):
        if name in _BY_NAME:
            places.setdefault(_BY_NAME[name], place)
    for place, name in enumerate(names):
        if name and name not in _BY_NAME:
            free = [known for known, field in _BY_NAME.items() if field not in places]
            for close in get_close_matches(name, free, 1, CLOSE):
                places[_BY_NAME[close]] = place
    return places


def _score_header(row: Sequence[Any]) -> int:
    """How many columns a row names if it is the header; a single one counts only if it is an id and stands alone."""
    found = {_BY_NAME[name] for name in map(_simplify, row) if name in _BY_NAME}
    alone = len([cell for cell in row if cell not in _BLANK]) == 1
    if len(found) == 1 and not (alone and FIELDS[min(found)][0] == "id"):
        return 0
    return len(found)


def find_stated_dates(lines: Iterable[Sequence[Any]]) -> tuple[date | None, date | None, datetime | None]:
    """The first day, last day and time of export that the lines around the data state, None for what they do not."""
    days: list[date] = []
    exported = None
    for line in lines:
        cells = [cell for cell in line if cell not in _BLANK]
        label = " ".join(str(cell) for cell in cells if isinstance(cell, str))
        found = [at for cell in cells for at in _parse_moments(cell, bool(_DATED.search(label)))]
        if _EXPORTED.search(label):
            exported = exported or next(iter(found), None)
        else:
            days += [at.date() for at in found]
    return (min(days[:2]), max(days[:2]), exported) if days else (None, None, exported)


def _parse_moments(cell: Any, dated: bool) -> list[datetime]:
    texts: Iterable[Any] = _DAY_IN_TEXT.findall(cell) if isinstance(cell, str) else [cell]
    if isinstance(cell, bool) or (isinstance(cell, int | float) and not dated):
        return []
    found = []
    for text in texts:
        try:
            found.append(parse_moment(text))
        except ValueError:
            continue
    return [at for at in found if at]


def read_table(name: str, rows: Iterable[Sequence[Any]]) -> Export:
    """The export that rows make, titles and header included. Raises UserError where no row is a header."""
    rows = iter(rows)
    above = list(islice(rows, HEADER_WITHIN))
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
    header = above[best]
    places = find_columns(header)
    kept, left_out, totals = [], 0, None
    is_data = _recognize_data_rows(places)
    for place, row in enumerate((*above[best + 1 :], *rows), start=best + 2):
        cells = [row[at] if at < len(row) else None for at in places.values()]
        cells = [cell.strip() if type(cell) is str else cell for cell in cells]
        if is_data(cells):
            kept.append([*cells, place])
        elif any(cell not in _BLANK for cell in row):
            left_out += 1
            totals = dict(zip(places, cells, strict=True))
        else:
            left_out += 1
    first, last, exported = find_stated_dates(above[:best])
    return Export(
        name=name,
        cells=pd.DataFrame(kept, columns=[*places, "row"], dtype=object),
        headers={field: str(header[at]) for field, at in places.items()},
        unknown=tuple(str(cell) for at, cell in enumerate(header) if cell not in _BLANK and at not in places.values()),
        first_day=first,
        last_day=last,
        exported_at=exported,
        left_out=left_out,
        totals=totals,
    )


def _recognize_data_rows(places: Mapping[str, int]) -> Callable[[Sequence[Any]], bool]:
    """Whether a row describes something: totals and counts have numbers, and at most one word beside them."""
    kinds = [FIELDS[field][0] for field in places]
    ids = [at for at, kind in enumerate(kinds) if kind == "id"]
    words = [at for at, kind in enumerate(kinds) if kind in ("text", "date")]
    customer = [at for at, field in enumerate(places) if field == "customer_name"]
    needed = min(2, len(words))

    def is_data(cells: Sequence[Any]) -> bool:
        if sum(cells[at] not in _BLANK for at in words) < needed:
            return False
        if needed < 2:  # noqa: PLR2004 too few words to tell a total by their absence
            first = next((cell for cell in cells if cell not in _BLANK), None)
            if first is None or _TOTAL.fullmatch(str(first)):
                return False
        named = not ids or any(re.search(r"\d", str(cells[at] or "")) for at in ids)
        return named or any(cells[at] not in _BLANK for at in customer)

    return is_data


# --- files ----------------------------------------------------------------------------------------------------------


def read_file(path: Path | str) -> Export:
    """The report in an .xlsx or .csv file. Raises UserError, in one sentence, for a file that holds none."""
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
    if magic.startswith(b"PK"):
        return _read_workbook(path)
    if magic.startswith(b"\xd0\xcf\x11\xe0"):
        raise UserError(f"{path.name} is an old .xls or a protected file: open it in Excel and save it as .xlsx.")
    return _read_text(path)


def read_records(name: str, rows: Sequence[Mapping[str, Any]]) -> Export:
    """The rows of the Reporting API, at least one, each by its columns' labels, as an export."""
    return read_table(name, [[*rows[0]], *([*row.values()] for row in rows)])


def _read_workbook(path: Path) -> Export:
    try:
        book = openpyxl.load_workbook(path, read_only=True)
        heads = {sheet.title: list(islice(_list_rows(sheet), HEADER_WITHIN)) for sheet in book.worksheets}
        chosen = max(heads, key=lambda title: max(map(_score_header, heads[title]), default=0))
        rows = list(_list_rows(book[chosen]))
        if any(isinstance(cell, str) and cell.startswith("=") for row in rows for cell in row):
            rows = [tuple(row) for row in _read_calculated(path, chosen, rows)]
        created = book.properties.created.replace(tzinfo=UTC)
        book.close()
    except (BadZipFile, KeyError, ValueError, TypeError, OSError, EOFError, SyntaxError) as error:
        raise UserError(
            f"{path.name} is no workbook that can be read ({type(error).__name__}): export it again as .xlsx or .csv."
        ) from error
    export = read_table(path.name, rows)
    first, last, exported = find_stated_dates(
        line for title, lines in heads.items() if title != chosen for line in lines
    )
    return replace(
        export,
        first_day=first or export.first_day,
        last_day=last or export.last_day,
        exported_at=exported or export.exported_at or created,
    )


def _list_rows(sheet: Any) -> Iterator[tuple[Any, ...]]:
    # Some writers state a size of one cell; without it openpyxl reads what is there.
    sheet.reset_dimensions()
    return sheet.iter_rows(values_only=True)


def _read_calculated(path: Path, title: str, rows: Sequence[Sequence[Any]]) -> list[list[Any]]:
    """The rows with the results that the file holds in place of its formulas."""
    book = openpyxl.load_workbook(path, read_only=True, data_only=True)
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
