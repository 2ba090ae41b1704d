"""What every option of the catalog counts, once more in plain Python, from the records of the made-up company's API.

It is written from what people say of an option, and nothing of it is read from the catalog or from any SQL. `OPTIONS`
has each KPI's dimensions, and of each option what it asks of a row, of a day, or of the rows of a period.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date, datetime, timedelta
from decimal import Decimal
from fractions import Fraction
from functools import cached_property
from itertools import chain
from operator import attrgetter, itemgetter
from typing import Any, NamedTuple
from zoneinfo import ZoneInfo

from sandbox.painting import PAINTING
from sandbox.records import Record, Unit

ZERO = Decimal(0)
UNITS = {unit.id: unit for unit in PAINTING.units}
RULES = PAINTING.rules

Records = Mapping[str, Sequence[Record]]
Day = datetime | date | None  # an instant, or a calendar date, which has no time zone
Number = int | Decimal | Fraction | None


# --- the rows that may count ------------------------------------------------------------------------------------------


@dataclass(kw_only=True)
class Job:
    """A job, the names of what it refers to, and its records; of estimates, invoices and returns the active ones."""

    unit: Unit
    customer: int
    root_customer: int
    location: int
    customer_name: str | None
    customer_is_active: bool
    type: str
    type_is_active: bool
    threshold: Decimal
    status: str
    is_no_charge: bool
    has_warranty: bool
    created: datetime
    completed: datetime | None
    start: datetime
    estimates: list[Record] = field(default_factory=list)
    invoices: list[Record] = field(default_factory=list)
    pay: list[Record] = field(default_factory=list)
    orders: list[Record] = field(default_factory=list)
    bills: list[Record] = field(default_factory=list)
    returns: list[Record] = field(default_factory=list)

    @cached_property
    def sales(self) -> list[Record]:
        return [estimate for estimate in self.estimates if is_sold(estimate)]

    @cached_property
    def first_sale(self) -> datetime | None:
        return min(filter(None, (read_instant(sale["soldOn"]) for sale in self.sales)), default=None)

    @cached_property
    def opportunity(self) -> datetime | None:
        return self.first_sale or self.completed

    @cached_property
    def invoiced(self) -> date | None:
        return min(filter(None, (read_day(invoice["invoiceDate"]) for invoice in self.invoices)), default=None)

    @cached_property
    def subtotal(self) -> Decimal:
        return add("subTotal", self.invoices)

    @cached_property
    def materials(self) -> Decimal:
        items = chain.from_iterable(invoice["items"] or () for invoice in self.invoices)
        return add("totalCost", (item for item in items if item["type"] in ("Material", "Equipment")))

    @cached_property
    def labor(self) -> Decimal:
        return add("amount", self.pay)

    @cached_property
    def counted_orders(self) -> list[Record]:
        return [order for order in self.orders if order["status"] != "Canceled"]

    @cached_property
    def bills_of_orders(self) -> list[Record]:
        counted = {order["id"] for order in self.counted_orders}
        return [bill for bill in self.bills if bill["purchaseOrderId"] in counted]

    @cached_property
    def other_bills(self) -> Decimal:
        """What vendors billed without an order that is counted already."""
        return add("billAmount", self.bills) - add("billAmount", self.bills_of_orders)

    @cached_property
    def full_cost(self) -> Decimal:
        bought = add("total", self.counted_orders) + self.other_bills + self.materials
        return self.labor + bought - add("returnAmount", self.returns)

    @cached_property
    def full_cost_with_canceled_orders(self) -> Decimal:
        """As above, if a canceled order counts: then its bill does not."""
        canceled = {order["id"] for order in self.orders if order["status"] == "Canceled"}
        billed = add("billAmount", (bill for bill in self.bills if bill["purchaseOrderId"] in canceled))
        return self.full_cost + add("total", self.orders) - add("total", self.counted_orders) - billed

    @cached_property
    def is_warranty_type(self) -> bool:
        return self.type in RULES.warranty

    @cached_property
    def is_warranty(self) -> bool:
        return self.is_warranty_type or self.has_warranty

    @cached_property
    def is_warranty_by_similar_names(self) -> bool:
        return self.has_warranty or "Warranty" in self.type or "Touchup" in self.type


@dataclass(kw_only=True)
class Row:
    """A record that may count, or a part of one. `unit` is its job's, else its own; `days` by option of `date`."""

    kind: str
    unit: Unit | None
    own_unit: Unit | None
    days: Mapping[str, Day]
    job: Job | None = None
    customer: int | None = None
    location: int | None = None
    invoice: int | None = None
    status: str | None = None
    is_active: bool = True
    payment_is_active: bool = True
    is_sold: bool = False
    is_change_order: bool = False
    is_adjustment: bool = False
    amount: Decimal = ZERO
    total: Decimal = ZERO
    before_adjustments: Decimal = ZERO
    income: Decimal = ZERO
    before_tax: Decimal = ZERO

    @property
    def type(self) -> str:
        return self.job.type if self.job else ""

    @property
    def job_status(self) -> str:
        return self.job.status if self.job else ""

    @property
    def customer_name(self) -> str | None:
        return self.job and self.job.customer_name

    def is_known(self, day: date) -> bool:
        """Whether its job was booked by the end of a day."""
        return self.job is not None and place(self.job.created, ZONES["tenant"]) <= day

    @property
    def estimates(self) -> int:
        return len(self.job.estimates) if self.job else 0

    @property
    def sales(self) -> int:
        return len(self.job.sales) if self.job else 0


