"""How well and how fast the definition finder finds, on the tenant in the warehouse (`make bench-finder`).

For each KPI in turn definitions are drawn at random; the finder chooses which numbers to read and is told what the
drawn definition gives. The same with 30% of the numbers off by one or two, and with truths that the finder does not
know. BENCH_SEED is heeded; the larger the tenant, the more its numbers tell. With the argument `speed`, only how fast.
"""

from __future__ import annotations

import os
import resource
import sys
import time
from dataclasses import dataclass
from datetime import date
from decimal import Decimal

import numpy as np

from stkpi import settings, warehouse
from stkpi.kpis.catalog import Kpi, read_catalog
from stkpi.reconcile.definitions import evaluate as cube
from stkpi.reconcile.definitions import find as finder
from stkpi.reconcile.observations import outcomes

HIDDEN = 20  # definitions for each KPI and question
READ = 6
NOISE = 0.3
PERIODS = 12  # of the speed
COLUMNS = ("top-1 at 4", "top-5 at 4", "top-1 at 6", "careless", "none fits")
TARGETS = (0.9, 1.0, 0.99, 0.97, 1.0)


@dataclass(frozen=True)
class Field:
    """A KPI's definitions: their values (periods by definitions) and which of them differ nowhere."""

    space: Kpi
    periods: list[cube.Period]
    values: np.ndarray
    prints: np.ndarray
    opening: int


@dataclass(frozen=True)
class Game:
    """After each number read: the place of the truth's class among the classes left (99 where it is none of them)."""

    ranks: list[int]
    left: int  # classes after the last number


def play(field: Field, truth: int, known: np.ndarray | bool = True, random: np.random.Generator | None = None) -> Game:
    """Let the finder find `truth` among the definitions that it knows; with `random`, NOISE of the numbers are off."""
    step = finder.smallest_step(field.space)
    likelihood = np.where(known, 0, -np.inf) + np.zeros(len(field.space), np.float32)
    alive = finder.select_plausible(likelihood)
    likelihood, ranks, place = likelihood[alive], [], field.opening
    numbers: list[cube.Number] = []
    classes: list[finder.Class] = []
    for _ in range(READ):
        value = field.values[place, truth]
        off = random.choice((-2, -1, 1, 2)) * step if random and random.random() < NOISE else 0
        number = reading(field, place, value + off)
        numbers.append(number)
        given = field.values[place, alive]
        likelihood = likelihood + finder.compute_log2_likelihood(given, number, step if random else None)
        left = finder.select_plausible(likelihood)
        alive, likelihood = alive[left], likelihood[left]
        classes = finder.rank_classes(alive, likelihood, field.space.bits[alive], field.prints[alive])
        ranks.append(next((i for i, c in enumerate(classes) if field.prints[c.definition] == field.prints[truth]), 99))
        if len(alive):
            place = following(field, numbers, alive, likelihood, classes[0].definition)
    return Game(ranks, len(classes))


def following(
    field: Field, numbers: list[cube.Number], alive: np.ndarray, likelihood: np.ndarray, simplest: int
) -> int:
    """The place of the number that the finder asks for next."""
    read = {number.period for number in numbers}
    asked = {place for place, period in enumerate(field.periods) if period in read}
    place = finder.choose_next_question(field.values[:, alive], np.exp2(likelihood - likelihood.max()), asked)
    if place is not None:
        return place
    near = field.values[:, finder.list_neighbors(field.space, simplest)]
    return finder.choose_confirming_period(field.periods, numbers, field.values[:, simplest], near)


def reading(field: Field, place: int, value: float) -> cube.Number:
    """A value as a person reads it: a whole number, money to the cent, a ratio to the hundredth of a percent."""
    ratio = finder.smallest_step(field.space) < 1
    period = field.periods[place]
    shown = Decimal(repr(round(float(value), 4 if ratio else 2)))
    return cube.Number(period.unit, period.first, period.last, shown, Decimal("0.00005" if ratio else "0.005"))


