"""The reader of exports: every layout known from the field gives its rows, and every other file one sentence."""

import csv
import io
import time
from datetime import UTC, date, datetime
from decimal import Decimal
from zipfile import ZipFile

import openpyxl
import pytest
from exported import write_csv, write_xlsx
from openpyxl.utils.datetime import MAC_EPOCH, WINDOWS_EPOCH

from stkpi.errors import UserError
from stkpi.kpis.definition import read_definitions
from stkpi.reconcile import exports
from stkpi.reconcile.comparison import infer_comparison
from stkpi.reconcile.exports import Export

DRILL_DOWN = [
    "Job #", "Lead Type", "Estimate #", "Estimate Sold Date", "Job\u2019s Business Unit", "Customer Name",
    "Estimate Subtotal", "Sales Opportunity", "Closed",
]  # fmt: skip
ANN = ["1001", "Marketing Lead", "77", "8/19/2025", "Phoenix-Sales", "Ann Lee", "$2,139.46", "1", "1"]
BOB = ["1002", "Tech Generated Lead", None, None, "Phoenix-Comm-Sales", "Bob Roe", None, "1", "0"]
TOTALS = [None, None, None, None, None, None, "$2,139.46", "2", "1"]
JOB_COST = [
    "Scheduled Date", "Business Unit", "Sold By", "Primary Technician", "Job Type", "Customer Name", "Job #",
    "Jobs Subtotal", "Labor Pay", "Payroll Adjustments", "Materials + Equip. + PO/Bill Costs", "Returns",
    "Jobs Total Costs", "Jobs Gross Margin %", "Status",
]  # fmt: skip
PAINT = [
    "8/18/2025", "Phoenix-Production", "Al", "Bea", "Exterior Paint", "Ann Lee", "2001", "$2,139.46", "$3,000.00",
    "$11.40", "$600.00", "$0.00", "$3,611.40", "-68.80%", "Completed",
]  # fmt: skip
CREDIT = [*PAINT[:6], "2002", "(1,234.50)", *PAINT[8:]]


def infer_kpi(export: Export, kpi: str = "") -> str:
    """Which KPI an export is good for."""
    return infer_comparison(export, read_definitions(), kpi).name


# --- cells ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("cell", "expected"),
    [
        ("$2,139.46", "2139.46"), ("(1,234.50)", "-1234.50"), ("($5.00)", "-5"), ("-$5", "-5"), ("-68.80%", "-0.688"),
        ("1.234,56", "1234.56"), ("1234,5", "1234.5"), ("\u22127", "-7"), (" 12 ", "12"), ("1\u00a0234.5", "1234.5"),
        (".5", "0.5"), (1234.5, "1234.5"), (3, "3"), ("1,234,567", "1234567"),
    ],
)  # fmt: skip
def test_a_number_in_every_dress(cell, expected):
    assert exports.parse_number(cell) == Decimal(expected)


@pytest.mark.parametrize("cell", ["-", "—", " "])
def test_a_dash_is_no_number(cell):
    assert exports.parse_number(cell) is None


@pytest.mark.parametrize("cell", ["n/a", "#DIV/0!", "1,23,4", "12 apples", "=A1"])
def test_what_is_no_number_is_refused(cell):
    with pytest.raises(ValueError, match=r".+"):
        exports.parse_number(cell)


@pytest.mark.parametrize(
    ("cell", "expected"),
    [
        (1001.0, "1001"),
        ("1001.0", "1001"),
        ("#1001", "1001"),
        ("12,345", "12345"),
        (1.2e8, "120000000"),
        ("A-7", "A-7"),
    ],
)
def test_an_id_in_every_dress(cell, expected):
    assert exports.parse_id(cell) == expected


def test_an_id_that_excel_shortened_is_refused():
    with pytest.raises(ValueError, match="E"):
        exports.parse_id("1.23E+08")


@pytest.mark.parametrize(
    "cell",
    [
        "8/18/2025", "08/18/25", "8/18/2025 6:02 PM", "2025-08-18", "2025-08-18T18:02:00.1234567-07:00", "18.08.2025",
        "Aug 18, 2025", "August 18, 2025", 45887, 45887.75, "45887",
        datetime(2025, 8, 18, 18, 2, tzinfo=UTC), date(2025, 8, 18),
    ],
)  # fmt: skip
def test_a_day_in_every_dress(cell):
    assert exports.parse_day(cell) == date(2025, 8, 18)