def read_instant(text: str | None) -> datetime | None:
    return datetime.fromisoformat(text) if text else None


def read_day(text: str | None) -> date | None:
    """Read a calendar date, which the API gives as midnight UTC."""
    return date.fromisoformat(text[:10]) if text else None


def add(name: str, records: Iterable[Record]) -> Decimal:
    return sum((Decimal(str(record[name])) for record in records), ZERO)


def is_sold(estimate: Record) -> bool:
    return estimate["status"]["name"] == "Sold"


def is_income(item: Record) -> bool:
    account = item["generalLedgerAccount"]
    return account is None or account["type"] == "Income"


def list_jobs(records: Records) -> dict[int, Job]:
    """Every job by its id."""
    types, customers, starts = (
        {record["id"]: record for record in records[name]} for name in ("job_types", "customers", "appointments")
    )

    def find_root(customer: int) -> int:
        target = customers.get(customer, {}).get("mergedToId")
        return find_root(target) if target in customers else customer

    jobs = {}
    for job in records["jobs"]:
        kind, customer = types.get(job["jobTypeId"], {}), customers.get(job["customerId"], {})
        first = starts.get(job["firstAppointmentId"], {}).get("start")
        jobs[job["id"]] = Job(
            unit=UNITS[job["businessUnitId"]],
            customer=job["customerId"],
            root_customer=find_root(job["customerId"]),
            location=job["locationId"],
            customer_name=customer.get("name"),
            customer_is_active=customer.get("active", True),
            type=kind.get("name") or "",
            type_is_active=kind.get("active", False),
            threshold=Decimal(str(kind.get("soldThreshold") or 0)),
            status=job["jobStatus"] or "",
            is_no_charge=job["noCharge"],
            has_warranty=job["warrantyId"] is not None,
            created=read_instant(job["createdOn"]),
            completed=read_instant(job["completedOn"]),
            start=read_instant(first or job["completedOn"] or job["createdOn"]),
        )
    for name, resource in (("pay", "payroll"), ("orders", "purchase_orders"), ("bills", "vendor_bills")):
        for record in records[resource]:
            if record["jobId"] in jobs:
                getattr(jobs[record["jobId"]], name).append(record)
    for name in ("estimates", "returns"):
        for record in records[name]:
            if record["jobId"] in jobs and record["active"]:
                getattr(jobs[record["jobId"]], name).append(record)
    for invoice in records["invoices"]:
        if invoice["active"] and invoice["job"]:
            jobs[invoice["job"]["id"]].invoices.append(invoice)
    return jobs