def read_field(target: warehouse.Warehouse, space: Kpi, config: settings.Settings) -> Field:
    """The values of a KPI's definitions for every period that the finder could ask about."""
    periods = finder.list_questions(finder.list_units(target, space), newest_day(target))
    values = finder.round_as_read(
        space, cube.compute_table(cube.load_candidates(target, space, periods, config.time_zone), periods)
    )
    opening = finder.choose_next_question(values, np.ones(len(space)), ())
    return Field(space, periods, values, finder.fingerprint_definitions(values), opening or 0)


def newest_day(target: warehouse.Warehouse) -> date:
    """The day that the KPI tables reach."""
    return outcomes.covered_days(target)["last_day"].max()


def outside(field: Field, random: np.random.Generator) -> tuple[int, np.ndarray]:
    """A truth, and which definitions lack one of its options, such that each of them differs from it on half of the
    periods at least: what differs once in 36 cannot be told by six numbers.
    """
    while True:
        truth = int(random.integers(len(field.space)))
        places = np.unravel_index(truth, field.space.shape)
        dimension = int(random.choice([i for i, n in enumerate(field.space.shape) if n > 1]))
        known = np.ones(field.space.shape, bool)
        np.moveaxis(known, dimension, 0)[places[dimension]] = False
        known = known.ravel()
        same = np.zeros(len(field.space), np.int8)
        for given in field.values:
            same += (given == given[truth]) | (np.isnan(given) & np.isnan(given[truth]))
        if same[known].max() <= len(field.periods) / 2:
            return truth, known


def share(games: list[Game], read: int, first: int) -> float:
    """Of the truths, those among the `first` classes after so many numbers."""
    return float(np.mean([game.ranks[read - 1] < first for game in games]))


def speed(target: warehouse.Warehouse, config: settings.Settings) -> None:
    """Print how long the largest space takes for PERIODS numbers, the query included."""
    space = max(read_catalog().values(), key=len)
    periods = finder.list_questions(finder.list_units(target, space), newest_day(target))[:PERIODS]
    began = time.perf_counter()
    cube.compute_table(cube.load_candidates(target, space, periods, config.time_zone), periods)
    seconds = time.perf_counter() - began
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    print(
        f"{space.label}: {len(space):,} definitions, {len(periods)} numbers: {seconds:.1f} s, {memory:.1f} GB at most\n"
    )


def main() -> int:
    """Print a line per KPI and the totals beside their targets; 1 where one is missed."""
    random = np.random.default_rng(int(os.environ.get("BENCH_SEED", "1")))
    config = settings.load()
    found: list[Game] = []
    careless: list[Game] = []
    unknown: list[Game] = []
    with warehouse.connect() as target:
        speed(target, config)
        if sys.argv[1:] == ["speed"]:
            return 0
        print("shares in %".ljust(22) + "".join(f"{name:>12}" for name in COLUMNS))
        for kpi in read_catalog().values():
            field = read_field(target, kpi, config)
            truths = [int(truth) for truth in random.integers(len(field.space), size=2 * HIDDEN)]
            games = (
                [play(field, truth) for truth in truths[:HIDDEN]],
                [play(field, truth, random=random) for truth in truths[HIDDEN:]],
                [play(field, *outside(field, random)) for _ in range(HIDDEN)],
            )
            tell(kpi.label, *games)
            found, careless, unknown = found + games[0], careless + games[1], unknown + games[2]
    shares = tell(f"all {len(found) + len(careless) + len(unknown)}", found, careless, unknown)
    print("target".ljust(22) + "".join(f"{100 * target:>12.0f}" for target in TARGETS))
    return int(any(reached < target for reached, target in zip(shares, TARGETS, strict=True)))


def tell(name: str, found: list[Game], careless: list[Game], unknown: list[Game]) -> tuple[float, ...]:
    """Print the shares of a line and return them."""
    none = float(np.mean([game.left == 0 for game in unknown]))
    shares = (share(found, 4, 1), share(found, 4, 5), share(found, 6, 1), share(careless, 6, 5), none)
    print(name.ljust(22) + "".join(f"{100 * value:>12.1f}" for value in shares), flush=True)
    return shares


if __name__ == "__main__":
    sys.exit(main())