# --- layouts ----------------------------------------------------------------------------------------------------------


def test_a_drill_down_sheet(tmp_path):
    path = write_xlsx(tmp_path / "Leads.xlsx", [DRILL_DOWN, ANN, BOB, TOTALS])
    export = exports.read_file(path)
    assert list(export.ids("job_number")) == [("1001",), ("1002",)]
    assert list(export.money("estimate_subtotal")) == [Decimal("2139.46"), 0]
    assert list(export.dates("sold_date")) == [date(2025, 8, 19), None]
    assert list(export.text("business_unit")) == ["Phoenix-Sales", "Phoenix-Comm-Sales"]
    assert export.headers["business_unit"] == "Job\u2019s Business Unit"
    assert export.left_out == ((4, "a count or a total"),)
    assert [(row, cells["estimate_subtotal"]) for row, cells in export.totals] == [(4, "$2,139.46")]
    assert infer_kpi(export) == "leads"


def test_an_opportunity_sheet_is_taken_for_the_success_rate(tmp_path):
    header = [*DRILL_DOWN, "Total Estimates", "Opportunity Date", "Sold By"]
    path = write_csv(tmp_path / "o.csv", [header, [*ANN, 1, "8/19/2025", "Al"], [*BOB, 1, "8/20/2025", None]])
    assert infer_kpi(exports.read_file(path)) == "success_rate"


def test_a_list_of_sold_estimates_only_is_taken_for_what_was_booked(tmp_path):
    """The drill-downs of Total Sales and of opportunities have the same columns: only the rows tell them apart."""
    path = write_csv(tmp_path / "o.csv", [DRILL_DOWN, ANN])
    assert infer_kpi(exports.read_file(path)) == "total_booked"


@pytest.mark.fault(68)
def test_a_job_costing_sheet_with_separators_and_counts_between_branches(tmp_path):
    count = ["Phoenix-Production", None, None, None, None, None, 2]
    total = ["Total", None, None, None, None, None, 2, "$904.96", "$6,000.00"]
    blank = [None] * 15
    rows = [["FOREMAN Job Cost"], [], JOB_COST, PAINT, CREDIT, blank, count, blank, total]
    export = exports.read_file(write_xlsx(tmp_path / "cost.xlsx", rows))
    assert list(export.ids("job_number")) == [("2001",), ("2002",)]
    assert list(export.money("jobs_subtotal")) == [Decimal("2139.46"), Decimal("-1234.50")]
    assert list(export.money("margin")) == [Decimal("-0.688")] * 2
    assert list(export.dates("start_date")) == [date(2025, 8, 18)] * 2
    assert export.left_out == ((7, "a count or a total"), (9, "a count or a total"))
    assert infer_kpi(export) == "dollars_produced"


def test_job_numbers_as_floats_and_days_as_excel_counts_them(tmp_path):
    rows = [DRILL_DOWN, [1001.0, *ANN[1:3], 45888, *ANN[4:6], 2139.46, 1, 1]]
    export = exports.read_file(write_xlsx(tmp_path / "f.xlsx", rows))
    assert list(export.ids("job_number")) == [("1001",)]
    assert list(export.dates("sold_date")) == [date(2025, 8, 19)]


@pytest.mark.fault(71)
@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "cp1252", "utf-8"])
@pytest.mark.parametrize("delimiter", [",", ";", "\t"])
def test_a_csv_file_of_any_encoding_and_delimiter(tmp_path, encoding, delimiter):
    path = write_csv(tmp_path / "x.csv", [DRILL_DOWN, ANN, BOB], encoding=encoding, delimiter=delimiter)
    export = exports.read_file(path)
    assert list(export.ids("job_number")) == [("1001",), ("1002",)]
    assert export.headers["job_number"] == "Job #"


@pytest.mark.fault(67)
def test_columns_in_another_order_and_under_other_names(tmp_path):
    header = ["Customer", "JOB NUMBER", "Lead-Type", "Created On", "Busines Unit", "Wall Colour"]
    path = write_csv(
        tmp_path / "r.csv", [header, ["Ann Lee", "1001", "Marketing", "8/18/2025", "Phoenix-Sales", "red"]]
    )
    export = exports.read_file(path)
    assert set(export.headers) == {"customer_name", "job_number", "lead_type", "created_date", "business_unit"}
    assert export.unknown == ("Wall Colour",)


