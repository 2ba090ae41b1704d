# ruff: noqa: PLR2004 (a generator is made of shares, and a name for each would hide them)
"""A painting contractor in Arizona, generated: what its branches sold, painted, billed and paid, day by day.

`populate` writes a whole ServiceTitan tenant into a store. It is deterministic: one seed, one tenant. A job's life is
decided when the job is booked and its records are written at once, as they stand at the end of LAST_DAY; only sold
work that waits for a crew and a few recent customers are remembered, so memory does not grow with the volume.

Two stretches of Phoenix-Sales are the same in every seed and at every scale (`_known_case`): the week of 2025-08-18
and the days 2024-08-18 to 24, whose figures are known from ServiceTitan's own reports. Nothing else of Phoenix-Sales
is created on those days, completed or sold in that week.

Traps, planted on purpose:
- Units: COMM and retired units that roll up, a unit that the rollup file lacks, invoices, items, estimates and payments
  with another unit than their job's.
- Types: names in mixed case, inactive types, "Virtual Estimation" (not an estimate), estimate types in Production,
  near-names of the excluded and the warranty types, an excluded type with a `warrantyId`.
- Customers: test names (and "Contest", "Latest", which contain them), customers that are missing, inactive, merged in
  chains, with several jobs.
- Time: up to seven fractional digits (".9999999"), minutes around local midnight, hours that are the next day in UTC,
  ties of `modifiedOn` larger than a page, invoices without it, sales that do not bump it.
- Jobs: canceled with a `completedOn`, no-charge by rule though not by flag and the other way round, first appointments
  that are inactive, canceled or missing, starts up to 14 months ahead and around one year to the day.
- Appointments: canceled but active, inactive, moved.
- Estimates: sold late, twice, while inactive, without a job; dismissed with a `soldOn` left over; change orders.
- Invoices: adjustments, several a job, without a job, inactive, without a date at $0.
- Payments: partial, over several invoices, unapplied, refunds, inactive, to inactive and to unknown invoices, applied
  days after they came in; locations left with $0.01, $9.99, $10.00, $10.01 or a credit.
- Payroll: null ids with equal rows, `jobId` 0, adjustments that are repeated as items, items up to 45 days late.
- Purchases: canceled orders, tax and shipping in the total, orders without a job, returns (some inactive).
"""

from __future__ import annotations

import heapq
import math
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, date, datetime
from itertools import accumulate, count
from random import Random
from typing import NamedTuple

from sandbox import records
from sandbox.records import DAY, EPOCH, Application, JobType, Line, Party, Unit
from sandbox.references import references
from sandbox.store import Store

FIRST_DAY = date(2024, 7, 1)
LAST_DAY = date(2025, 9, 14)
TIME_ZONE = "America/Phoenix"
JOBS_A_WEEK = 630

UTC_OFFSET = 7 * 3600  # Arizona has no daylight saving
HOUR = 3600
KNOWN_WEEK = range((date(2025, 8, 18) - EPOCH).days, (date(2025, 8, 25) - EPOCH).days)
KNOWN_2024 = range((date(2024, 8, 18) - EPOCH).days, (date(2024, 8, 25) - EPOCH).days)
OTHERS_2024 = 499  # jobs of those days outside Phoenix-Sales, at scale 1
KNOWN_ROLLUP = "Phoenix-Sales"
RETIRED_ON = (date(2025, 1, 1) - EPOCH).days

BRANCHES = {"Phoenix": 0.28, "Tucson": 0.20, "Mesa": 0.16, "Scottsdale": 0.14, "Flagstaff": 0.12, "Yuma": 0.10}
SALES_SHARE = 0.6
COMMERCIAL_SHARE = {"Phoenix": 0.12, "Tucson": 0.15}
WEEKDAYS = (1.15, 1.10, 1.05, 1.00, 0.95, 0.45, 0.30)


def _unit_table() -> Iterator[tuple[Unit, float]]:
    """Every business unit with its share of the jobs."""
    ids = count(1001)
    for region, weight in BRANCHES.items():
        commercial = COMMERCIAL_SHARE.get(region, 0)
        for division, share in (("Sales", SALES_SHARE), ("Production", 1 - SALES_SHARE)):
            rollup = f"{region}-{division}"
            part = weight * share
            yield Unit(next(ids), rollup, rollup, region, division, "RES"), part * (1 - commercial)
            if commercial:
                name = f"{region}-Comm-{division}"
                yield Unit(next(ids), name, rollup, region, division, "COMM"), part * commercial
            if region == "Phoenix":
                name = f"Z-DO NOT USE - West - {division}"
                yield Unit(next(ids), name, rollup, region, division, "RES", active=False), part * 0.2
    yield Unit(next(ids), "Color Studio", "Color Studio", "", "", ""), 0.01


UNIT_SHARES = dict(_unit_table())
UNITS = tuple(UNIT_SHARES)
UNIT = {unit.name: unit for unit in UNITS}

