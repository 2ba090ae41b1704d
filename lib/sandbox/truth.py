"""The eleven KPIs of a tenant in plain Python, from its own records: the oracle that checks the SQL.

`read_books` reads each resource once and keeps what the KPIs and the owner's reports need; `compute_weekly_kpis` and
`compute_daily_kpis` measure it over periods. Nothing here is shared with the SQL.

Readings, where the definitions leave one open:

- Unit: id, then the unit's name (active or not), then the rollup file by exact name. A unit that the file lacks keeps
  its name. One without a division, in the file or not, is Both: it counts for Sales and for Production KPIs. A row with
  a null or unknown unit counts nowhere.
- A job id that is null, 0 or unknown is no job: the record's own unit counts. An invoice's job is `job.id` and nothing
  else; a purchase order's, return's or pay item's is its `jobId`.
- A row without its business date falls in no period; there are no fallbacks but the defined ones. In the running week
  rows after `as_of` do not count, for any KPI.
- A record that came with an import has year 1 for its creation: it was created in no period, and before each of them.
- Names of statuses and of the excluded and warranty job types compare exactly; a job without a type name is neither.
- A sold estimate is an active one with status Sold. A job without sold `soldOn` is an opportunity on its `completedOn`.
- No-charge: no active estimate, and active invoices whose subTotal sum to 0, as no invoice at all does.
- Only an active invoice takes an application to its unit, even if that unit is unknown.
- A/R groups by rolled-up unit and the invoice's location; a group below $10, negative too, is left out.
"""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date, datetime, timedelta
from decimal import Decimal
from fractions import Fraction
from operator import itemgetter
from typing import Any, NamedTuple
from zoneinfo import ZoneInfo

from sandbox.records import NO_INSTANT
from sandbox.store import Store

SMALLEST_RECEIVABLE = Decimal(10)  # dollars; a location that owes less is left out of A/R

ZERO = Decimal(0)
DAY = timedelta(days=1)
NOWHERE = (None, ())  # the rolled-up unit and the divisions of an unknown unit

Key = tuple[str, date]  # rolled-up unit, first day of the period
Kpis = dict[str, int | Decimal | Fraction | None]


class JobTypeRules(NamedTuple):
    """The names of job types that are not production, and of those that are warranty work; a painter's by default."""

    not_production: frozenset[str] = frozenset({"PM Inspection", "Safety Inspection", "Window/Solar Washing"})
    warranty: frozenset[str] = frozenset({"Warranty", "Touchup"})


PAINTER = JobTypeRules()


class Estimate(NamedTuple):
    """An active estimate; `unit` is its job's, else its own."""

    id: int
    unit: int | None
    sold: bool
    sold_on: str | None
    subtotal: Decimal


class Invoice(NamedTuple):
    """An active invoice; `unit` is its job's, else its own."""

    id: int
    number: str | None
    job: int | None
    unit: int | None
    customer: str | None
    location: int | None
    location_name: str | None
    invoiced: str | None
    subtotal: Decimal
    total: Decimal
    balance: Decimal
    parts: Decimal  # totalCost of its Material and Equipment items


class Collected(NamedTuple):
    """What an active payment applied to an invoice, or left unapplied (then without `invoice`); `unit` gets it.

    `settled` is the invoice if it is active.
    """

    payment: int
    type: str | None
    customer: str | None
    unit: int | None
    paid: str | None
    invoice: str | None
    amount: Decimal
    settled: Invoice | None = None


class Credit(NamedTuple):
    """What an active credit memo applied to an active invoice (`settled`), or its balance, which is its customer's."""

    memo: int
    unit: int | None
    customer: int | None
    location: int | None
    day: date | None
    amount: Decimal
    settled: Invoice | None = None


class Movement(NamedTuple):
    """What an active invoice gains on its date and loses as payments are applied to it."""

    invoice: Invoice
    day: date | None
    amount: Decimal