def test_the_filters_sheet_states_the_dates(tmp_path):
    filters = [["Exported on", "8/25/2025 9:15 AM"], ["Business Unit", "All"], ["Date Range", "8/18/2025 - 8/24/2025"]]
    export = exports.read_file(write_xlsx(tmp_path / "f.xlsx", [DRILL_DOWN, ANN], filters=filters))
    assert (export.first_day, export.last_day) == (date(2025, 8, 18), date(2025, 8, 24))
    assert export.exported_at == datetime.fromisoformat("2025-08-25 09:15")


@pytest.mark.parametrize(
    "lines",
    [
        [["Leads"], ["From", "2025-08-18"], ["To", "2025-08-24"]],
        [["Leads Aug 18, 2025 to Aug 24, 2025"], []],
        [["Start date", 45887, "End date", 45893]],
    ],
)
def test_title_rows_state_the_dates(tmp_path, lines):
    export = exports.read_file(write_xlsx(tmp_path / "t.xlsx", [*lines, DRILL_DOWN, ANN]))
    assert (export.first_day, export.last_day) == (date(2025, 8, 18), date(2025, 8, 24))
    assert len(export.cells) == 1


def test_a_file_that_states_no_dates(tmp_path):
    export = exports.read_file(
        write_xlsx(tmp_path / "t.xlsx", [DRILL_DOWN, ANN], created=datetime.fromisoformat("2025-08-26 08:00"))
    )
    assert (export.first_day, export.last_day) == (None, None)
    assert export.exported_at == datetime(2025, 8, 26, 8, tzinfo=UTC)


def test_a_sheet_whose_stated_size_is_wrong(tmp_path):
    """Some writers state that a sheet is one cell large, and openpyxl would believe it."""
    path = write_xlsx(tmp_path / "d.xlsx", [DRILL_DOWN, ANN, BOB])
    book = openpyxl.load_workbook(path)
    book.active.calculate_dimension()
    book.save(path)
    with ZipFile(path) as archive:
        parts = {name: archive.read(name) for name in archive.namelist()}
    sheet = "xl/worksheets/sheet1.xml"
    parts[sheet] = parts[sheet].replace(b'ref="A1:I3"', b'ref="A1"')
    assert b'ref="A1"' in parts[sheet]
    with ZipFile(path, "w") as archive:
        for name, content in parts.items():
            archive.writestr(name, content)
    assert len(exports.read_file(path).cells) == 2


@pytest.mark.fault(70)
def test_an_export_without_rows_is_an_export(tmp_path):
    export = exports.read_file(write_csv(tmp_path / "e.csv", [DRILL_DOWN, TOTALS]))
    assert export.cells.empty
    assert infer_kpi(export) == "leads"


def test_a_formula_with_a_result_counts_and_one_without_is_named(tmp_path):
    path = write_xlsx(tmp_path / "f.xlsx", [JOB_COST, PAINT, [*PAINT[:6], "2002", "=1+1", *PAINT[8:]]])
    export = exports.read_file(path)
    assert list(export.ids("job_number")) == [("2001",), ("2002",)]
    with pytest.raises(UserError, match="row 3: Jobs Subtotal is the formula =1\\+1 without a result"):
        export.money("jobs_subtotal")


def test_a_cell_that_cannot_be_read_is_named(tmp_path):
    export = exports.read_file(write_csv(tmp_path / "c.csv", [JOB_COST, [*PAINT[:7], "#DIV/0!", *PAINT[8:]]]))
    with pytest.raises(UserError, match=r"c\.csv, row 2: Jobs Subtotal is '#DIV/0!', which is not an amount"):
        export.money("jobs_subtotal")


# --- what a file is, and what it is not taken for ---------------------------------------------------------------------


@pytest.mark.parametrize(
    "cell", [True, "TRUE", "True", "Yes", "yes", "Y", "VERDADERO", "S\u00ed", "WAHR", "Oui", 1, "1", 1.0]
)
def test_yes_in_every_dress(cell):
    assert exports.parse_flag(cell) == 1


