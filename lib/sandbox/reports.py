"""The owner's reports as ServiceTitan's Reporting API gives them, from the same truth as the oracle.

ServiceTitan knows units, but not the owner's rollup and divisions: a report covers the units that `BusinessUnitIds`
names, all of them without it. Asked for the units that roll up into one name, a report's rows
add up to that name's KPIs. Dates are inclusive calendar days of the tenant. A value is text, number or null; a Date is
text with the tenant's offset (`2025-10-13T13:13:02.93-07:00`), midnight for a calendar date.
"""

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from datetime import date, datetime
from decimal import Decimal
from typing import Any
from weakref import WeakKeyDictionary

from sandbox.resources import RESOURCES
from sandbox.store import Store
from sandbox.tenant import TIME_ZONE
from sandbox.truth import (
    SMALLEST_RECEIVABLE,
    ZERO,
    Books,
    Job,
    find_opportunity_instant,
    parse_calendar_day,
    read_books,
)

Values = Mapping[str, Any]
Row = list[str | int | float | None]


@dataclass(frozen=True)
class Report:
    """A saved report. `parameters` and `fields` are what the API describes it with.

    `rows(store, values)` takes the parameters' values by name and returns rows in the order of `fields`. It raises
    ValueError for a value that cannot be read.
    """

    id: int
    category: str
    name: str
    description: str
    parameters: tuple[dict[str, Any], ...]
    fields: tuple[dict[str, str], ...]
    rows: Callable[[Store, Values], list[Row]]


_BOOKS: WeakKeyDictionary[Store, tuple[tuple[int, ...], Books]] = WeakKeyDictionary()


def _read_books(store: Store) -> Books:
    """Read the tenant, again only when a record has changed: it takes seconds, and reports are pulled by the dozen."""
    version = tuple(store.version(resource) for resource in RESOURCES)
    if store not in _BOOKS or _BOOKS[store][0] != version:
        _BOOKS[store] = version, read_books(store, TIME_ZONE)
    return _BOOKS[store][1]


def _parse_date(values: Values, name: str) -> date:
    try:
        return date.fromisoformat(str(values[name])[:10])
    except ValueError:
        raise ValueError(f"{name} must be a date such as 2025-08-18") from None


def _match_days(values: Values) -> Callable[[date | None], bool]:
    first, last = _parse_date(values, "From"), _parse_date(values, "To")
    return lambda day: day is not None and first <= day <= last


def _match_units(values: Values) -> Callable[[int | None], bool]:
    try:
        ids = {int(id) for id in values.get("BusinessUnitIds") or ()}
    except (TypeError, ValueError):
        raise ValueError("BusinessUnitIds must be a list of unit ids") from None
    return lambda unit: not ids or unit in ids


def _format_instant(books: Books, instant: str | None) -> str | None:
    """Format a UTC instant on the tenant's clock; fractions of a second without trailing zeros."""
    if not instant:
        return None
    local = datetime.fromisoformat(instant).astimezone(books.zone).isoformat()
    fraction = instant[19:].rstrip("Z0")
    return local[:19] + (fraction if len(fraction) > 1 else "") + local[-6:]


def _format_midnight(books: Books, day: date | None) -> str | None:
    return day and datetime(day.year, day.month, day.day, tzinfo=books.zone).isoformat()


def _divide(part: Decimal | int, whole: Decimal | int) -> float | None:
    return float(part / whole) if whole else None


def _list_leads(books: Books, values: Values) -> Iterable[Row]:
    """Yield a row per lead and active estimate of it, one without estimate columns if it has none."""
    within, chosen = _match_days(values), _match_units(values)
    for job in books.jobs.values():
        if job.is_lead and chosen(job.unit) and within(books.day(job.created)):
            for estimate in job.estimates or (None,):
                yield [
                    job.number,
                    "Tech Generated Lead" if job.generated_by_tech else "Marketing Lead",
                    str(estimate.id) if estimate else None,
                    _format_instant(books, estimate.sold_on) if estimate and estimate.sold else None,
                    books.units.get(job.unit),
                    job.customer_name or None,
                    float(estimate.subtotal) if estimate else None,
                    int(job.is_opportunity),
                    int(job.closed),
                    _format_instant(books, job.created),
                ]