@dataclass(slots=True)
class Job:
    """A job with its names resolved and its active estimates, active invoices and costs summed up."""

    id: int
    number: str
    unit: int
    customer: int
    customer_name: str
    type_id: int | None
    type: str
    status: str
    created: str
    completed: str | None
    start: str
    is_production: bool
    is_warranty: bool
    generated_by_tech: bool
    sold_by: int | None
    booked_by: int | None
    campaign: int | None
    invoiced: str | None = None  # the first date of its invoices
    paid: str | None = None  # the last date of the payments of its invoices
    estimates: list[Estimate] = field(default_factory=list)
    visits: list[str] = field(default_factory=list)  # starts of its active appointments that are not canceled
    subtotal: Decimal = ZERO
    adjusted: Decimal = ZERO  # what adjustment invoices add to the subtotal
    parts: Decimal = ZERO
    purchases: Decimal = ZERO  # its purchase orders, and the vendor bills of no order among them
    returns: Decimal = ZERO
    pay: list[tuple[int | None, bool, Decimal]] = field(default_factory=list)  # employee, is an adjustment, amount

    @property
    def labor(self) -> Decimal:
        return sum((amount for _, _, amount in self.pay), ZERO)

    @property
    def adjustments(self) -> Decimal:
        return sum((amount for _, is_adjustment, amount in self.pay if is_adjustment), ZERO)

    @property
    def full_cost(self) -> Decimal:
        return self.labor + self.purchases + self.parts - self.returns

    @property
    def is_estimate(self) -> bool:
        return "estimate" in self.type.lower()

    @property
    def is_lead(self) -> bool:
        return self.is_estimate and "test" not in self.customer_name.lower()

    @property
    def is_completed_estimate(self) -> bool:
        return self.is_estimate and self.status == "Completed"

    @property
    def closed(self) -> bool:
        return any(estimate.sold for estimate in self.estimates)

    @property
    def is_opportunity(self) -> bool:
        return self.closed or (self.status == "Completed" and (bool(self.estimates) or self.subtotal != 0))


@dataclass(frozen=True)
class Books:
    """What was read of a tenant; `zone` dates its instants."""

    zone: ZoneInfo
    units: dict[int, str]
    active_units: frozenset[int]
    people: dict[int, str]
    campaigns: dict[int, tuple[str, str | None]]  # name and category
    jobs: dict[int, Job]
    estimates: list[Estimate]
    collected: list[Collected]
    movements: list[Movement]
    credits: list[Credit]  # in no KPI by its default definition

    def day(self, instant: str | None) -> date | None:
        """Return the tenant's calendar day of a UTC instant; the first of all days for one in year 1."""
        if instant == NO_INSTANT:
            return date.min
        return datetime.fromisoformat(instant).astimezone(self.zone).date() if instant else None


def read_books(store: Store, time_zone: str, rules: JobTypeRules = PAINTER) -> Books:
    """Read the tenant's records, each resource once, money as exact decimals."""
    starts, visits = _read_appointments(store)
    jobs = _read_jobs(store, starts, visits, rules)
    books = Books(
        zone=ZoneInfo(time_zone),
        units=_read_names(store, "business_units"),
        active_units=frozenset(unit["id"] for unit in _iterate_active(store, "business_units")),
        people=_read_names(store, "employees") | _read_names(store, "technicians"),
        campaigns={r["id"]: (r["name"], _get_name(r.get("category"))) for r in store.rows("campaigns")},
        jobs=jobs,
        estimates=[],
        collected=[],
        movements=[],
        credits=[],
    )
    _add_estimates(store, books)
    _add_costs(store, books)
    invoices = _add_invoices(store, books)
    _add_payments(store, books, invoices)
    _add_credit_memos(store, books, invoices)
    return books


def _parse_money(value: str | float | None) -> Decimal:
    return Decimal(str(value)) if value is not None else ZERO


def parse_calendar_day(value: str | None) -> date | None:
    """Read a calendar date, which the API gives as midnight UTC of that day; never shift it to the tenant's zone."""
    return date.fromisoformat(value[:10]) if value else None


def _get_id(reference: Mapping[str, Any] | None) -> int | None:
    return reference["id"] if reference else None


def _get_name(reference: Mapping[str, Any] | None) -> str | None:
    return reference.get("name") if reference else None


def _read_names(store: Store, resource: str) -> dict[int, str]:
    return {record["id"]: record["name"] or "" for record in store.rows(resource)}


def _iterate_active(store: Store, resource: str) -> Iterable[dict[str, Any]]:
    return (record for record in store.rows(resource) if record.get("active") is not False)


def _read_appointments(store: Store) -> tuple[dict[int, str], dict[int, list[str]]]:
    """Return the start of every appointment by id, and by job id those of the active ones not canceled."""
    starts, visits = {}, defaultdict(list)
    for record in store.rows("appointments"):
        starts[record["id"]] = record["start"]
        if record.get("active") is not False and record["status"] != "Canceled":
            visits[record["jobId"]].append(record["start"])
    return starts, visits