@pytest.mark.parametrize("cell", [False, "FALSE", "No", "n", "FALSO", "FALSCH", "Non", 0, "0"])
def test_no_in_every_dress(cell):
    assert exports.parse_flag(cell) == 0


def test_a_flag_is_no_amount_and_a_word_no_flag():
    with pytest.raises(ValueError, match="True"):
        exports.parse_number(True)
    with pytest.raises(ValueError, match="perhaps"):
        exports.parse_flag("perhaps")


@pytest.mark.parametrize(
    ("cell", "ids"),
    [
        ("397, 398", ("397", "398")), ("1000397,1000398", ("1000397", "1000398")), ("397;398", ("397", "398")),
        ("397\n398", ("397", "398")), ("12,345", ("12345",)), ("1,234,567", ("1234567",)), ("#N/A", ()),
        ("#REF!, 5", ("5",)), (397.0, ("397",)), ("A-7, A-7", ("A-7",)),
    ],
)  # fmt: skip
def test_the_ids_of_a_cell(cell, ids):
    assert exports.parse_ids(cell) == ids


@pytest.mark.parametrize(
    ("header", "field"),
    [
        ("Busines Unit", "business_unit"), ("Job Nmber", "job_number"), ("Estimate Subtotl", "estimate_subtotal"),
        ("Invoice Balance", None), ("Estimates", None), ("# of Estimates", None), ("Unapplied Amount", None),
        ("Jobs Total", None), ("Estimate Total", None), ("Payments", None), ("Totals", None), ("Job Name", None),
        ("Estimates #", None), ("Prepayment #", None), ("Number of Jobs", None), ("Sold", None),
    ],
)  # fmt: skip
def test_only_a_typing_error_is_likeness(header, field):
    places, likened = exports.find_columns(["Memo", header])
    assert (list(places), list(likened)) == (([field], [field]) if field else ([], []))


def test_a_number_is_not_an_id_and_the_best_name_counts_wherever_it_stands():
    places, likened = exports.find_columns(["Job ID", "Customer", "Job #", "Customer Name", "Invoice ID"])
    assert places == {"job_id": 0, "job_number": 2, "customer_name": 3, "invoice_id": 4}
    assert likened == ()


def test_two_columns_with_one_label_count_if_they_agree():
    rows = [["Payment #", "Amount", "Amount"], ["11", 5, 5], ["12", 6, 6]]
    assert list(exports.read_table("a", rows).money("amount")) == [5, 6]
    rows[2][2] = 7
    with pytest.raises(UserError, match="a has two columns Amount with different values"):
        exports.read_table("a", rows).money("amount")


# --- which rows are data ----------------------------------------------------------------------------------------------

PAID = ["Payment #", "Invoice #", "Payment Date", "Customer Name", "Amount"]


def test_every_row_with_an_id_and_an_amount_is_data():
    rows = [PAID, ["1007153", "9", "8/12/2025", "Ann Lee", 5.5], ["1007287", "8", None, None, 5.4], ["1007288"],
            ["#N/A", "7", "8/13/2025", None, 1], [3, "9", "8/13/2025", "Total Wine", 1]]  # fmt: skip
    export = exports.read_table("a", rows)
    assert list(export.cells["row"]) == [2, 3, 4, 5, 6]
    assert export.left_out == ()
    assert list(export.ids("payment_number")) == [("1007153",), ("1007287",), ("1007288",), (), ("3",)]


@pytest.mark.parametrize(
    "total",
    [
        [3, None, None, None, 30], ["3", "3", None, None, "$30.00"], [None, None, None, None, 30],
        [12, None, None, None, 99], ["Total", None, None, None, 30], [None, None, None, "Grand Total", 30],
        ["Count: 3"], ["Total", 3, None, None, 30],
    ],
)  # fmt: skip
def test_counts_and_totals_are_no_data_wherever_they_stand(total):
    """Also those of a file that was cut off; between groups and at the end."""
    data = [["1007153", "1007149", "8/12/2025", "Ann Lee", 10] for _ in range(3)]
    export = exports.read_table("a", [PAID, *data, total, [], *data, total])
    assert len(export.cells) == 6
    assert export.left_out == ((5, "a count or a total"), (10, "a count or a total"))


