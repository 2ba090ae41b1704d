"""A painting contractor in Arizona, generated: what its branches sold, painted, billed and paid, day by day.

`populate` writes a whole ServiceTitan tenant into a store. It is deterministic: one seed, one tenant. A job's life is
planned when the job is booked, and its records are written at once, as they stand at the end of LAST_DAY; only sold
work that waits for a crew and a few recent customers are kept, so memory does not grow with the volume.

Two weeks of Phoenix-Sales are the same in every seed and at every scale (`known_case`): the week of 2025-08-18
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
- Jobs: canceled with a `completedOn`, no-charge by rule but not by flag and vice versa, first appointments
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

import math
from datetime import date
from itertools import accumulate, count
from random import Random

from sandbox.known_case import KNOWN_2024, OTHERS_2024, write_known_case
from sandbox.lifecycle import KNOWN_ROLLUP, KNOWN_WEEK, Desk, make_moment, to_day_number, write_day
from sandbox.organization import UNIT_SHARES, list_references
from sandbox.records import Unit
from sandbox.store import Store

FIRST_DAY = date(2024, 7, 1)
LAST_DAY = date(2025, 9, 14)
TIME_ZONE = "America/Phoenix"
JOBS_A_WEEK = 630
WEEKDAYS = (1.15, 1.10, 1.05, 1.00, 0.95, 0.45, 0.30)
FIRST_GENERATED_ID = 1_000_000  # smaller ids are the known case and the settings
RETIRED_ON = to_day_number(date(2025, 1, 1))


def compute_shares(day: int) -> dict[Unit, float]:
    """Compute the units' shares of a day's jobs: retired ones fade; Phoenix-Sales gets none on the known days."""
    known = day in KNOWN_WEEK or day in KNOWN_2024
    return {
        unit: share * (1 if unit.active or day < RETIRED_ON else 0.08)
        for unit, share in UNIT_SHARES.items()
        if not (known and unit.rollup == KNOWN_ROLLUP)
    }


def _draw_job_count(day: int, scale: float, rng: Random) -> int:
    """Draw the number of jobs of a local day, by weekday and season; on the known days of 2024 OTHERS_2024 in all."""
    if day in KNOWN_2024:
        done = accumulate(WEEKDAYS[(other + 3) % 7] for other in KNOWN_2024)
        cut = [0, *(round(OTHERS_2024 * scale * part / sum(WEEKDAYS)) for part in done)]
        return cut[day - KNOWN_2024[0] + 1] - cut[day - KNOWN_2024[0]]
    season = 1 + 0.1 * math.sin((day - 19_800) / 365.25 * math.tau)
    drawn = sum(compute_shares(day).values()) / sum(UNIT_SHARES.values()) if day in KNOWN_WEEK else 1
    expected = JOBS_A_WEEK * scale * WEEKDAYS[(day + 3) % 7] / sum(WEEKDAYS) * season * drawn
    return int(expected * (0.9 + 0.2 * rng.random()) + rng.random())


def populate(store: Store, seed: int = 1, scale: float = 1) -> None:
    """Write a tenant into `store`: about JOBS_A_WEEK times `scale` jobs a week from FIRST_DAY to LAST_DAY."""
    now = make_moment(to_day_number(LAST_DAY), 24)
    for resource, record in list_references():
        store.add(resource, record)
    fixed = Desk(store, Random("the known case"), count(100_000), now)
    write_known_case(fixed)
    desk = Desk(store, Random(f"tenant {seed}"), count(FIRST_GENERATED_ID), now, work=fixed.work)
    for day in range(to_day_number(FIRST_DAY), to_day_number(LAST_DAY) + 1):
        write_day(desk, day, _draw_job_count(day, scale, desk.rng), compute_shares(day))