def list_job_rows(records: Records) -> list[Row]:
    """Every job, appointment, estimate, invoice and invoice item."""
    jobs = list_jobs(records)

    def make(kind: str, job: Job | None, own_unit: Unit | None, days: Mapping[str, Day], **more: Any) -> Row:
        of_job = {name: getattr(job, name, None) for name in ("created", "completed", "start", "opportunity")}
        return Row(
            kind=kind, job=job, unit=job.unit if job else own_unit, own_unit=own_unit, days=of_job | days, **more
        )

    rows = []
    for job in jobs.values():
        items = [item for invoice in job.invoices for item in invoice["items"] or ()]
        rows.append(
            make(
                *("job", job, job.unit, {"own": job.created, "sold": job.first_sale, "invoiced": job.invoiced}),
                customer=job.customer,
                location=job.location,
                status=job.status,
                is_sold=bool(job.sales),
                amount=job.subtotal,
                total=add("total", job.invoices),
                before_adjustments=add("subTotal", (each for each in job.invoices if not each["adjustmentToId"])),
                income=job.subtotal - add("total", (item for item in items if not is_income(item))),
            )
        )
    for visit in records["appointments"]:
        if job := jobs.get(visit["jobId"]):
            days = {"start": read_instant(visit["start"]), "own": read_instant(visit["createdOn"])}
            more = {"customer": job.customer, "location": job.location}
            rows.append(make("appointment", job, None, days, status=visit["status"], is_active=visit["active"], **more))
    for estimate in records["estimates"]:
        rows.append(
            make(
                *("estimate", jobs.get(estimate["jobId"]), UNITS.get(estimate["businessUnitId"])),
                {"own": read_instant(estimate["createdOn"]), "sold": read_instant(estimate["soldOn"])},
                customer=estimate["customerId"],
                location=estimate["locationId"],
                is_active=estimate["active"],
                is_sold=is_sold(estimate),
                is_change_order=estimate["isChangeOrder"],
                amount=add("subtotal", [estimate]),
                total=add("subtotal", [estimate]) + add("tax", [estimate]),
            )
        )
    for invoice in records["invoices"]:
        job = jobs.get((invoice["job"] or {}).get("id"))
        days = {"own": read_instant(invoice["createdOn"]), "invoiced": read_day(invoice["invoiceDate"])}
        items = invoice["items"] or ()
        rows.append(
            make(
                *("invoice", job, UNITS[invoice["businessUnit"]["id"]], days),
                is_active=invoice["active"],
                amount=add("subTotal", [invoice]),
                total=add("total", [invoice]),
                before_adjustments=add("subTotal", [] if invoice["adjustmentToId"] else [invoice]),
                income=add("subTotal", [invoice]) - add("total", (item for item in items if not is_income(item))),
            )
        )
        for item in items:
            rows.append(
                make(
                    *("item", job, UNITS[item["businessUnit"]["id"]], days | {"sold": job and job.first_sale}),
                    is_active=invoice["active"],
                    is_sold=bool(job and job.sales),
                    amount=add("total", [item]),
                    total=add("total", [item]),
                    before_adjustments=add("total", [] if invoice["adjustmentToId"] else [item]),
                    income=add("total", [item] if is_income(item) else []),
                )
            )
    return rows


class Placed(NamedTuple):
    """An invoice, and the unit of its job, else its own."""

    record: Record
    unit: Unit


def list_invoices(records: Records) -> dict[int, Placed]:
    """Every invoice by its id."""
    units = {job["id"]: UNITS[job["businessUnitId"]] for job in records["jobs"]}
    return {
        invoice["id"]: Placed(
            invoice, units[invoice["job"]["id"]] if invoice["job"] else UNITS[invoice["businessUnit"]["id"]]
        )
        for invoice in records["invoices"]
    }