def test_ids_only_with_a_count_below_them():
    rows = [["Job #"], ["1001"], ["1002"], ["1003"], [3]]
    export = exports.read_table("a", rows)
    assert list(export.ids("job_number")) == [("1001",), ("1002",), ("1003",)]
    assert export.left_out == ((5, "a count or a total"),)


def test_headings_give_their_rows_what_no_column_has():
    header = ["Job #", "Customer Name", "Jobs Subtotal"]
    east = [["Business Unit: East"], ["1001", "Ann", 1], ["1002", None, 2], [None, None, 3]]
    rows = [header, *east, ["Business Unit: West"], header, ["1003", "Bob", 4]]
    export = exports.read_table("a", rows)
    assert list(export.text("business_unit")) == ["East", "East", "West"]
    assert export.left_out == (
        (2, "a heading"),
        (5, "a count or a total"),
        (6, "a heading"),
        (7, "the header again"),
    )


def test_a_unit_in_merged_cells_is_that_of_every_row(tmp_path):
    book = openpyxl.Workbook()
    for row in (
        ["Business Unit", "Job #", "Jobs Subtotal"],
        ["East", 10, 1],
        [None, 11, 1],
        ["West", 20, 1],
        [None, 21, 1],
    ):
        book.active.append(row)
    book.active.merge_cells("A2:A3")
    book.active.merge_cells("A4:A5")
    book.save(tmp_path / "m.xlsx")
    export = exports.read_file(tmp_path / "m.xlsx")
    assert list(export.text("business_unit")) == ["East", "East", "West", "West"]
    assert list(export.ids("job_number")) == [("10",), ("11",), ("20",), ("21",)]


@pytest.mark.parametrize(("epoch", "day"), [(WINDOWS_EPOCH, date(2021, 8, 17)), (MAC_EPOCH, date(2025, 8, 18))])
def test_the_calendar_of_a_workbook(tmp_path, epoch, day):
    book = openpyxl.Workbook()
    book.epoch = epoch
    for row in (["Period"], ["Job #", "Customer Name", "Created Date"], ["1001", "Ann", 44425]):
        book.active.append(row)
    book.save(tmp_path / "e.xlsx")
    assert list(exports.read_file(tmp_path / "e.xlsx").dates("created_date")) == [day]


def test_the_filters_sheet_says_by_which_date(tmp_path):
    filters = [["Date Range", "8/18/2025 - 8/24/2025"], ["Filter by", "Job Completion Date"]]
    assert (
        exports.read_file(write_xlsx(tmp_path / "f.xlsx", [DRILL_DOWN, ANN], filters=filters)).basis
        == "Job Completion Date"
    )


@pytest.mark.parametrize("name", ["Leads.xlsx (1)", "Leads.xlsx.part", "Leads.xls", "Leads", "Leads.csv"])
def test_what_a_file_is_does_not_depend_on_its_ending(tmp_path, name):
    write_xlsx(tmp_path / "a.xlsx", [DRILL_DOWN, ANN]).rename(tmp_path / name)
    assert len(exports.read_file(tmp_path / name).cells) == 1


@pytest.mark.parametrize(
    ("name", "days"),
    [
        ("Leads Dated 08_18_25 - 08_24_25.xlsx", (date(2025, 8, 18), date(2025, 8, 24))),
        ("leads 2025-08-18 2025-08-24.xlsx", (date(2025, 8, 18), date(2025, 8, 24))),
        ("leads 8-18-2025 to 8-24-2025 (2).xlsx", (date(2025, 8, 18), date(2025, 8, 24))),
        ("leads 2025-08-25.xlsx", (None, None)),
        ("leads 99_99_25 - 08_24_25.xlsx", (None, None)),
    ],
)
def test_two_days_in_the_name_of_a_file_are_its_days(tmp_path, name, days):
    export = exports.read_file(write_xlsx(tmp_path / name, [DRILL_DOWN, ANN]))
    assert (export.first_day, export.last_day) == days
    stated = exports.read_file(write_xlsx(tmp_path / name, [["8/1/2025 - 8/2/2025"], DRILL_DOWN, ANN]))
    assert (stated.first_day, stated.last_day) == (date(2025, 8, 1), date(2025, 8, 2))


