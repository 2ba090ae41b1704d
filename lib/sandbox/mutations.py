"""What happens between two nights: some 400 changes to a populated store, on the local day `step` after LAST_DAY.

New jobs, completions, late sales (some of which leave `modifiedOn` alone), corrected amounts, deactivated records,
merged customers, payments of old invoices, pay that is late, corrected or deleted, corrected vendor bills, credit
memos that become void, calls that are classified anew, memberships that end, and a booking that is deleted. Records of
the known case are left alone, so its figures hold after any number of steps; balances stay totals less active
applications.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from decimal import Decimal
from itertools import count
from random import Random

import numpy as np

from sandbox import lifecycle, records
from sandbox.companies import COMPANIES
from sandbox.lifecycle import Desk, Lead, draw_moment
from sandbox.organization import to_day_number
from sandbox.records import (
    HOUR,
    Application,
    Offer,
    Party,
    Record,
    Stamp,
    Visit,
    format_calendar_day,
    format_instant,
)
from sandbox.resources import RESOURCES
from sandbox.store import Store
from sandbox.tenant import LAST_DAY, compute_shares

LOOKBACK_DAYS = 45  # payroll settles within them


def mutate_store(store: Store, seed: int, step: int) -> None:
    """Apply the changes of the `step`-th day (1, 2, …) after LAST_DAY; the same store, seed and step give the same."""
    company, day = COMPANIES[store.company], to_day_number(LAST_DAY) + step
    ids, numbers = count(company.first_night_id + step * 1_000_000), count(500_000 + step * 1000)
    now = company.clock.make_moment(day, 24)
    desk = Desk(company, store, Random(f"mutations {seed} {step}"), ids, now, numbers)
    lifecycle.write_day(desk, day, 25, compute_shares(company, day))
    _sell_on_the_spot(desk, day)
    _edit_sales(desk, day)
    _edit_money(desk, day)
    _edit_people(desk, day)
    _edit_payroll(desk, day)
    _edit_bills_and_contacts(desk, day)


def _pick_rows(
    desk: Desk, resource: str, number: int, within: np.ndarray | None = None
) -> Iterator[tuple[int, Record]]:
    """Yield `number` random rows that are present and not of the known case, among those where `within` holds."""
    ids = desk.store.column(resource, RESOURCES[resource].id_path)
    eligible = desk.store.present(resource) & ((ids >= desk.company.first_id) | (ids < 0))  # a null id is negative
    if within is not None:
        eligible &= within
    rows = np.flatnonzero(eligible).tolist()
    for row in desk.rng.sample(rows, min(number, len(rows))):
        yield row, desk.store.get(resource, row)


def _edit_rows(
    desk: Desk, resource: str, day: int, number: int, change: Callable[[Record, int], bool | None], *, bump: bool = True
) -> None:
    """Change random rows at moments of a day; where `change` returns False the row stays as it is."""
    for row, record in list(_pick_rows(desk, resource, number)):
        moment = draw_moment(desk, day)
        if change(record, moment) is not False:
            _put_row(desk, resource, row, record, moment, bump=bump)


def _put_row(desk: Desk, resource: str, row: int, record: Record, moment: int, *, bump: bool = True) -> None:
    if bump:
        record["modifiedOn"] = format_instant(moment)
    desk.store.replace(resource, row, record, datetime.fromtimestamp(moment, UTC))


def _deactivate_record(record: Record, _: int) -> None:
    record["active"] = False


def _sell_on_the_spot(desk: Desk, day: int) -> None:
    """Write jobs that were booked, visited, sold and billed within the day."""
    for unit in desk.rng.choices(desk.company.unit_list, k=8):
        created = desk.clock.make_moment(day, 8) + desk.rng.randrange(3 * HOUR)
        party = lifecycle.write_party(desk, unit, created)
        job_type = lifecycle.pick_job_type(desk.rng, desk.company.estimate_types)
        visits = [Visit(created + HOUR, "Done")]
        offers = [Offer(created + 2 * HOUR, lifecycle.draw_cents(desk.rng, 3800), "Sold", created + 3 * HOUR)]
        lead = Lead(party, unit, job_type, created, "Completed", created + 2 * HOUR, visits, offers, fee=8_900)
        lifecycle.write_lead(desk, lead)


def _edit_sales(desk: Desk, day: int) -> None:
    company = desk.company
    elsewhere = [unit for unit in company.units if not company.known or unit.rollup != company.known.rollup]

    def close(job: Record, moment: int) -> bool:
        if job["jobStatus"] not in ("Scheduled", "Hold", "InProgress"):
            return False
        job.update(jobStatus="Completed" if moment % 4 else "Canceled", completedOn=format_instant(moment))
        return True

    def reopen(job: Record, _: int) -> None:
        job.update(jobStatus="InProgress", completedOn=None)

    def move(job: Record, _: int) -> None:
        job["businessUnitId"] = desk.rng.choice(elsewhere).id

    def retype(job: Record, _: int) -> None:
        job["jobTypeId"] = desk.rng.choice(company.estimate_types).id

    _edit_rows(desk, "jobs", day, 250, close)
    _edit_rows(desk, "jobs", day, 4, reopen)
    _edit_rows(desk, "jobs", day, 6, move)
    _edit_rows(desk, "jobs", day, 4, retype)

    def postpone(visit: Record, _: int) -> None:
        for end in ("start", "end"):
            moment = int(datetime.fromisoformat(visit[end][:19] + "+00:00").timestamp())
            visit[end] = format_instant(company.clock.add_days(moment, 3))

    def cancel(visit: Record, _: int) -> None:
        visit["status"] = "Canceled"

    _edit_rows(desk, "appointments", day, 25, postpone)
    _edit_rows(desk, "appointments", day, 10, cancel)
    _edit_rows(desk, "appointments", day, 8, _deactivate_record)

    def sell(estimate: Record, moment: int) -> bool:
        if estimate["status"]["name"] != "Open":
            return False
        estimate.update(
            status={"value": 1, "name": "Sold"}, soldOn=format_instant(moment), soldBy=company.technicians[0]
        )
        return True

    def unsell(estimate: Record, _: int) -> None:
        estimate.update(status={"value": 2, "name": "Dismissed"}, soldOn=None, soldBy=None)

    def reprice(estimate: Record, _: int) -> None:
        estimate["subtotal"] = round(estimate["subtotal"] + 125.5, 2)

    _edit_rows(desk, "estimates", day, 40, sell)
    _edit_rows(desk, "estimates", day, 40, sell, bump=False)
    _edit_rows(desk, "estimates", day, 5, unsell)
    _edit_rows(desk, "estimates", day, 12, reprice)
    _edit_rows(desk, "estimates", day, 6, _deactivate_record)


def _edit_money(desk: Desk, day: int) -> None:
    def add_item(invoice: Record, _: int) -> None:
        for name in ("subTotal", "total", "balance"):
            invoice[name] = f"{Decimal(invoice[name]) + Decimal('75.25'):.2f}"
        line = {"price": "75.25", "total": "75.25", "cost": "12.10", "totalCost": "12.10", "type": "Material"}
        invoice["items"] = [item | line for item in (invoice["items"] or [])[:1]] + (invoice["items"] or [])

    def add_item_and_clear_date(invoice: Record, moment: int) -> None:
        add_item(invoice, moment)
        invoice["modifiedOn"] = None

    _edit_rows(desk, "invoices", day, 25, add_item)
    _edit_rows(desk, "invoices", day, 3, add_item_and_clear_date, bump=False)
    _edit_rows(desk, "invoices", day, 8, _deactivate_record)

    for row, payment in list(_pick_rows(desk, "payments", 8)):
        moment = draw_moment(desk, day)
        if payment["active"]:
            for part in payment["appliedTo"] or []:
                _settle_invoice(desk, part["appliedTo"], -Decimal(part["appliedAmount"]), moment)
        payment["active"] = False
        _put_row(desk, "payments", row, payment, moment)

    for _, invoice in list(_pick_rows(desk, "invoices", 120)):
        due = Decimal(invoice["balance"])
        if invoice["active"] and due > 0 and "customer" in invoice:
            moment = draw_moment(desk, day)
            unit, party = desk.company.unit_by_name[invoice["businessUnit"]["name"]], _read_party(invoice)
            number = invoice["referenceNumber"]
            parts = [Application(next(desk.ids), invoice["id"], number, int(due * 100), moment)]
            stamp = Stamp(moment, moment)
            row = records.make_payment(next(desk.ids), party, unit, day, stamp, applications=parts)
            desk.store.add("payments", row)
            _settle_invoice(desk, invoice["id"], due, moment)

    def receive(order: Record, moment: int) -> None:
        order.update(status="Received", receivedOn=format_instant(moment), total=round(order["total"] + 10, 2))

    def cancel(order: Record, _: int) -> None:
        order["status"] = "Canceled"

    _edit_rows(desk, "purchase_orders", day, 10, receive)
    _edit_rows(desk, "purchase_orders", day, 5, cancel)
    _edit_rows(desk, "returns", day, 3, _deactivate_record)


def _settle_invoice(desk: Desk, invoice_id: int, paid: Decimal, moment: int) -> None:
    """Lower an invoice's balance by what was paid, if the invoice exists."""
    for row in np.flatnonzero(desk.store.column("invoices", "id") == invoice_id).tolist():
        invoice = desk.store.get("invoices", row)
        invoice["balance"] = f"{Decimal(invoice['balance']) - paid:.2f}"
        _put_row(desk, "invoices", row, invoice, moment)