def list_payment_rows(records: Records) -> list[Row]:
    """What every payment applied to an invoice, and what it left unapplied."""
    invoices, rows = list_invoices(records), []
    for payment in records["payments"]:
        own_unit = UNITS[payment["businessUnit"]["id"]]
        paid, midnight = read_day(payment["date"]), read_instant(payment["date"])
        days = {"paid": paid, "paid_shifted": midnight, "entered": read_instant(payment["createdOn"])}
        common = {"own_unit": own_unit, "is_active": payment["active"]}
        for part in payment["appliedTo"] or ():
            found = invoices.get(part["appliedTo"])
            invoice = found.record if found and found.record["active"] else None
            rows.append(
                Row(
                    kind="application",
                    unit=found.unit if invoice else own_unit,
                    days=days
                    | {
                        "applied": read_instant(part["appliedOn"]),
                        "invoiced": read_day(invoice and invoice["invoiceDate"]),
                    },
                    is_adjustment=bool(invoice and invoice["adjustmentToId"]),
                    amount=add("appliedAmount", [part]),
                    **common,
                )
            )
        if rest := add("unappliedAmount", [payment]):
            never = {"applied": None, "invoiced": None}
            rows.append(Row(kind="unapplied", unit=own_unit, days=days | never, amount=rest, **common))
    return rows


def list_receivable_rows(records: Records) -> list[Row]:
    """What every invoice added to what is owed, and what payments and credit memos took from it, applied or not."""
    invoices, zone, rows = list_invoices(records), ZoneInfo(PAINTING.time_zone), []
    homes: dict[int, int] = {}  # of each customer the first location
    for location in records["locations"]:
        homes[location["customerId"]] = min(location["id"], homes.get(location["customerId"], location["id"]))

    def make(kind: str, invoice: Placed, days: Mapping[str, Day], **more: Any) -> Row:
        record, unit = invoice
        return Row(
            kind=kind,
            unit=unit,
            own_unit=UNITS[record["businessUnit"]["id"]],
            days=days,
            customer=record["customer"]["id"],
            location=record["location"]["id"],
            invoice=record["id"],
            is_active=record["active"],
            is_adjustment=bool(record["adjustmentToId"]),
            **more,
        )

    for invoice in invoices.values():
        record, day = invoice.record, read_day(invoice.record["invoiceDate"])
        days = {"moved": day, "moved_utc": day, "paid": day, "entered": place(read_instant(record["createdOn"]), zone)}
        amounts = {"amount": add("total", [record]), "before_tax": add("subTotal", [record])}
        rows.append(make("invoiced", invoice, days, **amounts))
    for name, kind in (("payments", "applied"), ("credit_memos", "credited")):
        for record in records[name]:
            for part in record["appliedTo"] or ():
                if part["appliedTo"] in invoices:
                    amount = -add("appliedAmount", [part])
                    on = read_instant(part["appliedOn"]) if kind == "applied" else read_day(part["appliedOn"])
                    moved = place(on, zone)
                    days = {"moved": moved, "moved_utc": place(on, ZoneInfo("UTC")), "entered": moved}
                    rows.append(
                        make(
                            *(kind, invoices[part["appliedTo"]], days | {"paid": read_day(record["date"])}),
                            payment_is_active=record["active"],
                            amount=amount,
                            before_tax=amount,
                        )
                    )
    for name, kind, rest in (
        ("payments", "unapplied", "unappliedAmount"),
        ("credit_memos", "unapplied_credit", "balance"),
    ):
        for record in records[name]:
            customer, unit = record["customer"]["id"], UNITS[record["businessUnit"]["id"]]
            own_location = (record.get("location") or {}).get("id")
            rows.append(
                Row(
                    kind=kind,
                    unit=unit,
                    own_unit=unit,
                    days=dict.fromkeys(("moved", "moved_utc", "paid", "entered"), read_day(record["date"])),
                    customer=customer,
                    location=own_location or homes.get(customer),
                    payment_is_active=record["active"],
                    amount=-add(rest, [record]),
                    before_tax=-add(rest, [record]),
                )
            )
    return rows


def place(day: Day, zone: ZoneInfo) -> date | None:
    """Return the day of an instant by a zone; a calendar date is that day in all of them."""
    return day.astimezone(zone).date() if isinstance(day, datetime) else day


# --- what an option asks of a row -------------------------------------------------------------------------------------


def accept(row: Row) -> bool:
    return True


def is_kind(*kinds: str) -> Callable[[Row], bool]:
    return lambda row: row.kind in kinds


def is_in_use(row: Row) -> bool:
    return bool(row.job and row.job.type_is_active)


