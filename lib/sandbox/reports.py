"""The owner's reports as ServiceTitan's Reporting API gives them, from the same truth as the oracle.

ServiceTitan knows units, but not the owner's rollup and divisions: a report covers the units that its unit parameter
names, all of them without it. Asked for the units that roll up into one name, a report's rows
add up to that name's KPIs. Dates are inclusive calendar days of the tenant. A value is text, number or null; a Date is
text with the tenant's offset (`2025-10-13T13:13:02.93-07:00`), midnight for a calendar date.

A report with the parameter DateType ("Filter by") compares another date of its jobs with From and To for each of
DATE_TYPES; its KPI's numbers are those of one of them. A wrong one is no error: it is another number. Which value of
DateType means which date differs by company: the server looks it up, and gives `rows` the label.
"""

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from datetime import date, datetime
from decimal import Decimal
from typing import Any

from sandbox.records import NO_INSTANT
from sandbox.truth import (
    SMALLEST_RECEIVABLE,
    ZERO,
    Books,
    Job,
    find_opportunity_instant,
    parse_calendar_day,
)

Values = Mapping[str, Any]
Row = list[str | int | float | None]


@dataclass(frozen=True)
class Report:
    """A saved report. `parameters` and `fields` are what the API describes it with.

    `rows(books, values)` takes the parameters' values by name (DateType by its label) and yields rows in the order of
    `fields`. It raises ValueError for a value that cannot be read.
    """

    id: int
    category: str
    name: str
    description: str
    parameters: tuple[dict[str, Any], ...]
    fields: tuple[dict[str, str], ...]
    rows: Callable[[Books, Values], Iterable[Row]]


PAID = "Last Paid On Date"
DATE_TYPE_SET = "job-date-filter-type"
# The days of a job that a report's "Filter by" offers: one of them must be within From and To.
DATE_TYPES: dict[str, Callable[[Books, Job], list[date | None]]] = {
    "Invoice Date": lambda books, job: [parse_calendar_day(job.invoiced)],
    "Job Completion Date": lambda books, job: [books.day(job.completed)],
    "Job Start Date": lambda books, job: [books.day(job.start)],
    "Job Creation Date": lambda books, job: [books.day(job.created)],
    PAID: lambda books, job: [parse_calendar_day(job.paid)],
    "Jobs with Appt Date": lambda books, job: [books.day(start) for start in job.visits],
}


def _parse_date(values: Values, name: str) -> date:
    try:
        return date.fromisoformat(str(values[name])[:10])
    except ValueError:
        raise ValueError(f"{name} must be a date such as 2025-08-18") from None


def _match_days(values: Values) -> Callable[[date | None], bool]:
    first, last = _parse_date(values, "From"), _parse_date(values, "To")
    return lambda day: day is not None and first <= day <= last


def _match_job(books: Books, values: Values, usual: str) -> Callable[[Job], bool]:
    """Make the test whether the job's date that DateType chooses, the usual one without it, is within From and To."""
    find, within = DATE_TYPES[values.get("DateType", usual)], _match_days(values)
    return lambda job: any(map(within, find(books, job)))


def _match_units(values: Values) -> Callable[[int | None], bool]:
    name = "BusinessUnitIds" if "BusinessUnitIds" in values else "BusinessUnitId"
    try:
        ids = {int(id) for id in values.get(name) or ()}
    except (TypeError, ValueError):
        raise ValueError(f"{name} must be a list of unit ids") from None
    return lambda unit: not ids or unit in ids


def _format_instant(books: Books, instant: str | None) -> str | None:
    """Format a UTC instant on the tenant's clock; fractions of a second without trailing zeros."""
    if not instant or instant == NO_INSTANT:
        return None
    local = datetime.fromisoformat(instant).astimezone(books.zone).isoformat()
    fraction = instant[19:].rstrip("Z0")
    return local[:19] + (fraction if len(fraction) > 1 else "") + local[-6:]


def _format_midnight(books: Books, day: date | None) -> str | None:
    return day and datetime(day.year, day.month, day.day, tzinfo=books.zone).isoformat()


def _divide(part: Decimal | int, whole: Decimal | int) -> float | None:
    return float(part / whole) if whole else None


