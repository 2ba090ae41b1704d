# ruff: noqa: PLR2004 (a plan of cases by number)
"""The two stretches of Phoenix-Sales whose figures are known from ServiceTitan's own reports, to the unit.

`write_known_case` must be given the same desk in every tenant: these rows depend on no seed and no scale. The rest of
the generator keeps away from them (see `lifecycle`).

The week of 2025-08-18: 97 jobs of 96 leads, of whom 31 bought; 85 estimates completed; 31 of 78 opportunities closed.
Beside what counts stands what a wrong reading would add or miss.
"""

from __future__ import annotations

from collections.abc import Sequence

from sandbox import lifecycle
from sandbox.lifecycle import (
    Desk,
    Lead,
    draw_cents,
    pick_job_type,
    plan_lead,
    write_lead,
    write_party,
)
from sandbox.painting import PAINTING
from sandbox.records import DAY, HOUR, JobType, Offer, Party, Unit, Visit

KNOWN_2024 = PAINTING.known.year_before
MONDAY = PAINTING.known.week[0]
ESTIMATE_TYPES, CONSULTING_TYPES = PAINTING.estimate_types, PAINTING.consulting_types
PHOENIX, COMMERCIAL, WEST = (
    PAINTING.unit_by_name[f"{name}Sales"] for name in ("Phoenix-", "Phoenix-Comm-", "Z-DO NOT USE - West - ")
)
INACTIVE_TYPE = next(job_type for job_type in ESTIMATE_TYPES if not job_type.active)
make_moment = PAINTING.clock.make_moment


def write_known_case(desk: Desk) -> None:
    """Write the two stretches of Phoenix-Sales whose figures are known; `desk` must be the same in every tenant."""
    _write_known_2024(desk)
    buyers = _write_closed_jobs(desk)
    _write_completed_jobs(desk, buyers)
    _write_other_leads(desk, buyers)


def _write_known_2024(desk: Desk) -> None:
    """Write 134 jobs: 124 of an estimate type, for as many customers without a test name, 111 of these completed."""
    units = (PHOENIX,) * 7 + (COMMERCIAL, WEST)
    for n in range(134):
        unit = units[n % len(units)]
        created = lifecycle.draw_moment(desk, KNOWN_2024[n % 7])
        if n in (6, 13):
            created = make_moment(KNOWN_2024[6], 23, 30)
        types = ESTIMATE_TYPES if n < 124 else CONSULTING_TYPES
        party = write_party(desk, unit, created, name="Test" if n == 130 else "")
        status = "Completed" if n < 111 or n > 125 else "Hold" if n % 5 == 0 else "Canceled"
        while True:
            lead = plan_lead(desk, unit, created, pick_job_type(desk.rng, types), party)
            if lead.status == status:
                break
        write_lead(desk, lead)


def _write_job(
    desk: Desk,
    created: int,
    completed: int | None,
    offers: Sequence[Offer] = (),
    *,
    status: str = "Completed",
    unit: Unit = PHOENIX,
    job_type: JobType | None = None,
    party: Party | None = None,
    fee: int = 0,
) -> Party:
    """Write one job, by default for somebody new and of some estimate type; return whose it is."""
    party = party or write_party(desk, unit, created)
    done = "Done" if completed else {"InProgress": "Working"}.get(status, status)
    visit = Visit((completed or created + 30 * DAY) - HOUR, done)
    job_type = job_type or pick_job_type(desk.rng, ESTIMATE_TYPES)
    write_lead(desk, Lead(party, unit, job_type, created, status, completed, [visit], offers, fee))
    return party


def _make_unsold_offers(desk: Desk, written: int) -> list[Offer]:
    return [Offer(written, draw_cents(desk.rng, 3800), desk.rng.choice(("Open", "Dismissed")))]


def _make_sold_offers(desk: Desk, written: int, sold: int) -> list[Offer]:
    offer = Offer(written, draw_cents(desk.rng, 3800), "Sold", sold, bumped=written % 3 > 0)
    return [offer, *_make_unsold_offers(desk, written)]