def is_estimate(row: Row) -> bool:
    return "estimate" in row.type.lower()


def is_test(row: Row) -> bool:
    return "test" in (row.customer_name or "").lower()


def is_production(row: Row) -> bool:
    return row.type not in RULES.not_production


def is_completed(row: Row) -> bool:
    return row.job_status == "Completed"


def is_not_canceled(row: Row) -> bool:
    return row.job_status != "Canceled"


def is_open(row: Row) -> bool:
    return row.job_status not in ("Completed", "Canceled")


def has_sale(row: Row) -> bool:
    return row.sales > 0


def is_opportunity(row: Row) -> bool:
    return is_completed(row) or has_sale(row)


def is_charged(row: Row) -> bool:
    """Not a visit at no charge, which has no estimate and invoices of $0."""
    return row.estimates > 0 or bool(row.job and row.job.subtotal)


JOB = {"job": is_kind("job")}
ESTIMATE_TYPE = {
    "estimate": is_estimate,
    "case": lambda row: "Estimate" in row.type,
    "begins": lambda row: row.type.lower().startswith("estimate"),
    "active": lambda row: is_estimate(row) and is_in_use(row),
    "no_comm": lambda row: is_estimate(row) and "COMM." not in row.type,
    "any": accept,
}
ANY_TYPE = {"any": accept, "estimate": is_estimate, "active": is_in_use}
PRODUCTION_TYPE = {
    "listed": is_production,
    "any": accept,
    "similar": lambda row: "Inspection" not in row.type and "Washing" not in row.type,
    "active": lambda row: is_production(row) and is_in_use(row),
}
PRODUCTION_STATUS = {"any": accept, "completed": is_completed, "not_canceled": is_not_canceled}
TEST_CUSTOMERS = {"counted": accept, "excluded": lambda row: not is_test(row)}
ACTIVE = {"active": lambda row: row.is_active, "any": accept}
ADJUSTMENTS = {"counted": accept, "left_out": lambda row: not row.is_adjustment}
SEGMENT = {"all": accept, "residential": lambda row: not row.unit or row.unit.segment != "COMM"}


# --- where it counts, and when ----------------------------------------------------------------------------------------


class Days(NamedTuple):
    """The days that count for a period, both included, and the last on which a job may have been booked."""

    first: date
    last: date
    known_by: date | None = None


def find_monday(day: date) -> date:
    return day - timedelta(day.weekday())


def add_years(day: date, years: int) -> date:
    """Return the day some years on; 28 February for the 29th of a year without it."""
    try:
        return day.replace(year=day.year + years)
    except ValueError:
        return day.replace(year=day.year + years, day=28)


def add_year(day: date) -> date:
    return add_years(day, 1)


DAY = timedelta(days=1)
JOB_DATES = ("start", "completed", "created", "invoiced", "own")
ZONES = {
    "tenant": ZoneInfo(PAINTING.time_zone),
    "utc": ZoneInfo("UTC"),
    "los_angeles": ZoneInfo("America/Los_Angeles"),
    "denver": ZoneInfo("America/Denver"),
    "new_york": ZoneInfo("America/New_York"),
}
NO_ZONE = {"tenant": ZONES["tenant"]}
WINDOWS = {
    "inclusive": Days,
    "exclusive_end": lambda first, last: Days(first, last - DAY),
    "late_end": lambda first, last: Days(first, last + DAY),
    "sunday_to_saturday": lambda first, last: Days(first - DAY, last - DAY),
}
AHEAD = {
    "year": lambda first, last: Days(find_monday(last), add_year(find_monday(last)), last),
    "today": lambda first, last: Days(find_monday(last), add_year(find_monday(last))),
    "last_day": lambda first, last: Days(find_monday(last), add_year(last), last),
    "after": lambda first, last: Days(last + DAY, add_year(last), last),
    "after_today": lambda first, last: Days(last + DAY, add_year(last)),
    "from_last": lambda first, last: Days(last, add_year(last), last),
    "quarter": lambda first, last: Days(find_monday(last), last + 90 * DAY, last),
}
AS_OF = {
    "last": lambda first, last: Days(date.min, last),
    "before": lambda first, last: Days(date.min, last - DAY),
    "next": lambda first, last: Days(date.min, last + DAY),
}
SHIFTS = {"none": lambda day: day, "year": lambda day: add_years(day, -1), "weeks_52": lambda day: day - 364 * DAY}
JOB_UNIT = {"job": attrgetter("unit")}
ANY_UNIT = JOB_UNIT | {"own": attrgetter("own_unit")}
ROLLUP = {"rolled_up": attrgetter("rollup"), "exact": attrgetter("name")}


