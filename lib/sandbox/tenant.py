"""A made-up company, generated: what its units sold, did, billed and paid, day by day.

`populate` writes a whole ServiceTitan tenant into a store. It is deterministic: one seed, one tenant. A job's life is
planned when the job is booked, and its records are written at once, as they stand at the end of LAST_DAY; only sold
work that waits for a crew and a few recent customers are kept, so memory does not grow with the volume.

Two weeks of the painting company's Phoenix-Sales are the same in every seed and at every scale (`known_case`): the
week of 2025-08-18 and the days 2024-08-18 to 24, whose figures are known from ServiceTitan's own reports. Nothing else
of Phoenix-Sales is created on those days, completed or sold in that week.

Traps, planted on purpose:
- Units: COMM and retired units that roll up, a unit that the rollup file lacks, invoices, items, estimates and payments
  with another unit than their job's.
- Types: names in mixed case, inactive types, "Virtual Estimation" (not an estimate), estimate types in Production,
  near-names of the excluded and the warranty types, an excluded type with a `warrantyId`.
- Customers: test names (and "Contest", "Latest", which contain them), customers that are missing, inactive, merged in
  chains, with several jobs.
- Time: up to seven fractional digits (".9999999"), minutes around local midnight, hours that are the next day in UTC,
  ties of `modifiedOn` larger than a page, invoices without it, sales that do not bump it.
- Jobs: canceled with a `completedOn`, no-charge by rule but not by flag and vice versa, first appointments
  that are inactive, canceled or missing, starts up to 14 months ahead and around one year to the day.
- Appointments: canceled but active, inactive, moved.
- Estimates: sold late, twice, while inactive, without a job; dismissed with a `soldOn` left over; change orders.
- Invoices: adjustments, several a job, without a job, inactive, without a date at $0; items that are booked to another
  account than income, or to none.
- Payments: partial, over several invoices, unapplied, refunds, inactive, to inactive and to unknown invoices, applied
  days after they came in; locations left with $0.01, $9.99, $10.00, $10.01 or a credit.
- Credit memos: not yet used, used in part, void, on inactive and on unknown invoices, without a location.
- Payroll: null ids with equal rows, `jobId` 0, adjustments that are repeated as items, items up to 45 days late.
- Purchases: canceled orders, tax and shipping in the total, orders without a job, returns (some inactive), vendor bills
  of orders that count and of canceled ones, without an order, without a job.
- Calls: rows whose id is the job's, 0 for all that led to none; the export has them in another shape.
- Only in the hvac company: customers, locations, jobs and invoices that came with an import and say that they were
  created in year 1, invoices without a customer, 10 and 19 decimals, numbers that are no ids.
"""

from __future__ import annotations

import math
from datetime import date
from itertools import accumulate, count
from random import Random
from weakref import WeakKeyDictionary

from sandbox.companies import COMPANIES
from sandbox.known_case import write_known_case
from sandbox.lifecycle import Desk, write_day
from sandbox.organization import Company, list_references, to_day_number
from sandbox.painting import PAINTING
from sandbox.records import Unit
from sandbox.resources import RESOURCES
from sandbox.store import Store
from sandbox.truth import Books, read_books

FIRST_DAY = date(2024, 7, 1)
LAST_DAY = date(2025, 9, 14)
TIME_ZONE = PAINTING.time_zone
JOBS_A_WEEK = 630
WEEKDAYS = (1.15, 1.10, 1.05, 1.00, 0.95, 0.45, 0.30)
RETIRED_ON = to_day_number(date(2025, 1, 1))
DAYS_OF_IMPORTS = 28  # from FIRST_DAY on, in a company whose records are untidy


def compute_shares(company: Company, day: int) -> dict[Unit, float]:
    """Compute the units' shares of a day's jobs: retired ones fade; the known unit gets none on the known days."""
    known = company.known
    is_known = known and (day in known.week or day in known.year_before)
    return {
        unit: share * (1 if unit.active or day < RETIRED_ON else 0.08)
        for unit, share in company.units.items()
        if not (is_known and unit.rollup == known.rollup)
    }


def _draw_job_count(company: Company, day: int, scale: float, rng: Random) -> int:
    """Draw the number of jobs of a local day, by weekday and season; on the days a year before the known week, its."""
    known = company.known
    if known and day in known.year_before:
        done = accumulate(WEEKDAYS[(other + 3) % 7] for other in known.year_before)
        cut = [0, *(round(known.others * scale * part / sum(WEEKDAYS)) for part in done)]
        return cut[day - known.year_before[0] + 1] - cut[day - known.year_before[0]]
    season = 1 + 0.1 * math.sin((day - 19_800) / 365.25 * math.tau)
    is_known = known and day in known.week
    drawn = sum(compute_shares(company, day).values()) / sum(company.units.values()) if is_known else 1
    expected = JOBS_A_WEEK * scale * WEEKDAYS[(day + 3) % 7] / sum(WEEKDAYS) * season * drawn
    return int(expected * (0.9 + 0.2 * rng.random()) + rng.random())


def populate(store: Store, seed: int = 1, scale: float = 1) -> None:
    """Write a tenant into `store`: about JOBS_A_WEEK times `scale` jobs a week from FIRST_DAY to LAST_DAY."""
    company, first_day = COMPANIES[store.company], to_day_number(FIRST_DAY)
    now = company.clock.make_moment(to_day_number(LAST_DAY), 24)
    for resource, record in list_references(company):
        store.add(resource, record)
    desk = Desk(company, store, Random(f"tenant {seed}"), count(company.first_id), now)
    if company.known:
        fixed = Desk(company, store, Random("the known case"), count(100_000), now, work=desk.work)
        write_known_case(fixed)
    if company.is_untidy:
        desk.imports_end = first_day + DAYS_OF_IMPORTS
    for day in range(first_day, to_day_number(LAST_DAY) + 1):
        write_day(desk, day, _draw_job_count(company, day, scale, desk.rng), compute_shares(company, day))


_BOOKS: WeakKeyDictionary[Store, tuple[tuple[int, ...], Books]] = WeakKeyDictionary()


def open_books(store: Store) -> Books:
    """Read the tenant's books, again only when a record has changed: it takes seconds, and reports are many."""
    version = tuple(store.version(resource) for resource in RESOURCES)
    if store not in _BOOKS or _BOOKS[store][0] != version:
        company = COMPANIES[store.company]
        _BOOKS[store] = version, read_books(store, company.time_zone, company.rules)
    return _BOOKS[store][1]
