# ruff: noqa: PLR2004 (a generator is made of shares; a name for each would hide them)
"""What happens in the company: calls, visits, estimates, sales, crews, bills, payments, pay and purchases.

A job's life is planned when it is booked, and its records are written at once, as they stand at `Desk.now`. Instants
are seconds since 1970 (UTC), days are local days since 1970, money is cents.
"""

from __future__ import annotations

import heapq
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from itertools import accumulate, count
from random import Random
from typing import Any, NamedTuple

from sandbox import records
from sandbox.clock import Clock
from sandbox.organization import Company
from sandbox.records import DAY, HOUR, Application, Bill, JobRef, JobType, Line, Offer, Party, Stamp, Unit, Visit
from sandbox.store import Store

# What comes with a job or an order has its id from it: nothing else of a tenant depends on whether it is written.
CREDITS, BILLS, CALLS, BOOKINGS, MEMBERSHIPS = 5_000_000, 6_000_000, 7_000_000, 8_000_000, 9_000_000
TEST_NAMES = ("Test", "TESTING - do not dispatch", "Contest Winner", "Latest Homes LLC", "Account test")
_GIVEN = ("Aro", "Bela", "Corin", "Dalla", "Edrin", "Fenna", "Galo", "Hesper", "Ivo", "Junia", "Kiro", "Lumi", "Mavin")
_FIRST = (
    "Bar",
    "Cal",
    "Dor",
    "Fen",
    "Gal",
    "Hal",
    "Jor",
    "Kel",
    "Lan",
    "Mor",
    "Nor",
    "Pel",
    "Quin",
    "Sel",
    "Tav",
    "Ul",
)
_SECOND = ("adel", "brook", "cott", "dane", "grove", "holm", "imund", "lund", "mont", "nell", "quor", "ridge", "vale")
_TRADE = ("Plaza", "Offices", "Dental", "Apartments", "Storage", "Grill")


class Lead(NamedTuple):
    """A planned visit to sell."""

    party: Party
    unit: Unit
    job_type: JobType
    created: int
    status: str
    completed: int | None
    visits: Sequence[Visit]
    offers: Sequence[Offer] = ()
    fee: int = 0


class Work(NamedTuple):
    """Sold work that waits for a crew."""

    due: int
    estimate_id: int
    cents: int
    party: Party


@dataclass(slots=True)
class Desk:
    """What the generator keeps from day to day. `now`: nothing is recorded at or after this instant.

    `numbers` follow the year in the numbers of jobs, where the company's have it; some customers and some jobs
    before the day `imports_end` are imports.
    """

    company: Company
    store: Store
    rng: Random
    ids: Iterator[int]
    now: int
    numbers: Iterator[int] = field(default_factory=lambda: count(10_001))
    imports_end: int = 0
    parties: deque[Party] = field(default_factory=lambda: deque(maxlen=500))
    merged: deque[int] = field(default_factory=lambda: deque(maxlen=50))
    done: deque[int] = field(default_factory=lambda: deque(maxlen=200))
    work: dict[str, list[Work]] = field(default_factory=dict)

    @property
    def clock(self) -> Clock:
        return self.company.clock

    def make_number(self, id_: int, created: int) -> str:
        """Make the number that people see of a new job, or of an invoice without one."""
        if not self.company.numbers_by_year:
            return str(id_)
        return f"{self.clock.find_year(created) % 100}-{next(self.numbers)}"


def draw_moment(desk: Desk, day: int) -> int:
    """Draw a working moment of a local day; one in ten is in the evening or within half an hour of midnight."""
    make_moment, kind, where = desk.clock.make_moment, desk.rng.random(), desk.rng.random()
    if kind < 0.90:
        return make_moment(day, 7) + int(where * 11.5 * HOUR)
    if kind < 0.96:
        return make_moment(day, 18, 30) + int(where * 5.5 * HOUR)
    from_midnight = int(where * where * HOUR / 2)
    return make_moment(day, 24) - 1 - from_midnight if kind < 0.98 else make_moment(day, 0) + from_midnight