# --- what is made of the rows of a period -----------------------------------------------------------------------------

Measure = Callable[[Sequence[Row]], Number]
Amount = Callable[[Row], Any]


def count_distinct(name: str) -> Measure:
    """Count the different ids or names, of the row or of its job; none is not one of them."""
    return lambda rows: len(set(map(attrgetter(name), rows)) - {None})


def total(amount: Amount) -> Measure:
    return lambda rows: sum(map(amount, rows), ZERO)


def divide(part: Amount, whole: Amount) -> Measure:
    """A ratio of sums; None without a denominator."""

    def measure(rows: Sequence[Row]) -> Fraction | None:
        over, under = (Fraction(sum(map(amount, rows))) for amount in (part, whole))
        return over / under if under else None

    return measure


def owe(name: str, least: int, amount: Amount = attrgetter("amount")) -> Measure:
    """What is owed by those, each of them by himself, who owe so much at least."""

    def measure(rows: Sequence[Row]) -> Decimal:
        owed: dict[int | None, Decimal] = defaultdict(Decimal)
        for row in rows:
            owed[getattr(row, name)] += amount(row)
        return sum((each for each in owed.values() if each >= least), ZERO)

    return measure


def leave(*costs: Amount, produced: Amount = attrgetter("amount")) -> Measure:
    """The share of the dollars produced that the costs leave."""
    return divide(lambda row: produced(row) - sum(cost(row) for cost in costs), produced)


def cost_of(is_warranty: str, cost: Callable[[Job], Decimal] = attrgetter("full_cost")) -> Amount:
    """What a job cost, if it is warranty work."""
    return lambda row: cost(row.job) if getattr(row.job, is_warranty) else ZERO


produced, labor, full_cost = attrgetter("amount"), attrgetter("job.labor"), attrgetter("job.full_cost")
COUNTS = {"rows": len, "customers": count_distinct("customer"), "locations": count_distinct("location")}


# --- the KPIs ---------------------------------------------------------------------------------------------------------

SALES = {"zone": ZONES, "window": WINDOWS, "shift": SHIFTS, "attribution": JOB_UNIT, "rollup": ROLLUP}
SALES |= {"test_customers": TEST_CUSTOMERS, "segment": SEGMENT}
PRODUCTION = SALES | {"entity": JOB, "job_type": PRODUCTION_TYPE, "status": PRODUCTION_STATUS, "date": JOB_DATES}