def list_leads(books: Books, values: Values) -> Iterable[Row]:
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


def list_lead_jobs(books: Books, values: Values) -> Iterable[Row]:
    """Yield a row per lead."""
    within, chosen = _match_job(books, values, "Job Creation Date"), _match_units(values)
    for job in books.jobs.values():
        if job.is_lead and chosen(job.unit) and within(job):
            campaign, category = books.campaigns.get(job.campaign, (None, None))
            yield [
                job.customer_name or None,
                category,
                campaign,
                job.type,
                books.people.get(job.booked_by),
                job.number,
                books.units.get(job.unit),
                job.status,
                _format_instant(books, job.created),
                ", ".join(sorted({books.people[id] for id, _, _ in job.pay if id in books.people})) or None,
            ]


def list_unit_totals(books: Books, values: Values) -> Iterable[Row]:
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
    inactive = values.get("IncludeInactive") is not False
    for unit, name in sorted(books.units.items(), key=lambda item: item[1]):
        if chosen(unit) and (inactive or unit in books.active_units):
            rate = _divide(closed[unit], opportunities[unit])
            yield [name, completed[unit], opportunities[unit], closed[unit], rate, float(sales[unit])]


def list_unit_sales(books: Books, values: Values) -> Iterable[Row]:
    """Yield the totals of units in the columns of ServiceTitan's own dashboard."""
    for name, completed, opportunities, closed, rate, sales in list_unit_totals(books, values):
        yield [name, opportunities, closed, rate, completed, sales, _divide(Decimal(str(sales)), closed)]


def list_rep_sales(books: Books, values: Values) -> Iterable[Row]:
    """Yield the totals of those who sold the jobs, else earned most on them."""
    within, chosen = _match_days(values), _match_units(values)
    completed, opportunities, closed, sales = Counter(), Counter(), Counter(), defaultdict(Decimal)
    for job in books.jobs.values():
        rep = books.people.get(job.sold_by) or _find_primary_technician(books, job)
        if not (rep and chosen(job.unit)) or values.get("JobTypes") not in (None, job.type_id):
            continue
        completed[rep] += job.is_completed_estimate and within(books.day(job.completed))
        if job.is_opportunity and within(books.day(find_opportunity_instant(job))):
            opportunities[rep] += 1
            closed[rep] += job.closed
        for estimate in job.estimates:
            if estimate.sold and within(books.day(estimate.sold_on)):
                sales[rep] += estimate.subtotal
    for rep in sorted(completed.keys() | opportunities.keys() | sales.keys()):
        if completed[rep] or opportunities[rep] or sales[rep]:
            rate, average = _divide(closed[rep], opportunities[rep]), _divide(sales[rep], closed[rep])
            yield [rep, closed[rep], completed[rep], opportunities[rep], rate, float(sales[rep]), average]


def list_visits(books: Books, values: Values) -> Iterable[Row]:
    """Yield a row per appointment of an estimate job that is active and not canceled."""
    within, chosen = _match_days(values), _match_units(values)
    for job in books.jobs.values():
        for start in job.visits if job.is_estimate and chosen(job.unit) else ():
            if within(books.day(start)):
                yield [
                    job.number,
                    _format_instant(books, start),
                    books.units.get(job.unit),
                    job.type or None,
                    job.customer_name or None,
                    job.status,
                ]


def list_job_costs(books: Books, values: Values) -> Iterable[Row]:
    within, chosen = _match_job(books, values, "Job Start Date"), _match_units(values)
    adjusted = values.get("IncludeAdjustmentInvoices") is not False
    for job in books.jobs.values():
        if job.is_production and chosen(job.unit) and within(job):
            subtotal = job.subtotal - (0 if adjusted else job.adjusted)
            yield [
                _format_instant(books, job.start),
                books.units.get(job.unit),
                books.people.get(job.sold_by),
                _find_primary_technician(books, job),
                job.type or None,
                job.customer_name or None,
                job.number,
                float(subtotal),
                float(job.labor - job.adjustments),
                float(job.adjustments),
                float(job.parts + job.purchases),
                float(job.returns),
                float(job.full_cost),
                _divide(subtotal - job.full_cost, subtotal),
                job.status,
            ]