_TYPES = count(2001)
ESTIMATE_TYPES = tuple(
    JobType(next(_TYPES), name, share, active)
    for name, share, active in (
        ("Estimate - Interior", 0.34, True),
        ("ESTIMATE Exterior", 0.28, True),
        ("Commercial estimate", 0.08, True),
        ("Cabinet eStImAtE", 0.08, True),
        ("Re-Estimate", 0.04, True),
        ("Estimate - Legacy Phone", 0.06, False),
    )
)
CONSULTING_TYPES = tuple(
    JobType(next(_TYPES), name, share, active)
    for name, share, active in (
        ("Color Consultation", 0.06, True),
        ("Virtual Estimation", 0.03, True),
        ("Sales Follow-up", 0.02, True),
        ("Legacy Sales Visit", 0.01, False),
    )
)
LEAD_TYPES = ESTIMATE_TYPES + CONSULTING_TYPES
PAINTING_TYPES = tuple(
    JobType(next(_TYPES), name, share, active)
    for name, share, active in (
        ("Interior Paint", 0.45, True),
        ("Exterior Paint", 0.38, True),
        ("Cabinet Refinishing", 0.10, True),
        ("Deck Coating", 0.07, False),
    )
)
SERVICE_TYPES = tuple(
    JobType(next(_TYPES), name, share, active)
    for name, share, active in (
        ("PM Inspection", 0.16, True),
        ("Safety Inspection", 0.10, True),
        ("Window/Solar Washing", 0.14, True),
        ("Warranty", 0.16, True),
        ("Touchup", 0.14, True),
        ("Warranty Callback", 0.05, True),
        ("PM Inspection - Recheck", 0.05, True),
        ("Estimate - Touchup", 0.05, True),
        ("Drywall Repair", 0.15, False),
    )
)
JOB_TYPES = LEAD_TYPES + PAINTING_TYPES + SERVICE_TYPES
FREE_WORK = {"Warranty", "Touchup", "Warranty Callback", "Estimate - Touchup"}

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
_STREETS = ("Saguaro", "Ocotillo", "Mesquite", "Palo Verde", "Juniper", "Agave", "Cholla", "Ironwood")


class Visit(NamedTuple):
    """An appointment."""

    start: int
    status: str
    active: bool = True


class Offer(NamedTuple):
    """An estimate given to the customer; `bumped`: its sale moved `modifiedOn`."""

    created: int
    cents: int
    status: str = "Open"
    sold: int | None = None
    active: bool = True
    change_order: bool = False
    bumped: bool = True


class Lead(NamedTuple):
    """A job of a Sales unit, decided."""

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
    """What the generator keeps while it walks the days. `now`: nothing is recorded at or after this instant."""

    store: Store
    rng: Random
    ids: Iterator[int]
    now: int
    parties: deque[Party] = field(default_factory=lambda: deque(maxlen=500))
    merged: deque[int] = field(default_factory=lambda: deque(maxlen=50))
    painted: deque[int] = field(default_factory=lambda: deque(maxlen=200))
    work: dict[tuple[str, str], list[Work]] = field(default_factory=dict)


@dataclass(slots=True)
class _Draft:
    """An invoice while it is being paid."""

    id: int
    lines: list[Line]
    tax: int
    day: int | None
    created: int
    active: bool = True
    adjustment_to: int | None = None
    paid: int = 0

    @property
    def total(self) -> int:
        return sum(line.price for line in self.lines) + self.tax


def day_number(day: date) -> int:
    """Days since 1970."""
    return (day - EPOCH).days


def end_of(day: int) -> int:
    """The instant at which a local day ends."""
    return (day + 1) * DAY + UTC_OFFSET


def local_day(moment: int) -> int:
    """The local day of an instant."""
    return (moment - UTC_OFFSET) // DAY


def at(day: int, hour: int, minute: int = 0) -> int:
    """The instant of a local time."""
    return day * DAY + hour * HOUR + minute * 60 + UTC_OFFSET


def moment_on(rng: Random, day: int) -> int:
    """A working moment of a local day; one in ten lies in the evening or within half an hour of midnight."""
    kind, where = rng.random(), rng.random()
    if kind < 0.90:
        second = 7 * HOUR + int(where * 11.5 * HOUR)
    elif kind < 0.96:
        second = int((18.5 + where * 5.5) * HOUR)
    elif kind < 0.98:
        second = DAY - 1 - int(where * where * 1800)
    else:
        second = int(where * where * 1800)
    return day * DAY + second + UTC_OFFSET