def _list_unit_totals(books: Books, values: Values) -> Iterable[Row]:
    within, chosen = _match_days(values), _match_units(values)
    completed, opportunities, closed, sales = Counter(), Counter(), Counter(), defaultdict(Decimal)
    for job in books.jobs.values():
        if job.is_completed_estimate and within(books.day(job.completed)):
            completed[job.unit] += 1
        if job.is_opportunity and within(books.day(find_opportunity_instant(job))):
            opportunities[job.unit] += 1
            closed[job.unit] += job.closed
    for estimate in books.estimates:
        if estimate.sold and within(books.day(estimate.sold_on)):
            sales[estimate.unit] += estimate.subtotal
    for unit, name in sorted(books.units.items(), key=lambda item: item[1]):
        if chosen(unit):
            rate = _divide(closed[unit], opportunities[unit])
            yield [name, completed[unit], opportunities[unit], closed[unit], rate, float(sales[unit])]


def _list_job_costs(books: Books, values: Values) -> Iterable[Row]:
    within, chosen = _match_days(values), _match_units(values)
    for job in books.jobs.values():
        if job.is_production and chosen(job.unit) and within(books.day(job.start)):
            yield [
                _format_instant(books, job.start),
                books.units.get(job.unit),
                books.people.get(job.sold_by),
                _find_primary_technician(books, job),
                job.type or None,
                job.customer_name or None,
                job.number,
                float(job.subtotal),
                float(job.labor - job.adjustments),
                float(job.adjustments),
                float(job.parts + job.purchases),
                float(job.returns),
                float(job.full_cost),
                _divide(job.subtotal - job.full_cost, job.subtotal),
                job.status,
            ]


def _find_primary_technician(books: Books, job: Job) -> str | None:
    """Return who earned most on the job."""
    earned = defaultdict(Decimal)
    for employee, _, amount in job.pay:
        earned[employee] += amount
    return books.people.get(max(earned, key=earned.get)) if earned else None


def _list_collections(books: Books, values: Values) -> Iterable[Row]:
    """Yield a row per application, to the unit of the invoice, and one for what a payment leaves unapplied."""
    within, chosen = _match_days(values), _match_units(values)
    for row in books.collected:
        day = parse_calendar_day(row.paid)
        if chosen(row.unit) and within(day):
            unit = books.units.get(row.unit)
            paid, number = _format_midnight(books, day), str(row.payment)
            yield [paid, unit, row.customer, number, row.type, row.invoice, float(row.amount)]


def _list_receivables(books: Books, values: Values) -> Iterable[Row]:
    """Yield a row per invoice with a balance; leave out a location that owes less than $10 in the chosen units."""
    as_of, chosen = _parse_date(values, "AsOf"), _match_units(values)
    balances, owed = defaultdict(Decimal), defaultdict(Decimal)
    for invoice, day, amount in books.movements:
        if chosen(invoice.unit) and day and day <= as_of:
            balances[invoice] += amount
            owed[invoice.location] += amount
    for invoice, balance in balances.items():
        if balance != ZERO and owed[invoice.location] >= SMALLEST_RECEIVABLE:
            yield [
                invoice.number,
                _format_midnight(books, parse_calendar_day(invoice.invoiced)),
                books.units.get(invoice.unit),
                invoice.customer,
                invoice.location_name,
                books.jobs[invoice.job].number if invoice.job else None,
                float(invoice.total),
                float(balance),
            ]


def _make_parameter(name: str, label: str, data_type: str, **more: Any) -> dict[str, Any]:
    return {
        "name": name,
        "label": label,
        "dataType": data_type,
        "isArray": False,
        "isRequired": True,
        "acceptValues": None,
    } | more


def _parse_fields(text: str) -> tuple[dict[str, str], ...]:
    """Read fields from lines of `Name Type Label`."""
    lines = (line.split(maxsplit=2) for line in text.strip().splitlines())
    return tuple({"name": name, "label": label, "dataType": data_type} for name, data_type, label in lines)