def _find_primary_technician(books: Books, job: Job) -> str | None:
    """Return who earned most on the job."""
    earned = defaultdict(Decimal)
    for employee, _, amount in job.pay:
        earned[employee] += amount
    return books.people.get(max(earned, key=earned.get)) if earned else None


def list_collections(books: Books, values: Values) -> Iterable[Row]:
    """Yield a row per application, to the unit of the invoice, and one for what a payment leaves unapplied."""
    within, chosen = _match_days(values), _match_units(values)
    for row in books.collected:
        day = parse_calendar_day(row.paid)
        if chosen(row.unit) and within(day):
            unit = books.units.get(row.unit)
            paid, number = _format_midnight(books, day), str(row.payment)
            yield [paid, unit, row.customer, number, row.type, row.invoice, float(row.amount)]


def list_paid_invoices(books: Books, values: Values) -> Iterable[Row]:
    """Yield the rows of `list_collections` with the invoice's columns, by the payment's date or one of the job's."""
    within, chosen = _match_days(values), _match_units(values)
    label = values.get("DateType", PAID)
    for row in books.collected:
        invoice, day = row.settled, parse_calendar_day(row.paid)
        job = books.jobs.get(invoice.job) if invoice else None
        days = DATE_TYPES[label](books, job) if job else []
        if label in (PAID, "Invoice Date"):
            days = [day] if label == PAID else [invoice and parse_calendar_day(invoice.invoiced)]
        if chosen(row.unit) and any(map(within, days)):
            yield [
                _format_midnight(books, day),
                row.type,
                float(row.amount),
                row.invoice,
                row.customer,
                books.units.get(row.unit),
                float(invoice.balance) if invoice else None,
            ]


def list_receivables(books: Books, values: Values) -> Iterable[Row]:
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


def list_location_balances(books: Books, values: Values) -> Iterable[Row]:
    """Yield a row per location that owes $10 or more in the chosen units."""
    as_of, chosen = _parse_date(values, "AsOf"), _match_units(values)
    owed, names = defaultdict(Decimal), {}
    for invoice, day, amount in books.movements:
        if chosen(invoice.unit) and day and day <= as_of:
            owed[invoice.location] += amount
            names[invoice.location] = [invoice.location_name, invoice.customer]
    for location, amount in owed.items():
        if amount >= SMALLEST_RECEIVABLE:
            yield [*names[location], float(amount)]


def make_parameter(name: str, label: str, data_type: str, **more: Any) -> dict[str, Any]:
    return {
        "name": name,
        "label": label,
        "dataType": data_type,
        "isArray": False,
        "isRequired": True,
        "acceptValues": None,
    } | more


def parse_fields(text: str) -> tuple[dict[str, str], ...]:
    """Read fields from lines of `Name Type Label`."""
    lines = (line.split(maxsplit=2) for line in text.strip().splitlines())
    return tuple({"name": name, "label": label, "dataType": data_type} for name, data_type, label in lines)


def make_choice(name: str, label: str, values: str, **more: Any) -> dict[str, Any]:
    """Make a parameter whose values are those of a dynamic value set."""
    fields = [{"name": "Value", "label": "Value"}, {"name": "Name", "label": "Name"}]
    accepted = {"fields": fields, "dynamicSetId": values, "values": None}
    return make_parameter(name, label, "Number", acceptValues=accepted, **more)


DAYS = (make_parameter("From", "From", "Date"), make_parameter("To", "To", "Date"))
LAST_DAY = make_parameter("AsOf", "As of", "Date")
UNITS = make_choice("BusinessUnitIds", "Business Unit", "business-units", isArray=True, isRequired=False)
UNIT = UNITS | {"name": "BusinessUnitId"}  # as some reports call the same parameter
DATE_TYPE = make_choice("DateType", "Filter by", DATE_TYPE_SET)
JOB_TYPES = make_choice("JobTypes", "Job Type", "job-types", dataType="String", isRequired=False)
INACTIVE = make_parameter("IncludeInactive", "Include Inactive", "Boolean", isRequired=False)
ADJUSTMENTS = make_parameter("IncludeAdjustmentInvoices", "Include Adjustment Invoices", "Boolean", isRequired=False)
JOB_COST_FIELDS = parse_fields("""
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
""")