OPTIONS: dict[str, dict[str, Any]] = {
    "leads": {
        **SALES,
        "measure": COUNTS
        | {"merged_customers": count_distinct("job.root_customer"), "names": count_distinct("customer_name")},
        "entity": JOB | {"estimate": lambda row: row.kind == "estimate" and row.is_active},
        "job_type": ESTIMATE_TYPE,
        "status": {
            "any": accept,
            "not_canceled": is_not_canceled,
            "completed": is_completed,
            "sold": has_sale,
            "opportunity": is_opportunity,
            "open": is_open,
        },
        "test_customers": TEST_CUSTOMERS
        | {"unnamed_out": lambda row: row.customer_name is not None and not is_test(row)},
        "customer": {"any": accept, "active": lambda row: row.job.customer_is_active},
        "date": ("created", "completed", "start", "sold", "own"),
    },
    "estimates_scheduled": {
        **SALES,
        "measure": COUNTS | {"jobs": lambda rows: len({id(row.job) for row in rows})},
        "entity": JOB | {"appointment": is_kind("appointment")},
        "active": ACTIVE,
        "job_type": ESTIMATE_TYPE,
        "status": {
            "not_canceled": lambda row: row.status != "Canceled",
            "any": accept,
            "done": lambda row: row.status in ("Done", "Completed"),
            "job_not_canceled": lambda row: row.status != "Canceled" and is_not_canceled(row),
        },
        "date": ("start", "own", "created", "completed"),
    },
    "estimates": {
        **SALES,
        "measure": COUNTS,
        "entity": JOB | {"estimate": lambda row: row.kind == "estimate" and row.is_active},
        "job_type": ESTIMATE_TYPE,
        "status": {
            "completed": is_completed,
            "opportunity": is_opportunity,
            "not_canceled": is_not_canceled,
            "any": accept,
            "sold": has_sale,
        },
        "no_charge": {"counted": accept, "excluded": is_charged},
        "date": ("completed", "created", "start", "sold", "opportunity", "own"),
    },
    "success_rate": {
        **SALES,
        "measure": {
            "jobs": divide(has_sale, lambda row: 1),
            "threshold": divide(
                lambda row: has_sale(row) and add("subtotal", row.job.sales) >= row.job.threshold, lambda row: 1
            ),
            "estimates": divide(attrgetter("sales"), attrgetter("estimates")),
        },
        "entity": JOB,
        "job_type": ANY_TYPE,
        "status": {
            "opportunity": is_opportunity,
            "completed": is_completed,
            "not_canceled": is_not_canceled,
            "any": accept,
        },
        "no_charge": {
            "excluded": is_charged,
            "counted": accept,
            "flag": lambda row: not row.job.is_no_charge,
            "with_estimate": lambda row: row.estimates > 0,
        },
        "date": ("opportunity", "completed", "created", "sold", "start"),
    },
    "total_booked": {
        **SALES,
        "measure": {"subtotal": total(attrgetter("amount")), "total": total(attrgetter("total"))},
        "entity": JOB | {"estimate": is_kind("estimate"), "item": is_kind("item")},
        "active": ACTIVE,
        "status": {"sold": lambda row: row.is_sold, "dated": lambda row: row.days["sold"] is not None},
        "change_orders": {"counted": accept, "left_out": lambda row: not row.is_change_order},
        "job_type": ANY_TYPE,
        "job": {"any": accept, "with_job": lambda row: row.job is not None, "completed": is_completed},
        "date": ("sold", "own", "completed", "created", "opportunity"),
        "attribution": ANY_UNIT,
    },
    "dollars_produced": {
        **PRODUCTION,
        "measure": {
            "subtotal": total(produced),
            "total": total(attrgetter("total")),
            "without_adjustments": total(attrgetter("before_adjustments")),
            "income": total(attrgetter("income")),
        },
        "entity": JOB
        | {
            "invoice": lambda row: row.kind == "invoice" and row.is_active,
            "item": lambda row: row.kind == "item" and row.is_active,
        },
        "attribution": ANY_UNIT,
    },
    "gpm": {
        **PRODUCTION,
        "measure": {
            "labor": leave(labor),
            "full": leave(full_cost),
            "adjusted": leave(labor, lambda row: add("amountAdjustment", row.job.pay)),
            "purchases": leave(labor, lambda row: add("total", row.job.counted_orders)),
            "materials": leave(labor, attrgetter("job.materials")),
            "before_adjustments": leave(labor, produced=attrgetter("before_adjustments")),
            "canceled_orders": leave(attrgetter("job.full_cost_with_canceled_orders")),
            "without_bills": leave(lambda row: row.job.full_cost - row.job.other_bills),
            "all_bills": leave(full_cost, lambda row: add("billAmount", row.job.bills_of_orders)),
        },
    },
    "warranty_rate": {
        **PRODUCTION,
        "measure": {
            "full_cost": divide(cost_of("is_warranty"), produced),
            "labor": divide(cost_of("is_warranty", attrgetter("labor")), produced),
            "type_only": divide(cost_of("is_warranty_type"), produced),
            "id_only": divide(cost_of("has_warranty"), produced),
            "similar": divide(cost_of("is_warranty_by_similar_names"), produced),
            "without_bills": divide(cost_of("is_warranty", lambda job: job.full_cost - job.other_bills), produced),
            "of_cost": divide(cost_of("is_warranty"), full_cost),
        },
    },
    "future_bookings": {
        **PRODUCTION,
        "measure": {
            "subtotal": total(produced),
            "total": total(attrgetter("total")),
            "without_adjustments": total(attrgetter("before_adjustments")),
        },
        "status": {"not_canceled": is_not_canceled, "any": accept, "open": is_open},
        "window": AHEAD,
    },
    "dollars_collected": {
        "measure": {"amount": total(attrgetter("amount"))},
        "entity": {"all": accept, "applied": is_kind("application"), "unapplied": is_kind("unapplied")},
        "active": ACTIVE,
        "sign": {"all": accept, "positive": lambda row: row.amount > 0},
        "adjustments": ADJUSTMENTS,
        "segment": SEGMENT,
        "date": ("paid", "paid_shifted", "applied", "entered", "invoiced"),
        "zone": ZONES,
        "window": WINDOWS,
        "shift": SHIFTS,
        "attribution": {"invoice": attrgetter("unit"), "own": attrgetter("own_unit")},
        "rollup": ROLLUP,
    },
    "outstanding_ar": {
        "measure": {
            "least_10": owe("location", 10),
            "all": total(attrgetter("amount")),
            "positive": owe("location", 0),
            "least_10_customer": owe("customer", 10),
            "least_10_invoice": owe("invoice", 10),
            "before_tax": owe("location", 10, attrgetter("before_tax")),
        },
        "entity": {
            "applied": is_kind("invoiced", "applied"),
            "unapplied": is_kind("invoiced", "applied", "unapplied"),
            "credit_memos": is_kind("invoiced", "applied", "credited"),
            "all_credits": accept,
        },
        "active": {
            "active": lambda row: row.is_active and row.payment_is_active,
            "any": accept,
            "any_payment": lambda row: row.is_active,
        },
        "adjustments": ADJUSTMENTS,
        "segment": SEGMENT,
        "date": ("moved", "moved_utc", "paid", "entered"),
        "zone": NO_ZONE,
        "window": AS_OF,
        "shift": SHIFTS,
        "attribution": ANY_UNIT,
        "rollup": ROLLUP,
    },
}
SALES_KPIS = ("leads", "estimates_scheduled", "estimates", "success_rate", "total_booked")
NOT_CONDITIONS = ("measure", "date", "zone", "window", "shift", "attribution", "rollup")


