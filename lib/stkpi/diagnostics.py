"""Why a number differs: Leads and Total Booked counted in every way that people have counted them, side by side.

One query brings every row that any reading could count; a reading is data (a day, conditions, a measure) and is
evaluated over these rows. The first reading is the definition and equals the KPI table.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import date
from decimal import Decimal

import pandas as pd

from stkpi import settings, warehouse
from stkpi.errors import UserError
from stkpi.marts import build as marts
from stkpi.reconcile.render import mask
from stkpi.servicetitan import windows

OBSERVED = settings.ROOT / "expectations" / "observed.csv"

# Conditions, as pandas reads them; `@unit` is the business unit in question.
UNIT, TYPE, NO_TEST = "business_unit == @unit", "is_estimate", "not is_test_customer"
LEAD = (UNIT, TYPE, NO_TEST)
COMPLETED = "job_status == 'Completed'"
NOT_FOUND = "perhaps another window or unit: `make find KPI=leads` searches further"
THIS_WINDOW = pd.DateOffset(days=0)
YEAR_BEFORE = pd.DateOffset(years=1)

MEASURES: dict[str, Callable[[pd.DataFrame], int]] = {
    "customers": lambda jobs: jobs["customer_id"].nunique(),
    "merged customers": lambda jobs: jobs["root_customer_id"].nunique(),
    "jobs": len,
    "customers of each day": lambda jobs: int(jobs.groupby("created_date")["customer_id"].nunique().sum()),
}


@dataclass(frozen=True)
class Reading:
    """A way to count Leads: jobs whose `day` is in the window, moved back by `ago`, and that satisfy `where`."""

    name: str
    why: str
    where: tuple[str, ...] = LEAD
    day: str = "created_date"
    ago: pd.DateOffset = THIS_WINDOW
    measure: str = "customers"


READINGS = (
    Reading("Leads", "the definition: customers with an estimate job created, as ServiceTitan's report has it"),
    Reading(
        "sold only", "counts after a join to sold estimates: who asked and did not buy is lost", (*LEAD, "is_sold")
    ),
    Reading("completed only", "leaves out the jobs still open and the canceled ones", (*LEAD, COMPLETED)),
    Reading("a year before", "the same dates with last year's number, a slip when typing", ago=YEAR_BEFORE),
    Reading(
        "a year before, completed only",
        "last year's dates, and of these jobs only the completed",
        (*LEAD, COMPLETED),
        ago=YEAR_BEFORE,
    ),
    Reading("364 days before", "the same weekdays of last year", ago=pd.DateOffset(days=364)),
    Reading("by UTC day", "moves what was created in the evening to the next day", day="created_utc"),
    Reading("by completion", "counts a job when it was completed, not when the customer called", day="completed_date"),
    Reading("by start", "counts a job on the day of its first appointment", day="start_date"),
    Reading("by sale", "counts a job on the day of its first sale, and none without", day="sold_date"),
    Reading("sum of the days", "counts a customer again on each day", measure="customers of each day"),
    Reading("jobs", "counts a customer with two jobs twice", measure="jobs"),
    Reading("merged customers", "counts customers that were merged since as one", measure="merged customers"),
    Reading(
        "type spelt “Estimate”",
        "misses types that are spelt ESTIMATE or estimate",
        (UNIT, NO_TEST, "is_estimate_by_case"),
    ),
    Reading("any type", "counts jobs that are no estimates", (UNIT, NO_TEST)),
    Reading("without COMM", "leaves out the commercial units", (*LEAD, "segment != 'COMM'")),
    Reading(
        "the unit's own name",
        "leaves out units that roll up into it, the retired ones too",
        (*LEAD, "unit_name == @unit"),
    ),
    Reading("with test customers", "counts jobs that somebody made to try things out", (UNIT, TYPE)),
)
STEPS = (
    Reading("jobs created", "in the whole company", (), measure="jobs"),
    Reading("of the unit", "by the rolled-up name", (UNIT,), measure="jobs"),
    Reading("of an estimate type", "the name contains “estimate”, in any case", (UNIT, TYPE), measure="jobs"),
    Reading("not of test customers", "no “test” in the name, in any case", LEAD, measure="jobs"),
    Reading("customers", "each counted once", LEAD),
)


@dataclass(frozen=True)
class Window:
    """The days in question, both included."""

    first: date
    last: date

    def __str__(self) -> str:
        return f"{self.first:%b} {self.first.day} to {self.last:%b} {self.last.day}, {self.last.year}"


@dataclass(frozen=True)
class Leads:
    """The Leads of a unit, counted in every way.

    funnel: columns step, jobs or customers in the window, the same a year before, what the step asks
    readings: columns reading, leads, difference to the definition, why
    rows: the jobs behind each step of the funnel, names masked; behind the last, the first job of each customer
    """

    unit: str
    window: Window
    funnel: pd.DataFrame
    readings: pd.DataFrame
    rows: dict[str, pd.DataFrame]

    @property
    def headline(self) -> str:
        """The answer in one sentence."""
        created, count = self.funnel.iloc[0, 1], self.readings["leads"].iloc[0]
        return f"{self.unit}, {self.window}: {count:,} leads from {created:,} jobs created"

    def explain(self, numbers: str) -> pd.DataFrame:
        """For comma-separated numbers that somebody saw: the first reading that gives each; columns seen, reading, why.

        `also` names the other readings that happen to give the same number.
        """
        found = []
        for number in _numbers(numbers):
            same = self.readings[self.readings["leads"] == number]
            name, why = ("none of these", NOT_FOUND) if same.empty else same.iloc[0][["reading", "why"]]
            found.append({"seen": number, "reading": name, "why": why, "also": ", ".join(same["reading"].iloc[1:])})
        return pd.DataFrame(found, columns=["seen", "reading", "why", "also"])


def leads(business_unit: str, first_day: str, last_day: str, *, names: bool = False) -> Leads:
    """Count the Leads of a rolled-up unit from `first_day` to `last_day` (ISO days) in every way of READINGS.

    names: leave customers' names in the rows readable
    Raises UserError for a day or unit that cannot be, and before the KPIs were built.
    """
    window = _window(first_day, last_day)
    with warehouse.connect() as target:
        _check_units(target, [business_unit])
        jobs = _candidates(target, "leads", window)
    if not names:
        jobs["customer_name"] = jobs["customer_name"].map(mask)
    counted = [_count(reading, jobs, business_unit, window) for reading in READINGS]
    before = [_count(replace(step, ago=YEAR_BEFORE), jobs, business_unit, window) for step in STEPS]
    rows = {step.name: _behind(step, jobs, business_unit, window) for step in STEPS}
    rows["customers"] = rows["customers"].drop_duplicates("customer_id")
    return Leads(
        unit=business_unit,
        window=window,
        funnel=pd.DataFrame(
            {
                "step": [step.name for step in STEPS],
                str(window): [len(found) for found in rows.values()],
                "a year before": before,
                "what is left": [step.why for step in STEPS],
            }
        ),
        readings=pd.DataFrame(
            {
                "reading": [reading.name for reading in READINGS],
                "leads": counted,
                "difference": [count - counted[0] for count in counted],
                "why": [reading.why for reading in READINGS],
            }
        ),
        rows=rows,
    )


def _behind(reading: Reading, jobs: pd.DataFrame, unit: str, window: Window) -> pd.DataFrame:
    """The jobs that a reading counts, in the order of their creation."""
    first, last = (pd.Timestamp(day) - reading.ago for day in (window.first, window.last))
    found = jobs[jobs[reading.day].between(first, last)]
    for condition in reading.where:
        found = found.query(condition)
    return found.sort_values(["created_on", "job_id"])


def _count(reading: Reading, jobs: pd.DataFrame, unit: str, window: Window) -> int:
    return MEASURES[reading.measure](_behind(reading, jobs, unit, window))


# --- Total Booked ----------------------------------------------------------------------------------------------------

# The day that an estimate is booked on: column, name, why it is (not) taken.
BASES = (
    ("sold_date", "sold, local day", "the definition: the day of the sale in the tenant's time zone"),
    ("sold_utc", "sold, UTC day", "puts the evening's sales on the next day"),
    ("created_date", "created", "the day the estimate was written, often weeks before the sale"),
    ("completed_date", "job completed", "the end of the estimator's visit; loses estimates without a job"),
    ("invoice_date", "invoiced", "the job's first invoice; loses jobs without one"),
)
CUTS = {
    "all units": "amount == amount",
    "without COMM": "segment != 'COMM'",
    "without retired": "unit_is_active",
    "without both": "segment != 'COMM' and unit_is_active",
}


@dataclass(frozen=True)
class Booked:
    """Total Booked of some units, summed up in every way; money is Decimal.

    sums: columns business_unit, basis, a column per cut, why; the definition is the first row of a unit, all units
    by_day: columns business_unit, day, local, utc, difference; the days with sold estimates
    moving: the sold estimates that UTC puts on another day; columns business_unit, estimate_id, job_number, amount,
        sold_at (local time), utc_day
    support: columns basis, cut, fits, observed: how many of the observed numbers of Total Booked each way gives
    rows: the sold estimates behind the definition
    """

    window: Window
    sums: pd.DataFrame
    by_day: pd.DataFrame
    moving: pd.DataFrame
    support: pd.DataFrame
    rows: pd.DataFrame

    @property
    def headline(self) -> str:
        """What the definition gives for the first unit, beside the other bases."""
        unit = self.sums["business_unit"].iloc[0]
        amount, *others = self.sums[self.sums["business_unit"] == unit]["all units"]
        return f"{unit}: ${amount:,.0f} by the day of sale; other days ${min(others):,.0f} to ${max(others):,.0f}"

    @property
    def moved(self) -> str:
        """What UTC does to the days of the window."""
        change = sum(self.by_day["difference"], Decimal(0))
        return (
            f"{len(self.moving)} sales are on another day by UTC; the window as a whole has "
            f"${abs(change):,.2f} {'less' if change < 0 else 'more'} by UTC than by local days."
        )

    @property
    def verdict(self) -> str:
        """Which basis the observed numbers support."""
        if self.support.empty:
            return "Nobody has entered a number of Total Booked yet: read one in ServiceTitan's Daily WBR and enter it."
        best = self.support[self.support["fits"] == self.support["fits"].max()]
        named = " and ".join(f"“{row.basis}” of {row.cut}" for row in best.itertuples())
        return f"Of {best['observed'].iloc[0]} observed numbers, {best['fits'].iloc[0]} fit {named}."


def booked(business_units: str, first_day: str, last_day: str) -> Booked:
    """Sum up the sold estimates of comma-separated rolled-up units, Sales or Production, in every way.

    Raises UserError for a day or unit that cannot be, and before the KPIs were built.
    """
    window = _window(first_day, last_day)
    units = [unit.strip() for unit in business_units.split(",") if unit.strip()]
    with warehouse.connect() as target:
        _check_units(target, units)
        estimates = _candidates(target, "booked", window)
        support = _support(target)
    estimates = estimates[estimates["business_unit"].isin(units)].sort_values(["business_unit", "sold_on"])
    local, utc = (_of_days(estimates, basis, window) for basis in ("sold_date", "sold_utc"))
    sums = pd.DataFrame(
        {"business_unit": unit, "basis": name} | _cuts(estimates, unit, basis, window) | {"why": why}
        for unit in units
        for basis, name, why in BASES
    )
    return Booked(window, sums, _by_day(local, utc), _moving(pd.concat([local, utc])), support, local)


def _by_day(local: pd.DataFrame, utc: pd.DataFrame) -> pd.DataFrame:
    sums = {
        "local": local.groupby(["business_unit", "sold_date"])["amount"].sum(),
        "utc": utc.groupby(["business_unit", "sold_utc"])["amount"].sum(),
    }
    days = pd.DataFrame(sums).rename_axis(["business_unit", "day"])
    days = days.astype(object).where(days.notna(), Decimal(0))
    days = days.assign(difference=days["utc"] - days["local"]).reset_index()
    return days.assign(day=days["day"].dt.date)


def _moving(estimates: pd.DataFrame) -> pd.DataFrame:
    moving = estimates[estimates["sold_date"] != estimates["sold_utc"]].drop_duplicates("estimate_id")
    sold_at = moving["sold_on"].dt.tz_convert(settings.load().time_zone)
    moving = moving.assign(
        estimate_id=moving["estimate_id"].astype(str),
        sold_at=sold_at.dt.strftime("%a %b %d %H:%M"),
        utc_day=moving["sold_utc"].dt.strftime("%a %b %d"),
    )
    return moving.sort_values("sold_on")[["business_unit", "estimate_id", "job_number", "amount", "sold_at", "utc_day"]]


def _of_days(estimates: pd.DataFrame, basis: str, window: Window) -> pd.DataFrame:
    return estimates[estimates[basis].between(pd.Timestamp(window.first), pd.Timestamp(window.last))]


def _cuts(estimates: pd.DataFrame, unit: str, basis: str, window: Window) -> dict[str, Decimal]:
    """The sum of a unit by one basis, for each cut."""
    rows = _of_days(estimates[estimates["business_unit"] == unit], basis, window)
    return {cut: sum(rows.query(condition)["amount"], Decimal(0)) for cut, condition in CUTS.items()}


def _support(target: warehouse.Warehouse) -> pd.DataFrame:
    """Which basis and cut the ledger's numbers of Total Booked support; empty where it has none."""
    observed = _observed()
    fits: Counter[tuple[str, str]] = Counter()
    for number in observed.itertuples():
        window = _window(number.first_day, number.last_day)
        estimates = _candidates(target, "booked", window)
        for basis, name, _ in BASES:
            for cut, amount in _cuts(estimates, number.unit, basis, window).items():
                fits[name, cut] += abs(amount - Decimal(number.value)) <= Decimal(number.tolerance or 0)
    return pd.DataFrame(
        [(basis, cut, count, len(observed)) for (basis, cut), count in fits.most_common()],
        columns=["basis", "cut", "fits", "observed"],
    )