def list_saved_reports(first_id: int, costs: str, repeated: Mapping[str, str]) -> tuple[Report, ...]:
    """Return the reports that the owner has saved for the Reporting API, in the shapes that real ones have.

    `costs` is the name of his job costing, `repeated` the labels that he gave columns of his leads, by their names.
    """
    leads = parse_fields("""
        CustomerName        String  Customer Name
        CampaignCategory    String  Campaign Category
        Campaign            String  Job Campaign
        JobType             String  Job Type
        BookedBy            String  Booked By
        JobNumber           String  Job #
        JobBusinessUnit     String  Business Unit
        JobStatus           String  Status
        CreatedDate         Date    Created Date
        AssignedTechnicians String  Assigned Technicians
    """)
    reports = (
        Report(
            id=first_id,
            category="marketing",
            name="*Leads* - API",
            description="Customer Name does not contain Test, Job Type contains Estimate",
            parameters=(DATE_TYPE, *DAYS, UNIT),
            fields=tuple(field | {"label": repeated.get(field["name"], field["label"])} for field in leads),
            rows=list_lead_jobs,
        ),
        Report(
            id=first_id,
            category="business-unit-dashboard",
            name="BU Sales - API",
            description="Totals by business unit",
            parameters=(*DAYS, UNITS | {"label": "Invoice Item Business Unit"}, INACTIVE),
            fields=parse_fields("""
                Name                String  Name
                SalesOpportunity    Number  Sales Opportunity
                ClosedOpportunities Number  Closed Opportunities
                CloseRate           Number  Close Rate
                CompletedJobs       Number  Completed Jobs
                TotalSales          Number  Total Sales
                ClosedAverageSale   Number  Closed Average Sale
            """),
            rows=list_unit_sales,
        ),
        Report(
            id=first_id,
            category="technician-dashboard",
            name="*Daily WBR C/R*",
            description="Totals by technician",
            parameters=(*DAYS, UNIT, JOB_TYPES, INACTIVE | {"label": "Include Inactive Technicians"}),
            fields=parse_fields("""
                Name                String  Name
                ClosedOpportunities Number  Closed Opportunities
                CompletedJobs       Number  Completed Jobs
                SalesOpportunity    Number  Sales Opportunity
                CloseRate           Number  Close Rate
                TotalSales          Number  Total Sales
                ClosedAverageSale   Number  Closed Average Sale
            """),
            rows=list_rep_sales,
        ),
        Report(
            id=first_id,
            category="operations",
            name=costs,
            description="Jobs with what they cost",
            parameters=(DATE_TYPE, *DAYS, UNIT, ADJUSTMENTS),
            fields=JOB_COST_FIELDS,
            rows=list_job_costs,
        ),
        Report(
            id=first_id,
            category="operations",
            name="Scheduled Jobs",
            description="Appointments that are not canceled, Job Type contains Estimate",
            parameters=(*DAYS, UNIT),
            fields=parse_fields("""
                JobNumber           String  Job #
                AppointmentDate     Date    Appointment Date
                JobBusinessUnit     String  Business Unit
                JobType             String  Job Type
                CustomerName        String  Customer Name
                JobStatus           String  Status
            """),
            rows=list_visits,
        ),
        Report(
            id=first_id,
            category="accounting",
            name="*Collections*",
            description="Payments, a row for each invoice they were applied to",
            parameters=(DATE_TYPE, *DAYS, UNIT),
            fields=parse_fields("""
                PaidOn              Date    Paid On
                PaymentType         String  Payment Type
                Amount              Number  Amount
                InvoiceNumber       String  Invoice Number
                CustomerName        String  Customer Name
                InvoiceBusinessUnit String  Invoice Business Unit
                InvoiceBalance      Number  Invoice Balance
            """),
            rows=list_paid_invoices,
        ),
        Report(
            id=first_id,
            category="accounting",
            name="AR Transactions Summarized By Location",
            description="Net Amount of $10 and more",
            parameters=(LAST_DAY, UNIT),
            fields=parse_fields("""
                LocationName        String  Location Name
                CustomerName        String  Customer Name
                NetAmount           Number  Net Amount
            """),
            rows=list_location_balances,
        ),
    )
    return tuple(replace(report, id=first_id + place) for place, report in enumerate(reports))