def test_half_of_a_download_is_one_sentence(tmp_path):
    whole = write_xlsx(tmp_path / "a.xlsx", [DRILL_DOWN, ANN]).read_bytes()
    (tmp_path / "b.xlsx.part").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(UserError, match=r"b\.xlsx\.part is no workbook that can be read"):
        exports.read_file(tmp_path / "b.xlsx.part")


@pytest.mark.parametrize(
    ("part", "found", "put"),
    [
        ("sheet1.xml", b't="inlineStr"><is><t>', b't="s"><v>9</v><is><t>'),
        ("sheet1.xml", b"</row>", b""),
        ("workbook.xml", b"sheet", b"shoot"),
    ],
)
def test_a_damaged_workbook_is_one_sentence(tmp_path, part, found, put):
    book = openpyxl.Workbook()
    for row in (DRILL_DOWN, ANN):
        book.active.append(row)
    book.save(tmp_path / "a.xlsx")
    with ZipFile(tmp_path / "a.xlsx") as archive, ZipFile(tmp_path / "d.xlsx", "w") as damaged:
        for name in archive.namelist():
            content = archive.read(name)
            damaged.writestr(name, content.replace(found, put) if name.endswith(part) else content)
    with pytest.raises(UserError, match="is no workbook that can be read") as raised:
        exports.read_file(tmp_path / "d.xlsx")
    assert "\n" not in str(raised.value)


def test_an_open_document_is_told_what_to_do(tmp_path):
    with ZipFile(tmp_path / "a.ods", "w") as archive:
        archive.writestr("mimetype", "application/vnd.oasis.opendocument.spreadsheet")
    with pytest.raises(UserError, match=r"a\.ods is an OpenDocument file: save it as \.xlsx"):
        exports.read_file(tmp_path / "a.ods")


# --- what is no export ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "content", "sentence"),
    [
        ("a.csv", b"", "a.csv is empty"),
        ("a.png", b"\x89PNG\r\n\x1a\n\x00\x00\x00\rIHDR\x00\x01", "is no spreadsheet"),
        ("a.xls", b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1 more", "old .xls or a protected file"),
        ("a.xlsx", b"PK\x03\x04 not a zip after all", "no workbook that can be read"),
        ("a.xls", b"<html><table><tr><td>Job #</td></tr></table></html>", "is a web page"),
        ("a.csv", b"apples,pears\n1,2\n", "has no header that looks like a ServiceTitan report"),
        ("a.pdf", b"%PDF-1.7\n\x00\x01\x02", "is no spreadsheet"),
    ],
)
def test_what_is_no_export_gets_one_sentence(tmp_path, name, content, sentence):
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(UserError, match=sentence) as raised:
        exports.read_file(path)
    assert "\n" not in str(raised.value)


def test_a_zip_archive_that_is_no_workbook(tmp_path):
    with ZipFile(tmp_path / "a.xlsx", "w") as archive:
        archive.writestr("notes.txt", "hello")
    with pytest.raises(UserError, match="no workbook that can be read"):
        exports.read_file(tmp_path / "a.xlsx")


def test_a_missing_file_and_a_folder(tmp_path):
    with pytest.raises(UserError, match="There is no file"):
        exports.read_file(tmp_path / "none.csv")
    with pytest.raises(UserError, match="cannot be read"):
        exports.read_file(tmp_path)


def test_a_file_without_the_columns_of_the_kpi(tmp_path):
    export = exports.read_file(write_csv(tmp_path / "l.csv", [DRILL_DOWN, ANN]))
    with pytest.raises(UserError, match="it has no column for jobs subtotal, only Job #, Lead Type"):
        infer_kpi(export, "dollars_produced")
    with pytest.raises(UserError, match="There is no KPI profit; there are leads"):
        infer_kpi(export, "profit")


@pytest.mark.soak
def test_fifty_megabytes(tmp_path):
    line = io.StringIO()
    csv.writer(line).writerow([*ANN, "x" * 150])
    rows = 50_000_000 // len(line.getvalue())
    with (tmp_path / "large.csv").open("w") as file:
        csv.writer(file).writerow([*DRILL_DOWN, "Notes"])
        file.write(line.getvalue() * rows)
    started = time.process_time()
    export = exports.read_file(tmp_path / "large.csv")
    assert len(export.cells) == rows > 200_000
    assert export.money("estimate_subtotal").sum() == rows * Decimal("2139.46")
    assert time.process_time() - started < 30