def _read_jobs(
    store: Store, starts: Mapping[int, str], visits: Mapping[int, list[str]], rules: JobTypeRules
) -> dict[int, Job]:
    types, customers = _read_names(store, "job_types"), _read_names(store, "customers")
    return {
        job["id"]: Job(
            id=job["id"],
            number=job["jobNumber"],
            unit=job["businessUnitId"],
            customer=job["customerId"],
            customer_name=customers.get(job["customerId"], ""),
            type_id=job["jobTypeId"],
            type=(type := types.get(job["jobTypeId"], "")),
            status=job["jobStatus"],
            created=job["createdOn"],
            completed=job.get("completedOn"),
            start=starts.get(job["firstAppointmentId"]) or job.get("completedOn") or job["createdOn"],
            is_production=type not in rules.not_production,
            is_warranty=type in rules.warranty or job.get("warrantyId") is not None,
            generated_by_tech=job.get("jobGeneratedLeadSource") is not None,
            sold_by=job.get("soldById"),
            booked_by=job.get("createdById"),
            campaign=job.get("campaignId"),
            visits=visits.get(job["id"], []),
        )
        for job in store.rows("jobs")
    }


def _add_estimates(store: Store, books: Books) -> None:
    for record in _iterate_active(store, "estimates"):
        job = books.jobs.get(record.get("jobId"))
        estimate = Estimate(
            id=record["id"],
            unit=job.unit if job else record.get("businessUnitId"),
            sold=_get_name(record.get("status")) == "Sold",
            sold_on=record.get("soldOn"),
            subtotal=_parse_money(record["subtotal"]),
        )
        books.estimates.append(estimate)
        if job:
            job.estimates.append(estimate)


def _add_costs(store: Store, books: Books) -> None:
    for item in store.rows("payroll"):
        if job := books.jobs.get(item["jobId"]):
            # A payroll adjustment shows among the gross pay items as a custom bonus: added here once, there never.
            job.pay.append(
                (item.get("employeeId"), item["grossPayItemType"] == "CustomBonus", _parse_money(item["amount"]))
            )
    counted = set()
    for order in store.rows("purchase_orders"):
        if (job := books.jobs.get(order.get("jobId"))) and order["status"] != "Canceled":
            job.purchases += _parse_money(order["total"])
            counted.add((order["id"], job.id))
    for bill in store.rows("vendor_bills"):
        job = books.jobs.get(bill["jobId"])
        if job and (bill["purchaseOrderId"], job.id) not in counted:
            job.purchases += _parse_money(bill["billAmount"])
    for item in _iterate_active(store, "returns"):
        if job := books.jobs.get(item.get("jobId")):
            job.returns += _parse_money(item["returnAmount"])


def _add_invoices(store: Store, books: Books) -> dict[int, Invoice]:
    invoices = {}
    for record in _iterate_active(store, "invoices"):
        job = books.jobs.get(_get_id(record.get("job")))
        items = record.get("items") or ()
        parts = (item.get("totalCost") for item in items if item["type"] in ("Material", "Equipment"))
        invoice = invoices[record["id"]] = Invoice(
            id=record["id"],
            number=record.get("referenceNumber"),
            job=job.id if job else None,
            unit=job.unit if job else _get_id(record.get("businessUnit")),
            customer=_get_name(record.get("customer")),
            location=_get_id(record.get("location")),
            location_name=_get_name(record.get("location")),
            invoiced=record.get("invoiceDate"),
            subtotal=_parse_money(record.get("subTotal")),
            total=_parse_money(record.get("total")),
            balance=_parse_money(record.get("balance")),
            parts=sum(map(_parse_money, parts), ZERO),
        )
        books.movements.append(Movement(invoice, parse_calendar_day(invoice.invoiced), invoice.total))
        if job:
            job.subtotal += invoice.subtotal
            job.adjusted += invoice.subtotal if record.get("adjustmentToId") else ZERO
            job.parts += invoice.parts
            job.invoiced = min(filter(None, (job.invoiced, invoice.invoiced)), default=None)
    return invoices