def _modified(desk: Desk, moment: int) -> int:
    """When a record was last touched: at once, soon after, or by a bulk edit, which makes the ties."""
    chance = desk.rng.random()
    if chance < 0.6:
        return moment
    if chance < 0.85:
        later = moment + int(desk.rng.random() * 2 * DAY)
    elif chance < 0.97:
        later = (moment // (7 * DAY) + 1) * 7 * DAY + 9 * HOUR
    else:
        later = (moment // (90 * DAY) + 1) * 90 * DAY + 9 * HOUR
    return later if later < desk.now else moment


def _pick(rng: Random, types: Sequence[JobType]) -> JobType:
    left = rng.random() * sum(job_type.share for job_type in types)
    for job_type in types:
        left -= job_type.share
        if left < 0:
            return job_type
    return types[-1]


def _cents(rng: Random, middle: int, spread: float = 0.6) -> int:
    """An amount around `middle` dollars."""
    return int(middle * 100 * rng.lognormvariate(0, spread))


def _name(rng: Random, commercial: bool) -> str:
    family = rng.choice(_FIRST) + rng.choice(_SECOND)
    return f"{family} {rng.choice(_TRADE)}" if commercial else f"{rng.choice(_GIVEN)} {family}"


def new_party(
    desk: Desk, unit: Unit, created: int, name: str = "", known: bool = True, merged_to: int | None = None
) -> Party:
    """Write a customer and a location; a customer that is not `known` has no record of its own."""
    rng = desk.rng
    commercial = unit.segment == "COMM"
    party = Party(
        customer_id=next(desk.ids),
        name=name or _name(rng, commercial),
        location_id=next(desk.ids),
        street=f"{100 + int(rng.random() * 9000)} {rng.choice(_STREETS)} Way",
        city=unit.region or "Phoenix",
        zip=str(85000 + int(rng.random() * 400)),
        commercial=commercial,
    )
    written = created - 300
    if known:
        modified = _modified(desk, written)
        desk.store.add("customers", records.customer(party, written, modified, merged_to is None, merged_to))
    desk.store.add("locations", records.location(party, written, written, active=party.location_id % 50 != 0))
    return party


def _caller(desk: Desk, unit: Unit, created: int) -> Party:
    """Who books a job: mostly somebody new, now and then one of the difficult kinds."""
    rng = desk.rng
    chance = rng.random()
    if chance < 0.15 and desk.parties:
        return rng.choice(desk.parties)
    if chance < 0.165:
        return new_party(desk, unit, created, name=rng.choice(TEST_NAMES))
    if chance < 0.175:
        return new_party(desk, unit, created, known=False)
    if chance < 0.20 and desk.parties:
        chain = desk.merged and rng.random() < 0.2
        target = rng.choice(desk.merged) if chain else rng.choice(desk.parties).customer_id
        name = "Test duplicate" if rng.random() < 0.05 else ""
        party = new_party(desk, unit, created, name=name, merged_to=target)
        desk.merged.append(party.customer_id)
        return party
    party = new_party(desk, unit, created)
    desk.parties.append(party)
    return party


def _settled(moment: int, unit: Unit) -> int:
    """Keep generated completions and sales of the known rollup out of the known week."""
    if unit.rollup == KNOWN_ROLLUP and local_day(moment) in KNOWN_WEEK:
        return moment + (7 + moment % 2 * 7) * DAY
    return moment


def _visits(desk: Desk, created: int) -> list[Visit]:
    """Appointments of an estimate: one, or a canceled or withdrawn one before it. Some are late in the evening."""
    rng = desk.rng
    day = local_day(created) + 1 + int(rng.expovariate(0.25))
    hour, minute = (23, 15 * int(rng.random() * 4)) if rng.random() < 0.04 else (8 + int(rng.random() * 10), 0)
    chance = rng.random()
    if chance < 0.02:
        return []
    last = Visit(at(day, hour, minute), "Done")
    if chance < 0.10:
        return [Visit(at(day, 9), "Canceled"), last._replace(start=last.start + (1 + int(rng.random() * 7)) * DAY)]
    if chance < 0.14:
        return [Visit(at(day, 10), "Scheduled", active=False), last._replace(start=last.start + 2 * DAY)]
    return [last]


def _offers(desk: Desk, unit: Unit, written: int) -> list[Offer]:
    """None to three estimates, four in ten jobs with one sold: at once, in days, or after months."""
    rng = desk.rng
    number = 0 if (chance := rng.random()) < 0.18 else 1 if chance < 0.62 else 2 if chance < 0.88 else 3
    middle = 9000 if unit.segment == "COMM" else 3800
    offers = [
        Offer(
            created=written - 600 * n,
            cents=_cents(rng, middle),
            status="Open" if rng.random() < 0.6 else "Dismissed",
            active=rng.random() > 0.03,
            bumped=rng.random() < 0.85,
        )
        for n in range(number)
    ]
    if not offers or rng.random() > 0.48:
        if offers and rng.random() < 0.03:
            offers[0] = offers[0]._replace(status="Dismissed", sold=_settled(written, unit))
        return offers
    chance = rng.random()
    wait = 0 if chance < 0.45 else 1 + int(rng.random() * 14) if chance < 0.85 else 15 + int(rng.random() * 135)
    sold = written + 900 if wait == 0 else moment_on(rng, local_day(written) + wait)
    sold = _settled(sold, unit)
    if sold >= desk.now:
        return [offer._replace(status="Open") for offer in offers]
    offers[0] = offers[0]._replace(status="Sold", sold=sold)
    later = _settled(sold + int((1 + rng.random() * 10) * DAY), unit)
    if later < desk.now and rng.random() < 0.12:
        if number > 1:
            offers[1] = offers[1]._replace(status="Sold", sold=later)
        else:
            offers.append(Offer(later - 600, _cents(rng, 500), "Sold", later, change_order=True))
    return offers


def _plan_lead(desk: Desk, unit: Unit, created: int, job_type: JobType, party: Party) -> Lead:
    """Decide the life of a job of a Sales unit."""
    rng = desk.rng
    visits = _visits(desk, created)
    done = _settled((visits[-1].start if visits else created) + HOUR + int(rng.random() * 2 * HOUR), unit)
    chance = rng.random()
    fee = 8_900 if rng.random() < 0.10 else 0
    if chance < 0.11:
        kept = done if rng.random() < 0.4 and done < desk.now else None
        visits = [visit._replace(status="Canceled") for visit in visits]
        offers = _offers(desk, unit, kept) if kept and rng.random() < 0.3 else ()
        return Lead(party, unit, job_type, created, "Canceled", kept, visits, offers)
    if chance < 0.13 or done >= desk.now:
        status = "Hold" if chance < 0.13 else "Scheduled"
        visits = [visit._replace(status=status) if visit.status == "Done" else visit for visit in visits]
        return Lead(party, unit, job_type, created, status, None, visits)
    offers = _offers(desk, unit, done)
    if any(offer.sold for offer in offers) and rng.random() < 0.04:
        return Lead(party, unit, job_type, created, "InProgress", None, visits, offers, fee)
    return Lead(party, unit, job_type, created, "Completed", done, visits, offers, fee)


def _write_lead(desk: Desk, lead: Lead) -> None:
    """Write a Sales job with its appointments, estimates, invoice and payments, and queue the work it sold."""
    rng, add, ids = desk.rng, desk.store.add, desk.ids
    job_id, invoice_id = next(ids), next(ids)
    visit_ids = [next(ids) for _ in lead.visits]
    offer_ids = [next(ids) for _ in lead.offers]
    last = max([lead.created, lead.completed or 0, *(offer.created for offer in lead.offers)])
    for ordinal, (id_, visit) in enumerate(zip(visit_ids, lead.visits, strict=True), 1):
        modified = _modified(desk, min(visit.start, last))
        row = records.appointment(
            id_, job_id, lead.party, ordinal, visit.start, 2, visit.status, lead.created, modified, visit.active
        )
        add("appointments", row)
    for id_, offer in zip(offer_ids, lead.offers, strict=True):
        changed = max(offer.created, offer.sold or 0)
        modified = _modified(desk, changed) if offer.bumped else offer.created
        unit = None if id_ % 23 == 0 else lead.unit if id_ % 17 else UNIT["Tucson-Production"]
        row = records.estimate(
            id_,
            lead.party,
            unit,
            job_id,
            offer.created,
            modified,
            offer.status,
            offer.sold,
            offer.cents,
            offer.active,
            offer.change_order,
        )
        add("estimates", row, datetime.fromtimestamp(max(changed, modified), UTC))
    no_charge = not lead.offers and not lead.fee
    _bill(desk, lead.party, lead.unit, job_id, lead.job_type, lead.fee, invoice_id, lead.created, lead.completed)
    row = records.job(
        job_id,
        lead.party,
        lead.unit,
        lead.job_type,
        lead.created,
        _modified(desk, last),
        lead.status,
        lead.completed,
        visit_ids,
        invoice_id,
        offer_ids,
        lead.fee,
        no_charge if job_id % 9 else not no_charge,
    )
    add("jobs", row)
    sold = [(id_, offer) for id_, offer in zip(offer_ids, lead.offers, strict=True) if _is_sold(offer)]
    if sold and lead.unit.region and lead.status != "Canceled" and rng.random() < 0.85:
        id_, first = sold[0]
        due = first.sold + int(rng.random() * 3 * DAY)
        queue = desk.work.setdefault((lead.unit.region, lead.unit.segment), [])
        heapq.heappush(queue, Work(due, id_, sum(offer.cents for _, offer in sold), lead.party))


def _is_sold(offer: Offer) -> bool:
    return offer.active and offer.status == "Sold"


def _start(desk: Desk, created: int) -> int:
    """When a crew starts: in weeks, months ahead, or on the day that ends the one-year horizon of its week."""
    rng = desk.rng
    day, chance = local_day(created), rng.random()
    if chance < 0.92:
        day += 2 + int(rng.expovariate(1 / 12))
    elif chance < 0.98:
        day += 45 + int(rng.random() * 380)
    else:
        sunday = day + (3 - day) % 7  # day 3 of 1970 was a Sunday
        day = sunday + 365 + int(rng.random() * 2)
    return moment_on(rng, day) if rng.random() < 0.06 else at(day, 7 + int(rng.random() * 3))


def _write_production(desk: Desk, unit: Unit, created: int) -> None:
    """Write a job of a Production unit: the oldest sold work that is due, or a repeat customer, service or warranty."""
    rng, add, ids = desk.rng, desk.store.add, desk.ids
    queue = desk.work.get((unit.region, unit.segment))
    estimate_id = warranty_id = None
    if queue and queue[0].due <= created:
        _, estimate_id, cents, party = heapq.heappop(queue)
        job_type = _pick(rng, PAINTING_TYPES)
    else:
        party = _caller(desk, unit, created)
        job_type = _pick(rng, SERVICE_TYPES if rng.random() < 0.85 else PAINTING_TYPES)
        free = job_type.name in FREE_WORK and rng.random() < 0.8
        cents = 0 if free else _cents(rng, 350 if job_type in SERVICE_TYPES else 3000)
    if desk.painted and rng.random() < (0.6 if job_type.name in FREE_WORK else 0.02):
        warranty_id = rng.choice(desk.painted)
    job_id, invoice_id = next(ids), next(ids)

    start = _start(desk, created)
    days = 1 + min(cents // 150_000, 6)
    done: int | None = start + (days - 1) * DAY + 6 * HOUR
    canceled = rng.random() < 0.05
    if done >= desk.now or (canceled and rng.random() < 0.7):
        done = None
    status = "Canceled" if canceled else "Completed" if done else "InProgress" if start < desk.now else "Scheduled"
    visit_status = {"Completed": "Done", "InProgress": "Working"}.get(status, status)
    visits = [Visit(start, visit_status)]
    chance = rng.random()
    if chance < 0.03:
        visits = [Visit(start, "Scheduled", active=False), Visit(start + DAY, visit_status)]
    elif chance < 0.06:
        visits = [Visit(start, "Canceled"), Visit(start + 3 * DAY, visit_status)]
    elif chance < 0.20:
        visits.append(Visit(start + DAY, visit_status))
    visit_ids = [next(ids) for _ in visits]
    changed = max(created, min(start, desk.now - HOUR) if start < desk.now else created, done or 0)
    for ordinal, (id_, visit) in enumerate(zip(visit_ids, visits, strict=True), 1):
        if ordinal == 1 and 0.20 < chance < 0.23:
            continue  # the job names a first appointment that no list returns
        row = records.appointment(
            id_, job_id, party, ordinal, visit.start, 8, visit.status, created, _modified(desk, changed), visit.active
        )
        add("appointments", row)
    if chance > 0.985:
        visit_ids = []

    change_id = None
    if estimate_id and done and rng.random() < 0.08:
        change_id = next(ids)
        sold = done - 2 * HOUR
        row = records.estimate(
            change_id, party, unit, job_id, sold, sold, "Sold", sold, _cents(rng, 400), change_order=True
        )
        add("estimates", row)
    _bill(desk, party, unit, job_id, job_type, cents, invoice_id, created, done, canceled=canceled)
    row = records.job(
        job_id,
        party,
        unit,
        job_type,
        created,
        _modified(desk, changed),
        status,
        done,
        visit_ids,
        invoice_id,
        [change_id] if change_id else [],
        cents,
        no_charge=cents == 0,
        warranty_id=warranty_id,
        from_estimate=estimate_id,
    )
    add("jobs", row)
    if start < desk.now and (not canceled or rng.random() < 0.2):
        _pay(desk, party, unit, job_id, job_type, cents, invoice_id, start)
        _buy(desk, party, unit, job_id, cents, start)
        desk.painted.append(job_id)


def _bill(
    desk: Desk,
    party: Party,
    unit: Unit,
    job_id: int | None,
    job_type: JobType | None,
    cents: int,
    invoice_id: int,
    created: int,
    done: int | None,
    canceled: bool = False,
) -> None:
    """Write a job's invoices and what was paid on them. Balances are totals less active applications, to the cent."""
    rng, ids = desk.rng, desk.ids
    drafts = [_Draft(invoice_id, _lines(rng, cents), 0, local_day(done or created), created)]
    main = drafts[0]
    if not cents:
        main.day = None if invoice_id % 25 == 0 else main.day
    else:
        main.tax = cents // 50 if rng.random() < 0.3 else 0
        main.active = not (canceled and rng.random() < 0.5)
        chance = rng.random()
        after = (done or created) + int(rng.random() * 20 * DAY)
        if chance < 0.07:
            drafts.append(_Draft(next(ids), _lines(rng, cents // 10), 0, main.day, created))
        elif chance < 0.12 and after < desk.now:
            back = -int(cents * (0.05 + rng.random() * 0.15))
            credit = [Line("Service", back, 0)]
            drafts.append(_Draft(next(ids), credit, 0, local_day(after), after, adjustment_to=invoice_id))
        elif chance < 0.14:
            drafts.append(_Draft(next(ids), _lines(rng, cents), 0, main.day, created, active=False))
        _collect(desk, party, unit, drafts, created, done)
    job_ref = job_id and (job_id, job_type.name)
    for draft in drafts:
        id_ = draft.id
        own = unit if id_ % 27 or not job_ref else UNIT["Mesa-Sales"]
        modified = _modified(desk, max(draft.created, done or 0)) if id_ % 40 else None
        row = records.invoice(
            id_,
            party,
            own,
            job_ref,
            draft.day,
            draft.created,
            modified,
            draft.lines,
            draft.tax,
            draft.paid,
            draft.active,
            draft.adjustment_to,
            UNIT["Yuma-Production"] if id_ % 31 == 0 else None,
        )
        desk.store.add("invoices", row)


def _lines(rng: Random, cents: int) -> list[Line]:
    """Items that add up to `cents`; free work has no items, a free one, or one and its discount."""
    if not cents:
        return ([], [Line("Service", 0, 0)], [Line("Service", 5_000, 0), Line("PriceModifier", -5_000, 0)])[
            int(rng.random() * 3)
        ]
    chance = rng.random()
    if chance < 0.35:
        return [Line("Service", cents, 0)]
    material = cents // 5
    lines = [Line("Service", cents - material, cents // 50), Line("Material", material, int(cents * rng.random() / 8))]
    if chance > 0.93:
        lines.append(Line("Equipment", 0, cents // 20))
    return lines


def _collect(desk: Desk, party: Party, unit: Unit, drafts: list[_Draft], created: int, done: int | None) -> None:
    """Write the payments of an invoice and its companions, and note on the drafts what they settle."""
    rng, ids = desk.rng, desk.ids
    owed = sum(draft.total for draft in drafts if draft.active)
    payable = [draft for draft in drafts if draft.active and not draft.adjustment_to]
    chance = rng.random()
    if done is None:
        amount = int(owed * 0.3) if chance < 0.5 else 0
    elif chance < 0.72:
        amount = owed
    elif chance < 0.80:
        amount = owed - rng.choice((1, 999, 1_000, 1_001, 450, -250, -2_500))
    else:
        amount = int(owed * rng.random()) if chance < 0.92 else 0
    if owed <= 0 or amount <= 0:
        return
    number = 1 + int(rng.random() * 2.2) if done else 1
    for n in range(number):
        part = amount // number if n < number - 1 else amount - amount // number * (number - 1)
        base = created if n < number - 1 or done is None else done
        paid = moment_on(rng, local_day(base) + int(rng.expovariate(0.12)))
        if not created < paid < desk.now:
            continue
        active = rng.random() > 0.025
        applied = moment_on(rng, local_day(paid) + int(rng.random() * 20)) if rng.random() < 0.15 else paid
        applied = applied if paid < applied < desk.now else paid
        applications = []
        for draft in payable:
            cents = part if draft is payable[-1] else min(part, max(draft.total - draft.paid, 0))
            if cents > 0:
                applications.append(Application(next(ids), draft.id, cents, applied))
                part -= cents
                draft.paid += cents if active else 0
        unapplied = _cents(rng, 200) if rng.random() < 0.04 else 0
        chance = rng.random()
        if chance < 0.015:
            applications.append(Application(next(ids), next(ids), _cents(rng, 150), applied))
        elif not drafts[-1].active and chance < 0.5:
            applications.append(Application(next(ids), drafts[-1].id, _cents(rng, 150), applied))
        own = unit if chance < 0.8 else UNIT.get(f"{unit.region}-Sales", unit)
        id_ = next(ids)
        day = local_day(paid) - (rng.random() < 0.05)
        row = records.payment(id_, party, own, day, paid, _modified(desk, applied), applications, unapplied, active)
        desk.store.add("payments", row)
        back = paid + int(rng.random() * 20 * DAY)
        first = applications[0].invoice_id if applications else 0
        if active and first == payable[0].id and rng.random() < 0.015 and back < desk.now:
            cents = applications[0].cents // 4
            payable[0].paid -= cents
            refund = [Application(next(ids), payable[0].id, -cents, back)]
            row = records.payment(next(ids), party, own, local_day(back), back, back, refund, 0, refund_of=id_)
            desk.store.add("payments", row)


def _pay(
    desk: Desk,
    party: Party,
    unit: Unit,
    job_id: int,
    job_type: JobType,
    cents: int,
    invoice_id: int,
    start: int,
) -> None:
    """Write the gross pay of a crew, entered days or weeks later, and now and then an adjustment, which is also an item."""
    rng, ids, add = desk.rng, desk.ids, desk.store.add
    number = 3 + min(cents // 50_000, 10)
    labor = int(cents * (0.28 + rng.random() * 0.22)) or 8_000 + int(rng.random() * 30_000)
    first, crew, span = local_day(start), int(rng.random() * 24), 1 + number // 3
    for n in range(number):
        day = first + n % span
        created = moment_on(rng, day + _lateness(rng))
        if created >= desk.now:
            continue
        share = int(labor / number * (0.7 + 0.6 * rng.random()))
        id_ = next(ids)
        null = rng.random() < 0.06
        hours = round(share / 700) / 4  # quarters of an hour at $28
        row = records.gross_pay_item(
            None if null else id_,
            id_ - n % 2,
            401 + (crew + n % 3) % 24,
            unit.name,
            day,
            created,
            _modified(desk, created),
            "TimesheetTime" if n % 5 else "InvoiceRelatedBonus",
            share,
            hours if n % 5 else None,
            job_id,
            job_type.name,
            party,
            invoice_id,
        )
        add("payroll", row)
        if null and rng.random() < 0.4:
            add("payroll", row)
    posted = moment_on(rng, first + span + _lateness(rng))
    if rng.random() < 0.12 and posted < desk.now:
        id_, employee = next(ids), 401 + crew
        amount = _cents(rng, 60) * (-1 if rng.random() < 0.2 else 1)
        add("payroll_adjustments", records.payroll_adjustment(id_, employee, posted, amount, invoice_id, id_ % 15 != 0))
        row = records.gross_pay_item(
            next(ids),
            id_,
            employee,
            unit.name,
            local_day(posted),
            posted,
            posted,
            "CustomBonus",
            amount,
            None,
            job_id,
            job_type.name,
            party,
            invoice_id,
        )
        add("payroll", row)


def _lateness(rng: Random) -> int:
    """Days from work to payroll: mostly within ten, one in eight up to 45."""
    return 11 + int(rng.random() * 35) if rng.random() < 0.12 else int(rng.random() * 10)


def _buy(desk: Desk, party: Party | None, unit: Unit, job_id: int | None, cents: int, start: int) -> None:
    """Write purchase orders, a few of them canceled, and what went back to the vendor."""
    rng, ids, add = desk.rng, desk.ids, desk.store.add
    number = 0 if (chance := rng.random()) < 0.35 else 1 if chance < 0.85 else 2
    for _ in range(number):
        created = moment_on(rng, local_day(start) - int(rng.random() * 3))
        if created >= desk.now:
            continue
        chance, id_ = rng.random(), next(ids)
        status = "Canceled" if chance < 0.08 else "Received" if chance < 0.7 else "Sent" if chance < 0.9 else "Pending"
        goods = int(cents * (0.04 + rng.random() * 0.10)) or _cents(rng, 60)
        tax, shipping = goods * 8 // 100, 1_500 if chance * 100 % 1 < 0.3 else 0
        modified = _modified(desk, created)
        add(
            "purchase_orders",
            records.purchase_order(id_, party, unit, job_id, created, modified, status, goods, tax, shipping),
        )
        back = created + int(rng.random() * 15 * DAY)
        if rng.random() < 0.10 and back < desk.now:
            status = ("Returned", "CreditReceived", "Pending", "Canceled")[int(rng.random() * 4)]
            add("returns", records.vendor_return(next(ids), id_, job_id, unit, back, goods // 3, status))


def _write_loose_ends(desk: Desk, day: int, number: int) -> None:
    """Write what belongs to no job: counter sales, estimates by mail, shop pay, stock orders."""
    rng, ids, add = desk.rng, desk.ids, desk.store.add
    for _ in range(number):
        moment = moment_on(rng, day)
        unit = rng.choice(UNITS)
        party = rng.choice(desk.parties) if desk.parties else new_party(desk, unit, moment)
        if moment >= desk.now:
            continue
        _bill(desk, party, unit, None, None, _cents(rng, 120), next(ids), moment, moment)
        sold = _settled(moment + int(rng.random() * 5 * DAY), unit)
        status = "Sold" if rng.random() < 0.7 and sold < desk.now else "Open"
        row = records.estimate(
            next(ids), party, unit, None, moment, moment, status, sold if status == "Sold" else None, _cents(rng, 900)
        )
        add("estimates", row, datetime.fromtimestamp(sold if status == "Sold" else moment, UTC))
        _buy(desk, None, unit, None, 0, moment)
        for _ in range(4):
            created = moment_on(rng, day + _lateness(rng))
            if created < desk.now:
                id_ = next(ids)
                row = records.gross_pay_item(
                    id_ if rng.random() > 0.1 else None,
                    id_,
                    401 + int(rng.random() * 24),
                    unit.name,
                    day,
                    created,
                    created,
                    "Salary" if id_ % 2 else "TimesheetTime",
                    _cents(rng, 150, 0.2),
                    None if id_ % 2 else 4.5,
                )
                add("payroll", row)


def write_day(desk: Desk, day: int, number: int, shares: dict[Unit, float]) -> None:
    """Write `number` jobs booked on a local day in units drawn by their shares, and the day's loose ends."""
    rng = desk.rng
    units = rng.choices(tuple(shares), cum_weights=tuple(accumulate(shares.values())), k=number)
    for unit in units:
        created = moment_on(rng, day)
        if unit.division == "Sales" or (not unit.division and rng.random() < 0.5):
            party = _caller(desk, unit, created)
            _write_lead(desk, _plan_lead(desk, unit, created, _pick(rng, LEAD_TYPES), party))
        else:
            _write_production(desk, unit, created)
    _write_loose_ends(desk, day, int(number * 0.06 + rng.random()))


def _shares_on(day: int) -> dict[Unit, float]:
    """Shares of the units in a day's jobs: retired ones fade, and the known days' Phoenix-Sales jobs are not drawn."""
    known = day in KNOWN_WEEK or day in KNOWN_2024
    return {
        unit: share * (1 if unit.active or day < RETIRED_ON else 0.08)
        for unit, share in UNIT_SHARES.items()
        if not (known and unit.rollup == KNOWN_ROLLUP)
    }


def _jobs_on(day: int, scale: float, rng: Random) -> int:
    """How many jobs are booked on a local day, by weekday and season; on the known days of 2024 OTHERS_2024 in all."""
    if day in KNOWN_2024:
        done = accumulate(WEEKDAYS[(other + 3) % 7] for other in KNOWN_2024)
        cut = [0, *(round(OTHERS_2024 * scale * part / sum(WEEKDAYS)) for part in done)]
        return cut[day - KNOWN_2024[0] + 1] - cut[day - KNOWN_2024[0]]
    season = 1 + 0.1 * math.sin((day - 19_800) / 365.25 * math.tau)
    drawn = sum(_shares_on(day).values()) / sum(UNIT_SHARES.values()) if day in KNOWN_WEEK else 1
    expected = JOBS_A_WEEK * scale * WEEKDAYS[(day + 3) % 7] / sum(WEEKDAYS) * season * drawn
    return int(expected * (0.9 + 0.2 * rng.random()) + rng.random())


def _known_case(desk: Desk) -> None:
    """Write the two stretches of Phoenix-Sales whose figures are known; `desk` must be the same in every tenant."""
    _known_2024(desk)
    _known_week(desk)


def _known_2024(desk: Desk) -> None:
    """134 jobs, 124 of them of an estimate type for as many customers without a test name, 111 of these completed."""
    units = (UNIT["Phoenix-Sales"],) * 7 + (UNIT["Phoenix-Comm-Sales"], UNIT["Z-DO NOT USE - West - Sales"])
    for n in range(134):
        unit = units[n % len(units)]
        created = moment_on(desk.rng, KNOWN_2024[n % 7])
        if n in (6, 13):
            created = at(KNOWN_2024[6], 23, 30)
        types = ESTIMATE_TYPES if n < 124 else CONSULTING_TYPES
        party = new_party(desk, unit, created, name="Test" if n == 130 else "")
        status = "Completed" if n < 111 or n > 125 else "Hold" if n % 5 == 0 else "Canceled"
        while True:
            lead = _plan_lead(desk, unit, created, _pick(desk.rng, types), party)
            if lead.status == status:
                break
        _write_lead(desk, lead)


def _known_week(desk: Desk) -> None:
    """The week of 2025-08-18: 96 leads, of whom 31 bought; 85 estimates completed; 31 of 78 opportunities closed.

    Of 97 jobs for 96 customers 31 are sold in the week, 34 more completed in it, and 32 neither. The rest is what a
    wrong reading would add or miss.
    """
    rng = desk.rng
    monday = KNOWN_WEEK[0]
    phoenix, commercial, west = (
        UNIT[name] for name in ("Phoenix-Sales", "Phoenix-Comm-Sales", "Z-DO NOT USE - West - Sales")
    )
    inactive_type = next(job_type for job_type in ESTIMATE_TYPES if not job_type.active)

    def write(
        created: int,
        completed: int | None,
        offers: Sequence[Offer] = (),
        status: str = "Completed",
        unit: Unit = phoenix,
        job_type: JobType | None = None,
        party: Party | None = None,
        fee: int = 0,
    ) -> Party:
        party = party or new_party(desk, unit, created)
        visit_status = "Done" if completed else {"InProgress": "Working"}.get(status, status)
        visit = Visit((completed or created + 30 * DAY) - HOUR, visit_status)
        job_type = job_type or _pick(rng, ESTIMATE_TYPES)
        _write_lead(desk, Lead(party, unit, job_type, created, status, completed, [visit], offers, fee))
        return party

    def unsold(written: int) -> list[Offer]:
        return [Offer(written, _cents(rng, 3800), rng.choice(("Open", "Dismissed")))]

    def sold(written: int, moment: int) -> list[Offer]:
        return [Offer(written, _cents(rng, 3800), "Sold", moment, bumped=written % 3 > 0), *unsold(written)]

    # 31 sold in the week: 29 completed, one still open, one canceled afterwards.
    buyers = [write(at(monday, 8, 5), at(monday, 17, 30), sold(at(monday, 17, 30), at(monday, 18, 2)))]
    for n in range(1, 31):
        day = monday + n % 5
        created, completed = at(day, 7 + n % 4, n), at(day + n % 2, 13 + n % 4, n)
        closed = at(monday + 6, 23, 30) if n == 1 else completed + n * 600
        offers = sold(completed, closed)
        if n == 2:
            offers.append(Offer(closed, 45_000, "Sold", at(monday + 9, 10), change_order=True))
        unit = {3: commercial, 4: west, 5: west}.get(n, phoenix)
        job_type = inactive_type if n in (6, 7) else None
        status = {8: "InProgress", 9: "Canceled"}.get(n, "Completed")
        done = None if status == "InProgress" else completed
        buyers.append(write(created, done, offers, status, unit, job_type))

    # 42 completed and not sold, 30 of them booked in the week; and a test customer's, who is no lead.
    for n in range(30):
        day = monday + n % 5
        created, completed = at(day, 9, n), at(day + 1, 11, n)
        offers, fee, party = unsold(completed), 0, None
        if n == 0:
            offers.append(Offer(completed, 300_000, "Sold", completed + 600, active=False))
        elif n == 1:
            offers[0] = offers[0]._replace(status="Dismissed", sold=completed + 600)
        elif n == 2:
            offers, fee = [], 8_900
        elif n == 3:
            party = new_party(desk, phoenix, created, known=False)
        elif n == 4:
            party = new_party(desk, phoenix, created, merged_to=buyers[10].customer_id)
        elif n == 5:
            completed = at(monday + 6, 23, 30)
        write(created, completed, offers, party=party, fee=fee, unit=commercial if n == 6 else phoenix)
    created = at(monday + 1, 10)
    contest = new_party(desk, phoenix, created, name="Contest Winner")
    write(created, at(monday + 2, 10), unsold(at(monday + 2, 10)), party=contest)
    for n in range(11):
        created = at(monday - 1, 23, 30) if n == 0 else at(monday - 3 - n, 10, n)
        write(created, at(monday + n % 5, 14, n), unsold(at(monday + n % 5, 14, n)))

    # 6 completed at no charge, 4 of them booked in the week: estimates, but no opportunities.
    for n in range(6):
        created, completed = at(monday if n < 4 else monday - 5, 8, n), at(monday + 1 + n % 3, 15, n)
        write(created, completed, [Offer(completed, 120_000, active=False)] if n == 0 else ())

    # 8 booked earlier and completed in the week, but sold in another.
    for n in range(8):
        completed = at(monday + n % 5, 16, n)
        closed = completed - 6 * DAY if n < 4 else completed + (6 + n) * DAY
        write(at(monday - 12, 9, n), completed, sold(min(completed, closed) - HOUR, closed))

    # 5 consultations completed and not sold: opportunities, but neither leads nor estimates.
    for n in range(5):
        completed = at(monday + n, 12, n)
        write(at(monday + n, 8, n), completed, unsold(completed), job_type=CONSULTING_TYPES[n % 4])

    # 32 leads neither completed nor sold in the week, and a test customer's; the first buyer called twice.
    for n in range(32):
        created = at(monday + 6, 23, 30) if n == 0 else at(monday + n % 6, 12 + n % 7, n)
        party = buyers[0] if n == 31 else None
        if n < 10:
            completed = at(monday + 8 + n % 4, 10, n)
            write(created, completed, unsold(completed), unit=west if n == 1 else phoenix)
        elif n < 24:
            write(created, None, status=("Scheduled", "Hold", "InProgress")[n % 3])
        else:
            write(created, created + 4 * HOUR if n < 29 else None, status="Canceled", party=party)
    created = at(monday + 2, 9)
    write(created, None, status="Scheduled", party=new_party(desk, phoenix, created, name="TESTING - do not dispatch"))

    # Sold in the week without a job: booked, and nothing else.
    created = at(monday + 3, 9)
    row = records.estimate(next(desk.ids), buyers[1], phoenix, None, created, created, "Sold", created + HOUR, 210_000)
    desk.store.add("estimates", row)


def populate(store: Store, seed: int = 1, scale: float = 1) -> None:
    """Write a tenant into `store`: about JOBS_A_WEEK times `scale` jobs a week from FIRST_DAY to LAST_DAY."""
    now = end_of(day_number(LAST_DAY))
    for resource, record in references(UNITS, JOB_TYPES):
        store.add(resource, record)
    fixed = Desk(store, Random("the known case"), count(100_000), now)
    _known_case(fixed)
    desk = Desk(store, Random(f"tenant {seed}"), count(1_000_000), now, work=fixed.work)
    for day in range(day_number(FIRST_DAY), day_number(LAST_DAY) + 1):
        write_day(desk, day, _jobs_on(day, scale, desk.rng), _shares_on(day))