def _write_closed_jobs(desk: Desk) -> list[Party]:
    """Write 31 leads that bought in the week: 29 jobs completed in it, one in progress, one canceled after the sale."""
    # Monday 18:02 in Arizona is Tuesday in UTC.
    completed = make_moment(MONDAY, 17, 30)
    buyers = [
        _write_job(
            desk, make_moment(MONDAY, 8, 5), completed, _make_sold_offers(desk, completed, make_moment(MONDAY, 18, 2))
        )
    ]
    for n in range(1, 31):
        day = MONDAY + n % 5
        completed = make_moment(day + n % 2, 13 + n % 4, n)
        closed = make_moment(MONDAY + 6, 23, 30) if n == 1 else completed + n * 600
        offers = _make_sold_offers(desk, completed, closed)
        if n == 2:
            offers.append(Offer(closed, 45_000, "Sold", make_moment(MONDAY + 9, 10), change_order=True))
        status = {8: "InProgress", 9: "Canceled"}.get(n, "Completed")
        party = _write_job(
            desk,
            make_moment(day, 7 + n % 4, n),
            None if status == "InProgress" else completed,
            offers,
            status=status,
            unit={3: COMMERCIAL, 4: WEST, 5: WEST}.get(n, PHOENIX),
            job_type=INACTIVE_TYPE if n in (6, 7) else None,
        )
        buyers.append(party)
    created = make_moment(MONDAY + 3, 9)
    offer = Offer(created, 210_000, "Sold", created + HOUR)  # without a job: booked, and nothing else
    lifecycle.write_estimate(desk, next(desk.ids), offer, party=buyers[1], unit=PHOENIX, job=None)
    return buyers


def _write_completed_jobs(desk: Desk, buyers: Sequence[Party]) -> None:
    """Write 56 estimates and 5 consultations completed but not sold in the week: 47 opportunities, 34 leads."""
    for n in range(30):
        day = MONDAY + n % 5
        created, completed = make_moment(day, 9, n), make_moment(day + 1, 11, n)
        offers, fee, party = _make_unsold_offers(desk, completed), 0, None
        if n == 0:
            offers.append(Offer(completed, 300_000, "Sold", completed + 600, active=False))
        elif n == 1:
            offers[0] = offers[0]._replace(status="Dismissed", sold=completed + 600)
        elif n == 2:
            offers, fee = [], 8_900
        elif n == 3:
            party = write_party(desk, PHOENIX, created, known=False)
        elif n == 4:
            party = write_party(desk, PHOENIX, created, merged_to=buyers[10].customer_id)
        elif n == 5:
            completed = make_moment(MONDAY + 6, 23, 30)
        _write_job(desk, created, completed, offers, party=party, fee=fee, unit=COMMERCIAL if n == 6 else PHOENIX)

    created, completed = make_moment(MONDAY + 1, 10), make_moment(MONDAY + 2, 10)
    winner = write_party(desk, PHOENIX, created, name="Contest Winner")  # a test name: no lead
    _write_job(desk, created, completed, _make_unsold_offers(desk, completed), party=winner)
    for n in range(11):  # booked earlier, one of them on the Sunday night that is Monday in UTC
        created = make_moment(MONDAY - 1, 23, 30) if n == 0 else make_moment(MONDAY - 3 - n, 10, n)
        completed = make_moment(MONDAY + n % 5, 14, n)
        _write_job(desk, created, completed, _make_unsold_offers(desk, completed))
    for n in range(6):  # at no charge: no opportunities; four are leads
        completed = make_moment(MONDAY + 1 + n % 3, 15, n)
        offers = [Offer(completed, 120_000, active=False)] if n == 0 else ()
        _write_job(desk, make_moment(MONDAY if n < 4 else MONDAY - 5, 8, n), completed, offers)
    for n in range(8):  # booked earlier, and sold before or after the week
        completed = make_moment(MONDAY + n % 5, 16, n)
        closed = completed - 6 * DAY if n < 4 else completed + (6 + n) * DAY
        _write_job(
            desk,
            make_moment(MONDAY - 12, 9, n),
            completed,
            _make_sold_offers(desk, min(completed, closed) - HOUR, closed),
        )
    for n in range(5):
        completed = make_moment(MONDAY + n, 12, n)
        job_type = CONSULTING_TYPES[n % len(CONSULTING_TYPES)]
        _write_job(
            desk, make_moment(MONDAY + n, 8, n), completed, _make_unsold_offers(desk, completed), job_type=job_type
        )


def _write_other_leads(desk: Desk, buyers: Sequence[Party]) -> None:
    """Write 32 leads neither completed nor sold in the week, the last of the first buyer again, and a test customer."""
    for n in range(32):
        created = make_moment(MONDAY + 6, 23, 30) if n == 0 else make_moment(MONDAY + n % 6, 12 + n % 7, n)
        if n < 10:
            completed = make_moment(MONDAY + 8 + n % 4, 10, n)
            _write_job(desk, created, completed, _make_unsold_offers(desk, completed), unit=WEST if n == 1 else PHOENIX)
        elif n < 24:
            _write_job(desk, created, None, status=("Scheduled", "Hold", "InProgress")[n % 3])
        else:
            kept = created + 4 * HOUR if n < 29 else None  # a canceled job can keep its completedOn
            _write_job(desk, created, kept, status="Canceled", party=buyers[0] if n == 31 else None)
    created = make_moment(MONDAY + 2, 9)
    test = write_party(desk, PHOENIX, created, name="TESTING - do not dispatch")
    _write_job(desk, created, None, status="Scheduled", party=test)