def _add_payments(store: Store, books: Books, invoices: Mapping[int, Invoice]) -> None:
    for payment in _iterate_active(store, "payments"):
        unit = _get_id(payment.get("businessUnit"))
        row = Collected(
            payment=payment["id"],
            type=payment.get("type"),
            customer=_get_name(payment.get("customer")),
            unit=unit,
            paid=payment.get("date"),
            invoice=None,
            amount=_parse_money(payment.get("unappliedAmount")),
        )
        for application in payment.get("appliedTo") or ():
            amount = _parse_money(application.get("appliedAmount"))
            invoice = invoices.get(application["appliedTo"])
            if invoice:
                books.movements.append(Movement(invoice, books.day(application.get("appliedOn")), -amount))
            number, receiver = application.get("appliedToReferenceNumber"), invoice.unit if invoice else unit
            books.collected.append(row._replace(unit=receiver, invoice=number, amount=amount, settled=invoice))
            if invoice and invoice.job:
                job = books.jobs[invoice.job]
                job.paid = max(filter(None, (job.paid, row.paid)), default=None)
        if row.amount:
            books.collected.append(row)


def _add_credit_memos(store: Store, books: Books, invoices: Mapping[int, Invoice]) -> None:
    for memo in _iterate_active(store, "credit_memos"):
        rest = Credit(
            memo=memo["id"],
            unit=_get_id(memo.get("businessUnit")),
            customer=_get_id(memo.get("customer")),
            location=_get_id(memo.get("location")),
            day=parse_calendar_day(memo["date"]),
            amount=_parse_money(memo["balance"]),
        )
        if rest.amount:
            books.credits.append(rest)
        for application in memo.get("appliedTo") or ():
            if invoice := invoices.get(application["appliedTo"]):
                day, amount = parse_calendar_day(application["appliedOn"]), _parse_money(application["appliedAmount"])
                books.credits.append(
                    rest._replace(unit=invoice.unit, location=invoice.location, day=day, amount=amount, settled=invoice)
                )


class Period(NamedTuple):
    """Days from `first` to `last`, both included."""

    first: date
    last: date


def _list_days(first: date, last: date) -> Iterable[date]:
    return (first + DAY * n for n in range((last - first).days + 1))


def _find_monday(day: date) -> date:
    return day - DAY * day.weekday()


def _find_first_monday(books: Books, as_of: date) -> date:
    created = (books.day(job.created) for job in books.jobs.values())
    return _find_monday(min((day for day in created if day != date.min), default=as_of))


def _add_year(day: date) -> date:
    """Return the same day of the next year; 28 February for the 29th."""
    return day.replace(year=day.year + 1) if (day.month, day.day) != (2, 29) else date(day.year + 1, 2, 28)


def compute_weekly_kpis(
    store: Store, units: Sequence[Mapping[str, str]], time_zone: str, as_of: date, rules: JobTypeRules = PAINTER
) -> dict[Key, Kpis]:
    """Compute the KPIs of each rolled-up unit and week, keyed by (unit, Monday), up to the week of `as_of`.

    `units` are the rows of the rollup file (`business_unit, rollup, region, division, segment`), `rules` those of the
    job types. Counts are int, money
    Decimal, ratios exact Fractions, None where the denominator is zero.
    """
    books = read_books(store, time_zone, rules)
    mondays = list(_list_days(_find_first_monday(books, as_of), as_of))[::7]
    return _compute_kpis(books, units, [Period(monday, min(monday + 6 * DAY, as_of)) for monday in mondays])


def compute_daily_kpis(
    store: Store, units: Sequence[Mapping[str, str]], time_zone: str, as_of: date, rules: JobTypeRules = PAINTER
) -> dict[Key, Kpis]:
    """Compute the KPIs of each unit and day, keyed by (unit, day), from the first week's Monday to `as_of`."""
    books = read_books(store, time_zone, rules)
    return _compute_kpis(
        books, units, [Period(day, day) for day in _list_days(_find_first_monday(books, as_of), as_of)]
    )