class Recount:
    """The figures of a company's records (by resource) by any definition: `choices` has an option id per dimension."""

    def __init__(self, records: Records) -> None:
        jobs = list_job_rows(records)
        self.rows = dict.fromkeys(OPTIONS, jobs)
        self.rows["dollars_collected"] = list_payment_rows(records)
        self.rows["outstanding_ar"] = list_receivable_rows(records)

    def count(
        self, kpi: str, choices: Mapping[str, str], units: Iterable[str], periods: Sequence[tuple[date, date]]
    ) -> dict[tuple[str, date, date], Number]:
        """Return the figure of each unit and period (first and last day)."""
        divisions = ("Sales" if kpi in SALES_KPIS else "Production", "")  # without a division a unit is of both
        chosen = {name: OPTIONS[kpi][name][id] for name, id in choices.items() if name != "date"}
        conditions = [asked for name, asked in chosen.items() if name not in NOT_CONDITIONS]
        placed = defaultdict(list)
        for row in self.rows[kpi]:
            unit = chosen["attribution"](row)
            if unit and unit.division in divisions and all(asked(row) for asked in conditions):
                day = place(row.days[choices["date"]], chosen["zone"])
                placed[chosen["rollup"](unit)] += [(day, row)] if day else []
        found = {}
        for unit in units:
            rows = sorted(placed[unit], key=itemgetter(0))
            days = [day for day, _ in rows]
            for period in periods:
                window = chosen["window"](*map(chosen["shift"], period))
                low, high = bisect_left(days, window.first), bisect_right(days, window.last)
                counted = [row for _, row in rows[low:high] if not window.known_by or row.is_known(window.known_by)]
                found[unit, *period] = chosen["measure"](counted)
        return found