def _read_party(invoice: Record) -> Party:
    customer, location = invoice["customer"], invoice["location"]
    address = invoice["locationAddress"]
    place = (address["street"], address["city"], address["zip"])
    return Party(customer["id"], customer["name"], location["id"], *place, commercial=False)


def _edit_people(desk: Desk, day: int) -> None:
    def rename(customer: Record, _: int) -> None:
        customer["name"] = desk.rng.choice(("Test account", f"{customer['name']} Home"))

    _edit_rows(desk, "customers", day, 12, rename)
    _edit_rows(desk, "customers", day, 4, _deactivate_record)
    into = [customer["id"] for _, customer in _pick_rows(desk, "customers", 6)]

    def merge(customer: Record, _: int) -> None:
        customer.update(active=False, mergedToId=into.pop())

    _edit_rows(desk, "customers", day, 5, merge)
    _edit_rows(desk, "locations", day, 4, _deactivate_record)


def _edit_payroll(desk: Desk, day: int) -> None:
    """Add late pay, correct some and delete some, all of the last LOOKBACK_DAYS."""
    rng, store = desk.rng, desk.store
    first = np.datetime64(records.EPOCH) + (day - LOOKBACK_DAYS + 2)
    recent = store.column("payroll", "date") >= first
    picked = list(_pick_rows(desk, "payroll", 60, recent))
    for row, item in picked[:20]:
        item["amount"] = round(item["amount"] + 20.25, 2)
        _put_row(desk, "payroll", row, item, draw_moment(desk, day))
    for row, _ in picked[20:28]:
        store.remove("payroll", row)
    for n, (_, item) in enumerate(picked[28:]):
        moment = draw_moment(desk, day)
        item.update(
            id=next(desk.ids) if n % 4 else None,
            date=format_calendar_day(day - rng.randrange(41)),
            createdOn=format_instant(moment),
            modifiedOn=format_instant(moment),
        )
        for _ in range(1 if n % 8 else 2):  # without an id, only their number tells equal rows apart
            store.add("payroll", item)


def _edit_bills_and_contacts(desk: Desk, day: int) -> None:
    def correct(bill: Record, _: int) -> None:
        bill["billAmount"] = f"{Decimal(bill['billAmount']) + Decimal('12.5'):.2f}"

    def end(membership: Record, moment: int) -> None:
        membership.update(status="Canceled", active=False, cancellationDate=format_instant(moment))

    _edit_rows(desk, "vendor_bills", day, 10, correct)
    _edit_rows(desk, "memberships", day, 3, end)
    for row, call in list(_pick_rows(desk, "calls", 10)):
        moment = draw_moment(desk, day)
        call["leadCall"] |= {"callType": "Excused", "modifiedOn": format_instant(moment)}
        desk.store.replace("calls", row, call, datetime.fromtimestamp(moment, UTC))
    for row, _ in list(_pick_rows(desk, "bookings", 1)):
        desk.store.remove("bookings", row)
    _edit_rows(desk, "credit_memos", day, 2, _deactivate_record)