_RANGE = (_make_parameter("From", "From", "Date"), _make_parameter("To", "To", "Date"))
_UNITS = _make_parameter(
    "BusinessUnitIds",
    "Business Unit",
    "Number",
    isArray=True,
    isRequired=False,
    acceptValues={
        "fields": [{"name": "Value", "label": "Value"}, {"name": "Name", "label": "Name"}],
        "dynamicSetId": "business-units",
        "values": None,
    },
)


def _bind_rows(report: Callable[[Books, Values], Iterable[Row]]) -> Callable[[Store, Values], list[Row]]:
    return lambda store, values: list(report(_read_books(store), values))


REPORTS = (
    Report(
        id=1001,
        category="marketing",
        name="Leads",
        description="Jobs of an estimate type by the day they were created, without test customers",
        parameters=(*_RANGE, _UNITS),
        fields=_parse_fields("""
            JobNumber           String  Job #
            LeadType            String  Lead Type
            EstimateNumber      String  Estimate #
            EstimateSoldDate    Date    Estimate Sold Date
            BusinessUnit        String  Job\u2019s Business Unit
            CustomerName        String  Customer Name
            EstimateSubtotal    Number  Estimate Subtotal
            SalesOpportunity    Number  Sales Opportunity
            Closed              Number  Closed
            JobCreatedDate      Date    Job Created Date
        """),
        rows=_bind_rows(_list_leads),
    ),
    Report(
        id=1002,
        category="business-unit-dashboard",
        name="Daily WBR by business unit",
        description="Completed estimates by completion, opportunities by first sale or completion, sales by sale",
        parameters=(*_RANGE, _UNITS),
        fields=_parse_fields("""
            BusinessUnit        String  Business Unit
            CompletedJobs       Number  Completed Jobs
            SalesOpportunity    Number  Sales Opportunity
            Closed              Number  Closed
            CloseRate           Number  Close Rate
            TotalSales          Number  Total Sales
        """),
        rows=_bind_rows(_list_unit_totals),
    ),
    Report(
        id=1003,
        category="operations",
        name="FOREMAN Job Cost",
        description="Jobs by the day they start, inspections and washing left out, with what they cost",
        parameters=(*_RANGE, _UNITS),
        fields=_parse_fields("""
            ScheduledDate       Date    Scheduled Date
            BusinessUnit        String  Business Unit
            SoldBy              String  Sold By
            PrimaryTechnician   String  Primary Technician
            JobType             String  Job Type
            CustomerName        String  Customer Name
            JobNumber           String  Job #
            JobsSubtotal        Number  Jobs Subtotal
            LaborPay            Number  Labor Pay
            PayrollAdjustments  Number  Payroll Adjustments
            MaterialCosts       Number  Materials + Equip. + PO/Bill Costs
            Returns             Number  Returns
            JobsTotalCosts      Number  Jobs Total Costs
            JobsGrossMargin     Number  Jobs Gross Margin %
            Status              String  Status
        """),
        rows=_bind_rows(_list_job_costs),
    ),
    Report(
        id=1004,
        category="accounting",
        name="Collections",
        description="Payments by their date, a row for each invoice they were applied to",
        parameters=(*_RANGE, _UNITS),
        fields=_parse_fields("""
            PaymentDate         Date    Payment Date
            BusinessUnit        String  Business Unit
            CustomerName        String  Customer Name
            PaymentNumber       String  Payment #
            PaymentType         String  Payment Type
            InvoiceNumber       String  Invoice #
            Amount              Number  Amount
        """),
        rows=_bind_rows(_list_collections),
    ),
    Report(
        id=1005,
        category="accounting",
        name="AR Report",
        description="Invoices with a balance at the end of a day, locations that owe less than $10 left out",
        parameters=(_make_parameter("AsOf", "As of", "Date"), _UNITS),
        fields=_parse_fields("""
            InvoiceNumber       String  Invoice #
            InvoiceDate         Date    Invoice Date
            BusinessUnit        String  Business Unit
            CustomerName        String  Customer Name
            LocationName        String  Location Name
            JobNumber           String  Job #
            Total               Number  Total
            Balance             Number  Balance
        """),
        rows=_bind_rows(_list_receivables),
    ),
)