def draw_modified(desk: Desk, moment: int) -> int:
    """Draw when a record was last modified: at once, soon after, or by a bulk edit, which makes the ties."""
    chance = desk.rng.random()
    if chance < 0.6:
        return moment
    if chance < 0.8:
        later = moment + int(desk.rng.random() * 2 * DAY)
    else:
        period = (7 if chance < 0.85 else 180) * DAY
        later = (moment // period + 1) * period + 9 * HOUR
    return later if later < desk.now else moment


def pick_job_type(rng: Random, types: Sequence[JobType]) -> JobType:
    """Draw a job type by its share."""
    return rng.choices(types, [job_type.share for job_type in types])[0]


def draw_cents(rng: Random, dollars: int, spread: float = 0.6) -> int:
    """Draw an amount around `dollars`, in cents."""
    return int(dollars * 100 * rng.lognormvariate(0, spread))


def _draw_name(rng: Random, commercial: bool) -> str:
    family = rng.choice(_FIRST) + rng.choice(_SECOND)
    return f"{family} {rng.choice(_TRADE)}" if commercial else f"{rng.choice(_GIVEN)} {family}"


def write_party(
    desk: Desk, unit: Unit, created: int, *, name: str = "", known: bool = True, merged_to: int | None = None
) -> Party:
    """Write a customer and a location; a customer that is not `known` has no record of its own."""
    rng, company = desk.rng, desk.company
    commercial = unit.segment == "COMM"
    party = Party(
        customer_id=(id_ := next(desk.ids)),
        name=name or _draw_name(rng, commercial),
        location_id=next(desk.ids),
        street=f"{100 + int(rng.random() * 9000)} {rng.choice(company.streets)} Way",
        city=unit.region or company.city,
        zip=str(company.first_zip + int(rng.random() * 400)),
        commercial=commercial,
        imported=company.is_untidy and id_ % 9 == 0,
    )
    written = created - 300
    if known:
        stamp = Stamp(written, draw_modified(desk, written))
        desk.store.add("customers", records.make_customer(company, party, stamp, merged_to))
    desk.store.add("locations", records.make_location(company, party, Stamp(written, written)))
    return party


def _pick_caller(desk: Desk, unit: Unit, created: int) -> Party:
    """Choose who books a job: mostly somebody new, now and then one of the difficult kinds."""
    rng = desk.rng
    chance = rng.random()
    if chance < 0.15 and desk.parties:
        return rng.choice(desk.parties)
    if chance < 0.165:
        return write_party(desk, unit, created, name=rng.choice(TEST_NAMES))
    if chance < 0.175:
        return write_party(desk, unit, created, known=False)
    if chance < 0.20 and desk.parties:
        chain = desk.merged and rng.random() < 0.2
        target = rng.choice(desk.merged) if chain else rng.choice(desk.parties).customer_id
        name = "Test duplicate" if rng.random() < 0.05 else ""
        party = write_party(desk, unit, created, name=name, merged_to=target)
        desk.merged.append(party.customer_id)
        return party
    party = write_party(desk, unit, created)
    desk.parties.append(party)
    return party


def _avoid_known_week(desk: Desk, moment: int, unit: Unit) -> int:
    """Move a completion or sale out of the week whose figures are known."""
    known = desk.company.known
    if known and unit.rollup == known.rollup and desk.clock.to_local_day(moment) in known.week:
        return moment + (7 + moment % 2 * 7) * DAY
    return moment


def _plan_visits(desk: Desk, created: int) -> list[Visit]:
    """Plan the visits of an estimate: one, or a canceled or inactive one before it. Some are late in the evening."""
    rng, make_moment, add_days = desk.rng, desk.clock.make_moment, desk.clock.add_days
    day = desk.clock.to_local_day(created) + 1 + int(rng.expovariate(0.25))
    late = rng.random() < 0.04
    start = make_moment(day, 23, 15 * int(rng.random() * 4)) if late else make_moment(day, 8 + int(rng.random() * 10))
    chance = rng.random()
    if chance < 0.02:
        return []
    if chance < 0.10:
        return [Visit(make_moment(day, 9), "Canceled"), Visit(add_days(start, 1 + int(rng.random() * 7)), "Done")]
    if chance < 0.14:
        return [Visit(make_moment(day, 10), "Scheduled", active=False), Visit(add_days(start, 2), "Done")]
    return [Visit(start, "Done")]


def _plan_offers(desk: Desk, unit: Unit, written: int) -> list[Offer]:
    """Plan up to three estimates; four in ten jobs sell one: at once, in days, or after months."""
    rng = desk.rng
    number = rng.choices((0, 1, 2, 3), (18, 44, 26, 12))[0]
    offers = [
        Offer(
            created=written - 600 * n,
            cents=draw_cents(rng, 9000 if unit.segment == "COMM" else 3800),
            status="Open" if rng.random() < 0.6 else "Dismissed",
            active=rng.random() > 0.03,
            bumped=rng.random() < 0.85,
        )
        for n in range(number)
    ]
    if not offers:
        return offers
    chance = rng.random()
    if chance > 0.48:
        if chance > 0.98:
            offers[0] = offers[0]._replace(status="Dismissed", sold=_avoid_known_week(desk, written, unit))
        return offers
    wait = rng.choices((0, rng.randint(1, 14), rng.randint(15, 150)), (45, 40, 15))[0]
    sold = _avoid_known_week(
        desk, draw_moment(desk, desk.clock.to_local_day(written) + wait) if wait else written + 900, unit
    )
    if sold >= desk.now:
        return [offer._replace(status="Open") for offer in offers]
    offers[0] = offers[0]._replace(status="Sold", sold=sold)
    again = _avoid_known_week(desk, sold + int((1 + rng.random() * 10) * DAY), unit)
    if again < desk.now and rng.random() < 0.12:
        if number > 1:
            offers[1] = offers[1]._replace(status="Sold", sold=again)
        else:
            offers.append(Offer(again - 600, draw_cents(rng, 500), "Sold", again, change_order=True))
    return offers


def plan_lead(desk: Desk, unit: Unit, created: int, job_type: JobType, party: Party) -> Lead:
    """Plan the life of a job that is to sell."""
    rng = desk.rng
    visits = _plan_visits(desk, created)
    done = _avoid_known_week(
        desk, (visits[-1].start if visits else created) + HOUR + int(rng.random() * 2 * HOUR), unit
    )
    chance = rng.random()
    if chance < 0.11:
        kept = done if rng.random() < 0.4 and done < desk.now else None
        offers = _plan_offers(desk, unit, kept) if kept and rng.random() < 0.3 else ()
        visits = [visit._replace(status="Canceled") for visit in visits]
        return Lead(party, unit, job_type, created, "Canceled", kept, visits, offers)
    if chance < 0.13 or done >= desk.now:
        status = "Hold" if chance < 0.13 else "Scheduled"
        visits = [visit._replace(status=status) if visit.status == "Done" else visit for visit in visits]
        return Lead(party, unit, job_type, created, status, None, visits)
    offers = _plan_offers(desk, unit, done)
    fee = 8_900 if rng.random() < 0.10 else 0
    if any(offer.sold for offer in offers) and rng.random() < 0.04:
        return Lead(party, unit, job_type, created, "InProgress", None, visits, offers, fee)
    return Lead(party, unit, job_type, created, "Completed", done, visits, offers, fee)


def _open_job(desk: Desk, party: Party, unit: Unit, job_type: JobType, created: int) -> JobRef:
    """Give a new job its ids and numbers, and write the booking or call that it came from and the membership with it.

    Where numbers are no ids, its first invoice has its own.
    """
    company, ids = desk.company, desk.ids
    invoice_id, id_ = next(ids), next(ids)
    number = desk.make_number(id_, created)
    ref = JobRef(
        party,
        unit,
        invoice_id,
        invoice_number=number if company.numbers_by_year else str(invoice_id),
        id=id_,
        number=number,
        type_name=job_type.name,
        booking_id=BOOKINGS + id_ if id_ % 4 == 0 else None,
        call_id=CALLS + id_ if id_ % 4 == 2 else None,
        membership_id=MEMBERSHIPS + id_ if id_ % 6 == 0 else None,
        imported=id_ % 5 == 0 and desk.clock.to_local_day(created) < desk.imports_end,
    )
    if ref.booking_id:
        desk.store.add("bookings", records.make_booking(company, ref.booking_id, ref, created, job_type))
    if ref.call_id:
        _write_call(desk, ref, ref.call_id, created, job_type)
    if ref.membership_id:
        desk.store.add("memberships", records.make_membership(company, ref.membership_id, party, unit, created))
    return ref


def _write_call(desk: Desk, ref: JobRef, id_: int, created: int, job_type: JobType | None = None) -> None:
    """Write the call that a job came from; without a job, one that led to none."""
    row = records.make_call(desk.company, id_, ref, created, job_type)
    desk.store.add("calls", row, datetime.fromtimestamp(created, UTC))


def write_lead(desk: Desk, lead: Lead) -> None:
    """Write a job that is to sell, its appointments, estimates, invoice and payments, and queue the work it sold."""
    rng, store, ids = desk.rng, desk.store, desk.ids
    ref = _open_job(desk, lead.party, lead.unit, lead.job_type, lead.created)
    visits = [(next(ids), visit) for visit in lead.visits]
    offers = [(next(ids), offer) for offer in lead.offers]
    last = max([lead.created, lead.completed or 0, *(offer.created for offer in lead.offers)])
    for ordinal, (id_, visit) in enumerate(visits, 1):
        stamp = Stamp(lead.created, draw_modified(desk, min(visit.start, last)))
        store.add(
            "appointments", records.make_appointment(desk.company, id_, ref, ordinal=ordinal, visit=visit, stamp=stamp)
        )
    stray = desk.company.unit_by_name[desk.company.strays[0]]
    for id_, offer in offers:
        own = None if id_ % 23 == 0 else lead.unit if id_ % 17 else stray
        write_estimate(desk, id_, offer, party=lead.party, unit=own, job=ref)
    _write_bills(desk, ref, lead.fee, lead.created, lead.completed)
    free = not lead.offers and not lead.fee
    row = records.make_job(
        desk.company,
        ref,
        lead.job_type,
        Stamp(lead.created, draw_modified(desk, last)),
        status=lead.status,
        completed=lead.completed,
        appointment_ids=[id_ for id_, _ in visits],
        estimate_ids=[id_ for id_, _ in offers],
        cents=lead.fee,
        no_charge=free if ref.id % 9 else not free,
    )
    store.add("jobs", row)
    sold = [(id_, offer) for id_, offer in offers if offer.active and offer.status == "Sold"]
    if sold and lead.unit.crew and lead.status != "Canceled" and rng.random() < 0.85:
        id_, first = sold[0]
        due = first.sold + int(rng.random() * 3 * DAY)
        queue = desk.work.setdefault(lead.unit.crew, [])
        heapq.heappush(queue, Work(due, id_, sum(offer.cents for _, offer in sold), lead.party))


def write_estimate(desk: Desk, id_: int, offer: Offer, *, party: Party, unit: Unit | None, job: JobRef | None) -> None:
    """Write an estimate; a sale that leaves `modifiedOn` alone is a change all the same."""
    changed = max(offer.created, offer.sold or 0)
    modified = draw_modified(desk, changed) if offer.bumped else offer.created
    row = records.make_estimate(desk.company, id_, offer, modified, party=party, unit=unit, job=job)
    desk.store.add("estimates", row, datetime.fromtimestamp(max(changed, modified), UTC))


def _draw_production_start(desk: Desk, created: int) -> int:
    """Draw when a crew starts: in weeks, months ahead, or around the day that ends the year ahead of its week."""
    rng, make_moment = desk.rng, desk.clock.make_moment
    day, chance = desk.clock.to_local_day(created), rng.random()
    if chance < 0.92:
        day += 2 + int(rng.expovariate(1 / 12))
    elif chance < 0.98:
        day += 45 + int(rng.random() * 380)
    else:
        sunday = day + (3 - day) % 7  # day 3 of 1970 was a Sunday
        day = sunday + 365 + int(rng.random() * 2)
    return draw_moment(desk, day) if rng.random() < 0.06 else make_moment(day, 7 + int(rng.random() * 3))


def _take_work(desk: Desk, unit: Unit, created: int) -> tuple[Party, JobType, int, int | None]:
    """Take the oldest sold work that is due, or a call: customer, job type, price and estimate of the next crew job."""
    rng, company = desk.rng, desk.company
    queue = desk.work.get(unit.crew)
    if queue and queue[0].due <= created:
        work = heapq.heappop(queue)
        return work.party, pick_job_type(rng, company.sold_types), work.cents, work.estimate_id
    service = rng.random() < 0.85
    job_type = pick_job_type(rng, company.service_types if service else company.sold_types)
    free = job_type.name in company.free_types and rng.random() < 0.8
    return _pick_caller(desk, unit, created), job_type, 0 if free else draw_cents(rng, 350 if service else 3000), None


def write_production(desk: Desk, unit: Unit, created: int) -> None:
    """Write a job of a crew with its appointments, bills, pay and purchases."""
    rng, store, ids = desk.rng, desk.store, desk.ids
    party, job_type, cents, estimate_id = _take_work(desk, unit, created)
    ref = _open_job(desk, party, unit, job_type, created)
    recall = desk.done and rng.random() < (0.6 if job_type.name in desk.company.free_types else 0.02)

    start = _draw_production_start(desk, created)
    done: int | None = desk.clock.add_days(start, min(cents // 150_000, 6)) + 6 * HOUR
    canceled = rng.random() < 0.05
    if done >= desk.now or (canceled and rng.random() < 0.7):
        done = None
    status = "Canceled" if canceled else "Completed" if done else "InProgress" if start < desk.now else "Scheduled"
    last = max(created, done or 0, start if start < desk.now else 0)
    visit_ids = _write_crew_visits(desk, ref, start, status, Stamp(created, last))

    change_id = next(ids) if estimate_id and done and rng.random() < 0.08 else None
    if change_id:
        sold = done - 2 * HOUR
        offer = Offer(sold, draw_cents(rng, 400), "Sold", sold, change_order=True)
        write_estimate(desk, change_id, offer, party=party, unit=unit, job=ref)
    _write_bills(desk, ref, cents, created, done, canceled=canceled)
    row = records.make_job(
        desk.company,
        ref,
        job_type,
        Stamp(created, draw_modified(desk, last)),
        status=status,
        completed=done,
        appointment_ids=visit_ids,
        estimate_ids=[change_id] if change_id else [],
        cents=cents,
        no_charge=cents == 0,
        warranty_id=rng.choice(desk.done) if recall else None,
        from_estimate=estimate_id,
    )
    store.add("jobs", row)
    if start < desk.now and (not canceled or rng.random() < 0.2):
        _write_pay(desk, ref, cents, start)
        _write_purchases(desk, ref, cents, start)
        if ref.id % 5 == 0:  # a bill without a purchase order
            _write_vendor_bill(desk, ref, ref.id, start, goods=cents * 3 // 100 or 4_200)
        desk.done.append(ref.id)


def _write_crew_visits(desk: Desk, ref: JobRef, start: int, job_status: str, stamp: Stamp) -> list[int]:
    """Write a crew's appointments and return their ids; the first is sometimes inactive, canceled or missing."""
    rng, ids, add_days = desk.rng, desk.ids, desk.clock.add_days
    status = {"Completed": "Done", "InProgress": "Working"}.get(job_status, job_status)
    visit = Visit(start, status)
    chance = rng.random()
    if chance < 0.015:
        return []
    if chance < 0.045:
        visits = [Visit(start, "Scheduled", active=False), Visit(add_days(start, 1), status)]
    elif chance < 0.075:
        visits = [Visit(start, "Canceled"), Visit(add_days(start, 3), status)]
    else:
        visits = [visit, Visit(add_days(start, 1), status)] if chance < 0.20 else [visit]
    visit_ids = [next(ids) for _ in visits]
    lost = 0.20 < chance < 0.23  # the job names a first appointment that no list returns
    for ordinal, (id_, visit) in enumerate(zip(visit_ids, visits, strict=True), 1):
        if not (lost and ordinal == 1):
            moved = Stamp(stamp.created, draw_modified(desk, stamp.modified))
            desk.store.add(
                "appointments",
                records.make_appointment(desk.company, id_, ref, ordinal=ordinal, visit=visit, stamp=moved),
            )
    return visit_ids


def _write_bills(
    desk: Desk, ref: JobRef, cents: int, created: int, done: int | None, *, canceled: bool = False
) -> None:
    """Write a job's invoices and what was paid on them. Balances are totals less active applications, to the cent."""
    rng, company = desk.rng, desk.company
    main = Bill(
        ref.invoice_id, ref.invoice_number, _draw_lines(rng, cents), desk.clock.to_local_day(done or created), created
    )
    bills = [main]
    if not cents:
        main.day = None if main.id % 25 == 0 else main.day
    else:
        main.tax = cents // 50 if rng.random() < 0.3 else 0
        main.active = not (canceled and rng.random() < 0.8)
        chance = rng.random()
        after = (done or created) + int(rng.random() * 20 * DAY)
        if chance < 0.07:
            bills.append(_make_next_bill(desk, ref, _draw_lines(rng, cents // 10), main.day, created))
        elif chance < 0.12 and after < desk.now:
            credit = Line("Service", -int(cents * (0.05 + rng.random() * 0.15)))
            day = desk.clock.to_local_day(after)
            bills.append(_make_next_bill(desk, ref, [credit], day, after, adjustment_to=main.id))
        elif chance < 0.14:
            bills.append(_make_next_bill(desk, ref, _draw_lines(rng, cents), main.day, created, active=False))
        _write_payments(desk, ref, bills, created, done)
    _, stray, other = (company.unit_by_name[name] for name in company.strays)
    for bill in bills:
        own = stray if ref.id and bill.id % 27 == 0 else ref.unit
        item_unit = other if bill.id % 31 == 0 else own
        modified = draw_modified(desk, max(bill.created, done or 0)) if bill.id % 40 else None
        desk.store.add(
            "invoices", records.make_invoice(desk.company, bill, ref, modified, unit=own, item_unit=item_unit)
        )
        if bill.total > 0 and not ref.imported and (bill.id % 29 == 0 or not bill.active):
            _write_credit_memo(desk, ref, bill)


def _write_credit_memo(desk: Desk, ref: JobRef, bill: Bill) -> None:
    """Write what a customer is credited some days after a bill: to be used later, void, or settled on a lost invoice.

    No active one settles an active invoice here, so that balances are totals less payments. Nothing is drawn.
    """
    id_, on = CREDITS + bill.id, bill.created + (2 + bill.id % 11) * DAY
    if on >= desk.now:
        return
    void, lost = bill.active and bill.id % 2 == 0, not bill.active
    to, number = (bill.id, bill.number) if void or lost else (id_ + 1, f"CM-{id_ + 1}")
    cents = min(bill.total, 2_500 + id_ % 40 * 250)
    applied = cents if void else cents // 4 if lost or bill.id % 3 == 0 else 0
    parts = [Application(id_, to, number, applied, on)] if applied else []
    stamp, day = Stamp(on, min(on + id_ % 4 * DAY, desk.now - 1)), desk.clock.to_local_day(on)
    row = records.make_credit_memo(
        desk.company, id_, ref, day, stamp, applications=parts, unapplied=cents - applied, active=not void
    )
    desk.store.add("credit_memos", row)


def _make_next_bill(desk: Desk, ref: JobRef, lines: list[Line], day: int | None, created: int, **more: Any) -> Bill:
    """Make the second invoice of a job, whose number is the first one's with a dash where numbers are no ids."""
    id_ = next(desk.ids)
    number = f"{ref.invoice_number}-2" if desk.company.numbers_by_year else str(id_)
    return Bill(id_, number, lines, day, created, **more)


def _draw_lines(rng: Random, cents: int) -> list[Line]:
    """Draw items that add up to `cents`; free work has no items, a free one, or one and its discount."""
    if not cents:
        return rng.choice(([], [Line("Service", 0)], [Line("Service", 5_000), Line("PriceModifier", -5_000)]))
    chance = rng.random()
    if chance < 0.35:
        return [Line("Service", cents)]
    material = cents // 5
    lines = [Line("Service", cents - material, cents // 50), Line("Material", material, int(cents * rng.random() / 8))]
    if chance > 0.93:
        lines.append(Line("Equipment", 0, cents // 20))
    return lines


def _draw_amount_paid(rng: Random, owed: int, done: bool) -> int:
    """Draw what a customer pays in all: usually everything; else a deposit, a part, or all but some cents."""
    chance = rng.random()
    if not done:
        return int(owed * 0.3) if chance < 0.5 else 0
    if chance < 0.86:
        return owed
    if chance < 0.94:
        return owed - rng.choice((1, 999, 1_000, 1_001, 450, -250, -2_500))
    return int(owed * rng.random()) if chance < 0.98 else 0


def _write_payments(desk: Desk, ref: JobRef, bills: Sequence[Bill], created: int, done: int | None) -> None:
    """Write the payments of some invoices of one job, and note on the bills what they settle."""
    rng = desk.rng
    owed = sum(bill.total for bill in bills if bill.active)
    payable = [bill for bill in bills if bill.active and not bill.adjustment_to]
    amount = _draw_amount_paid(rng, owed, done is not None)
    if owed <= 0 or amount <= 0:
        return
    number = 1 + int(rng.random() * 2.2) if done else 1
    for n in range(number):
        part = amount // number if n else amount - amount // number * (number - 1)
        since = done if done and n == number - 1 else created
        paid = max(draw_moment(desk, desk.clock.to_local_day(since) + int(rng.expovariate(0.12))), created + HOUR)
        if paid < desk.now:
            lost = None if bills[-1].active else bills[-1]
            _write_payment(desk, ref, payable, cents=part, paid=paid, lost=lost)


def _write_payment(
    desk: Desk, ref: JobRef, payable: Sequence[Bill], *, cents: int, paid: int, lost: Bill | None
) -> None:
    """Write a payment of `cents` on the payable bills, sometimes applied late, to a lost invoice, void or refunded."""
    rng, ids = desk.rng, desk.ids
    active = rng.random() > 0.025
    applied = draw_moment(desk, desk.clock.to_local_day(paid) + int(rng.random() * 20)) if rng.random() < 0.15 else paid
    applied = applied if paid < applied < desk.now else paid
    applications = []
    for bill in payable:
        part = cents if bill is payable[-1] else min(cents, max(bill.total - bill.paid, 0))
        if part > 0:
            applications.append(Application(next(ids), bill.id, bill.number, part, applied))
            cents -= part
            bill.paid += part if active else 0
    refunded = active and applications and rng.random() < 0.015
    if rng.random() < (0.5 if lost else 0.02):
        part, to = next(ids), lost.id if lost else next(ids)
        number = lost.number if lost else desk.make_number(to, paid)
        applications.append(Application(part, to, number, draw_cents(rng, 150), applied))
    party, unit, id_ = ref.party, ref.unit, next(ids)
    if rng.random() < 0.2:
        unit = desk.company.unit_by_name[desk.company.tills.get(unit.name, unit.name)]
    row = records.make_payment(
        id_,
        party,
        unit,
        desk.clock.to_local_day(paid) - (rng.random() < 0.05),
        Stamp(paid, draw_modified(desk, applied)),
        applications=applications,
        unapplied=draw_cents(rng, 200) if rng.random() < 0.04 else 0,
        active=active,
    )
    desk.store.add("payments", row)
    back = paid + int(rng.random() * 20 * DAY)
    if refunded and back < desk.now:
        bill = next(bill for bill in payable if bill.id == applications[0].invoice_id)
        part = applications[0].cents // 4
        bill.paid -= part
        refund = [Application(next(ids), bill.id, bill.number, -part, back)]
        stamp = Stamp(back, back)
        row = records.make_payment(
            next(ids), party, unit, desk.clock.to_local_day(back), stamp, applications=refund, refund_of=id_
        )
        desk.store.add("payments", row)


def _draw_lateness(rng: Random) -> int:
    """Draw the days from work to payroll: mostly up to ten, one in eight up to 45."""
    return 11 + int(rng.random() * 35) if rng.random() < 0.12 else int(rng.random() * 10)


def _write_pay(desk: Desk, ref: JobRef, cents: int, start: int) -> None:
    """Write a crew's gross pay, entered days or weeks later, and some adjustments, each of them also an item."""
    rng, ids, store = desk.rng, desk.ids, desk.store
    number = 3 + min(cents // 50_000, 10)
    labor = int(cents * (0.28 + rng.random() * 0.22)) or 8_000 + int(rng.random() * 30_000)
    first, crew, span = desk.clock.to_local_day(start), int(rng.random() * 24), 1 + number // 3
    for n in range(number):
        day = first + n % span
        created = draw_moment(desk, day + _draw_lateness(rng))
        if created >= desk.now:
            continue
        share = int(labor / number * (0.7 + 0.6 * rng.random()))
        bonus, nameless, id_ = n % 5 == 0, rng.random() < 0.06, next(ids)
        row = records.make_gross_pay_item(
            desk.company,
            None if nameless else id_,
            desk.company.technicians[(crew + n % 3) % len(desk.company.technicians)],
            ref.unit,
            day,
            stamp=Stamp(created, draw_modified(desk, created)),
            source_id=id_ - n % 2,
            kind="InvoiceRelatedBonus" if bonus else "TimesheetTime",
            cents=share,
            hours=None if bonus else round(share / 700) / 4,  # quarters of an hour at $28
            ref=ref,
        )
        for _ in range(2 if nameless and rng.random() < 0.4 else 1):
            store.add("payroll", row)
    posted = draw_moment(desk, first + span + _draw_lateness(rng))
    if rng.random() < 0.12 and posted < desk.now:
        id_, employee = next(ids), desk.company.technicians[crew]
        amount = draw_cents(rng, 60) * (-1 if rng.random() < 0.2 else 1)
        store.add(
            "payroll_adjustments",
            records.make_payroll_adjustment(
                desk.company, id_, employee, posted, cents=amount, invoice_id=ref.invoice_id
            ),
        )
        day, stamp = desk.clock.to_local_day(posted), Stamp(posted, posted)
        row = records.make_gross_pay_item(
            desk.company,
            next(ids),
            employee,
            ref.unit,
            day,
            stamp=stamp,
            source_id=id_,
            kind="CustomBonus",
            cents=amount,
            ref=ref,
        )
        store.add("payroll", row)


def _write_purchases(desk: Desk, ref: JobRef, cents: int, start: int) -> None:
    """Write purchase orders, a few of them canceled, the bills of some, and what went back to the vendor."""
    rng, ids, store = desk.rng, desk.ids, desk.store
    for _ in range(rng.choices((0, 1, 2), (35, 50, 15))[0]):
        created = draw_moment(desk, desk.clock.to_local_day(start) - int(rng.random() * 3))
        if created >= desk.now:
            continue
        id_ = next(ids)
        status = rng.choices(("Canceled", "Received", "Sent", "Pending"), (8, 62, 20, 10))[0]
        goods = int(cents * (0.04 + rng.random() * 0.10)) or draw_cents(rng, 60)
        shipping = 1_500 if rng.random() < 0.3 else 0
        stamp = Stamp(created, draw_modified(desk, created))
        row = records.make_purchase_order(
            desk.company, id_, ref, stamp, status, goods=goods, tax=goods * 8 // 100, shipping=shipping
        )
        store.add("purchase_orders", row)
        if status != "Pending" and id_ % 3 == 0:
            _write_vendor_bill(
                desk, ref, id_, created, goods=goods, tax=goods * 8 // 100, shipping=shipping, order_id=id_
            )
        back = created + int(rng.random() * 15 * DAY)
        if rng.random() < 0.10 and back < desk.now:
            status = rng.choice(("Returned", "CreditReceived", "Pending", "Canceled"))
            store.add("returns", records.make_vendor_return(next(ids), ref, id_, back, cents=goods // 3, status=status))


def _write_vendor_bill(desk: Desk, ref: JobRef, source_id: int, since: int, **money: Any) -> None:
    """Write what a vendor bills some days after a job began, or after the order `source_id`."""
    created = since + (1 + source_id % 9) * DAY
    if created < desk.now:
        stamp = Stamp(created, min(created + source_id % 4 * DAY, desk.now - 1))
        desk.store.add("vendor_bills", records.make_vendor_bill(BILLS + source_id, ref, stamp, **money))


def _write_loose_end(desk: Desk, day: int) -> None:
    """Write what belongs to no job: a counter sale, an estimate by mail, shop pay, stock orders, a lost booking."""
    rng, ids = desk.rng, desk.ids
    moment = draw_moment(desk, day)
    unit = rng.choice(desk.company.unit_list)
    party = rng.choice(desk.parties) if desk.parties else write_party(desk, unit, moment)
    id_ = next(ids)
    ref = JobRef(party, unit, id_, desk.make_number(id_, moment))
    desk.store.add("bookings", records.make_booking(desk.company, BOOKINGS + id_, ref, moment))
    _write_call(desk, ref, CALLS + id_, moment)
    _write_bills(desk, ref, draw_cents(rng, 120), moment, moment)
    sold = _avoid_known_week(desk, moment + int(rng.random() * 5 * DAY), unit)
    bought = rng.random() < 0.7 and sold < desk.now
    offer = Offer(moment, draw_cents(rng, 900), "Sold" if bought else "Open", sold if bought else None, bumped=False)
    write_estimate(desk, next(ids), offer, party=party, unit=unit, job=None)
    _write_purchases(desk, ref, 0, moment)
    for _ in range(4):
        created = draw_moment(desk, day + _draw_lateness(rng))
        if created < desk.now:
            id_ = next(ids)
            row = records.make_gross_pay_item(
                desk.company,
                id_ if rng.random() > 0.1 else None,
                rng.choice(desk.company.technicians),
                unit,
                day,
                stamp=Stamp(created, created),
                source_id=id_,
                kind="Salary" if id_ % 2 else "TimesheetTime",
                cents=draw_cents(rng, 150, 0.2),
                hours=None if id_ % 2 else 4.5,
            )
            desk.store.add("payroll", row)


def write_day(desk: Desk, day: int, number: int, shares: dict[Unit, float]) -> None:
    """Write `number` jobs booked on a local day, in units drawn by their shares, and the day's loose ends."""
    rng = desk.rng
    for unit in rng.choices(tuple(shares), cum_weights=tuple(accumulate(shares.values())), k=number):
        created = draw_moment(desk, day)
        if unit.division == "Sales" or (unit.division != "Production" and rng.random() < 0.5):
            party = _pick_caller(desk, unit, created)
            write_lead(desk, plan_lead(desk, unit, created, pick_job_type(rng, desk.company.lead_types), party))
        else:
            write_production(desk, unit, created)
    for _ in range(int(number * 0.06 + rng.random())):
        _write_loose_end(desk, day)