def _observed() -> pd.DataFrame:
    """The ledger's numbers of Total Booked, all columns text."""
    if not OBSERVED.exists():
        return pd.DataFrame()
    numbers = pd.read_csv(OBSERVED, dtype=str, keep_default_na=False)
    return numbers[(numbers["kpi"] == "total_booked") & (numbers["status"] != "superseded")]


# --- both ------------------------------------------------------------------------------------------------------------


def _window(first_day: str, last_day: str) -> Window:
    window = Window(windows.parse_day(first_day, "first_day"), windows.parse_day(last_day, "last_day"))
    if window.last < window.first:
        raise UserError(f"The window ends ({last_day}) before it starts ({first_day}): exchange the two days.")
    return window


def _check_units(target: warehouse.Warehouse, units: Sequence[str]) -> None:
    try:
        found = target.query("SELECT DISTINCT business_unit FROM st_ref_v2.dim_business_units ORDER BY business_unit")
    except target.NotFound:
        raise UserError("The KPIs were not built yet: run `make nightly` first.") from None
    for unit in units or [""]:
        if unit not in set(found["business_unit"]):
            raise UserError(f"There is no business unit “{unit}”. Choose from: {', '.join(found['business_unit'])}.")


def _candidates(target: warehouse.Warehouse, name: str, window: Window) -> pd.DataFrame:
    """The rows of sql/diagnostics/<name>.sql, days as timestamps."""
    rows = target.query(
        (marts.SQL / "diagnostics" / f"{name}.sql").read_text(encoding="utf-8"),
        time_zone=settings.load().time_zone,
        first_day=window.first,
        last_day=window.last,
    )
    days = [column for column in rows if column.endswith(("_date", "_utc"))]
    return rows.assign(**{day: pd.to_datetime(rows[day]) for day in days})


def _numbers(text: str) -> list[int]:
    try:
        return [int(number) for number in text.split(",") if number.strip()]
    except ValueError:
        raise UserError(f"seen must be whole numbers with commas between them, such as 31,124, not “{text}”.") from None