def _compute_kpis(books: Books, units: Sequence[Mapping[str, str]], periods: Sequence[Period]) -> dict[Key, Kpis]:
    rollup = {row["business_unit"]: row for row in units}
    place = {id: _find_place(name, rollup) for id, name in books.units.items()}
    first_of = {day: period.first for period in periods for day in _list_days(*period)}

    def group(division: str, rows: Iterable[tuple[int | None, date | None, Any]]) -> Mapping[Key, list[Any]]:
        """Group the measures of a division's (unit id, day, measure) rows by rolled-up unit and period."""
        groups = defaultdict(list)
        for unit_id, day, measure in rows:
            unit, divisions = place.get(unit_id, NOWHERE)
            if division in divisions and day in first_of:
                groups[unit, first_of[day]].append(measure)
        return groups

    day = books.day
    jobs = books.jobs.values()
    leads = group("Sales", ((job.unit, day(job.created), job.customer) for job in jobs if job.is_lead))
    estimates = group("Sales", ((job.unit, day(job.completed), job) for job in jobs if job.is_completed_estimate))
    opportunities = group(
        "Sales", ((job.unit, day(find_opportunity_instant(job)), job.closed) for job in jobs if job.is_opportunity)
    )
    booked = group("Sales", ((e.unit, day(e.sold_on), e.subtotal) for e in books.estimates if e.sold))
    scheduled = group(
        "Sales", ((job.unit, day(start), job.id) for job in jobs if job.is_estimate for start in job.visits)
    )
    production = group("Production", ((job.unit, day(job.start), job) for job in jobs if job.is_production))
    collected = group("Production", ((row.unit, parse_calendar_day(row.paid), row.amount) for row in books.collected))
    bookings = [
        (place[job.unit][0], day(job.created), day(job.start), job.subtotal)
        for job in jobs
        if "Production" in place.get(job.unit, NOWHERE)[1] and job.is_production and job.status != "Canceled"
    ]
    future = _sum_future_bookings(bookings, periods)
    movements = [
        (move.day, place[move.invoice.unit][0], move.invoice.location, move.amount)
        for move in books.movements
        if move.day and "Production" in place.get(move.invoice.unit, NOWHERE)[1]
    ]
    receivable = _sum_receivables(movements, periods)

    table = {}
    for key in ((unit, period.first) for unit in sorted({unit for unit, _ in place.values()}) for period in periods):
        produced = sum((job.subtotal for job in production[key]), ZERO)
        labor = sum((job.labor for job in production[key]), ZERO)
        cost = sum((job.full_cost for job in production[key]), ZERO)
        warranty = sum((job.full_cost for job in production[key] if job.is_warranty), ZERO)
        table[key] = {
            "leads": len(set(leads[key])),
            "estimates": len(estimates[key]),
            "success_rate": _divide(sum(opportunities[key]), len(opportunities[key])),
            "total_booked": sum(booked[key], ZERO),
            "dollars_produced": produced,
            "gpm": _divide(produced - labor, produced),
            "gpm_full": _divide(produced - cost, produced),
            "warranty_rate": _divide(warranty, produced),
            "future_bookings": future[key],
            "dollars_collected": sum(collected[key], ZERO),
            "outstanding_ar": receivable[key],
            "estimates_scheduled": len(set(scheduled[key])),
        }
    return table


def _find_place(name: str, rollup: Mapping[str, Mapping[str, str]]) -> tuple[str, tuple[str, ...]]:
    """Look up the rolled-up name of a unit and the divisions that it counts for."""
    row = rollup.get(name.strip(), {})
    division = (row.get("division") or "").strip()
    return row.get("rollup") or name, ("Sales", "Production") if division in ("", "Both") else (division,)


def find_opportunity_instant(job: Job) -> str | None:
    """Return when the job's first estimate was sold, else when it was completed."""
    return min((e.sold_on for e in job.estimates if e.sold and e.sold_on), default=job.completed)


def _divide(part: int | Decimal, whole: int | Decimal) -> Fraction | None:
    return Fraction(part) / Fraction(whole) if whole else None


def _sum_future_bookings(
    jobs: Iterable[tuple[str, date, date, Decimal]], periods: Sequence[Period]
) -> Mapping[Key, Decimal]:
    """Sum by unit the (unit, created, start, amount) jobs that each period's last day has ahead.

    They are known on that day and start from its Monday to the same day of the next year, included.
    """
    sums = defaultdict(Decimal)
    for first, last in periods:
        monday, horizon = _find_monday(last), _add_year(_find_monday(last))
        for unit, created, start, amount in jobs:
            if created <= last and monday <= start <= horizon:
                sums[unit, first] += amount
    return sums


def _sum_receivables(
    movements: Iterable[tuple[date, str, int | None, Decimal]], periods: Sequence[Period]
) -> Mapping[Key, Decimal]:
    """Sum by unit what its locations owe at each period's end, from (day, unit, location, amount) movements."""
    ahead = sorted(movements, key=itemgetter(0), reverse=True)
    owed, sums = defaultdict(Decimal), defaultdict(Decimal)
    for first, last in periods:
        while ahead and ahead[-1][0] <= last:
            _, unit, location, amount = ahead.pop()
            owed[unit, location] += amount
        for (unit, _), amount in owed.items():
            if amount >= SMALLEST_RECEIVABLE:
                sums[unit, first] += amount
    return sums
