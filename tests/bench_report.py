"""What `make bench-ingest` says of what it measured: Markdown, a chart, and which goals are met."""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from statistics import median

import duckdb
import matplotlib as mpl
import numpy as np
import psutil

TITLES = {
    "a": "A first read of all lists",
    "a10": "A first read of ten times as much",
    "b": "30 days of gross pay at 60 calls a second, 150 ms each",
    "c": "The ingest of a night after 1% changed",
    "d": "The KPIs of ten times the volume after one changed week",
    "e": "A whole night in which nothing changed",
    "f": "The search of all definitions for 12 numbers",
    "g": "The comparison of an export with the warehouse",
}
# Each with its name in the report. Those with a file in tests/contenders/ get an environment of its own from it.
CONTENDERS = {
    "ours": "Tieout",
    "bare": "requests, nothing kept",
    "servicepytan": "servicepytan, pandas, DuckDB",
    "dlt": "dlt into DuckDB",
    "singer": "Singer tap into a file",
}


@dataclass(frozen=True)
class Run:
    """One run of a program: seconds by the clock and of the CPU, peak memory in MB, requests, records in the end."""

    seconds: float
    cpu: float
    memory: float
    requests: int
    records: int


@dataclass(frozen=True)
class Case:
    """What is measured: the runs of each program, and the program that the report is about."""

    main: str
    runs: dict[str, list[Run]]

    def compute_seconds(self, name: str) -> float:
        """Return the median of the runs of a program. Raises KeyError where there is none."""
        return median(each.seconds for each in self.runs[name])

    def compute_memory(self, name: str) -> float:
        """Return the largest memory of the runs of a program. Raises KeyError where there is none."""
        return max(each.memory for each in self.runs[name])


@dataclass(frozen=True)
class Goal:
    """A goal: its words, the largest value (or the least one), and how the value is computed from the cases."""

    words: str
    limit: float
    compute: Callable[[dict[str, Case]], float]
    at_least: bool = False

    def show(self, cases: dict[str, Case]) -> str:
        """Return a row of a Markdown table."""
        bound = f"{'at least' if self.at_least else 'at most'} {self.limit:g}"
        try:
            value = self.compute(cases)
        except KeyError:
            return f"| {self.words} | {bound} | not measured | |"
        met = value >= self.limit if self.at_least else value <= self.limit
        return f"| {self.words} | {bound} | {value:.3g} | {'yes' if met else 'no'} |"


FULL, WEEKLY = "10 times, all", "10 times, one changed week"
GOALS = (
    Goal("a first read, times the bare loop", 2, lambda c: divide(c["a"], "ours", "bare")),
    Goal("servicepytan, times ours", 2, lambda c: divide(c["a"], "servicepytan", "ours"), at_least=True),
    Goal("dlt, times ours", 20, lambda c: divide(c["a"], "dlt", "ours"), at_least=True),
    Goal("peak memory of a first read, MB", 500, lambda c: c["a"].compute_memory("ours")),
    Goal("the same at ten times the records, MB", 500, lambda c: c["a10"].compute_memory("ours")),
    Goal(
        "memory at ten times, times that at one",
        1.15,
        lambda c: c["a10"].compute_memory("ours") / c["a"].compute_memory("ours"),
    ),
    Goal("100,000 items of gross pay at the real pace, seconds", 10, lambda c: c["b"].compute_seconds("ours")),
    Goal(
        "a night after 1% changed, % of a first read",
        8,
        lambda c: 100 * c["c"].compute_seconds("ours") / c["a"].compute_seconds("ours"),
    ),
    Goal("all KPIs at ten times, times those at one", 10, lambda c: divide(c["d"], FULL, "1 times, all")),
    Goal("one changed week at ten times, % of all KPIs", 10, lambda c: 100 * divide(c["d"], WEEKLY, FULL)),
    Goal("a night in which nothing changed, seconds", 15, lambda c: c["e"].compute_seconds("nothing changed")),
    Goal(
        "the search of 1,000,000 definitions for 12 numbers, seconds",
        5,
        lambda c: c["f"].compute_seconds("ours") * 1e6 / c["f"].runs["ours"][0].records,
    ),
    Goal("the comparison of 100,000 rows, seconds", 10, lambda c: c["g"].compute_seconds("ours")),
)


def divide(case: Case, name: str, other: str) -> float:
    """Return how many times as long as the other a program takes. Raises KeyError where one was not run."""
    return case.compute_seconds(name) / case.compute_seconds(other)


def show_seconds(runs: list[Run]) -> str:
    """Return the median, and the fastest and the slowest of several."""
    seconds = sorted(each.seconds for each in runs)
    spread = f" ({seconds[0]:.1f} to {seconds[-1]:.1f})" if len(seconds) > 1 else ""
    return f"{median(seconds):.1f}{spread}"


def format_summary(cases: dict[str, Case]) -> list[str]:
    """The table of README.md: a row for each case, and what ran beside it."""
    lines = ["| what | records | seconds | MB | beside it |", "| --- | ---: | ---: | ---: | --- |"]
    for letter, case in cases.items():
        if runs := case.runs.get(case.main):
            beside = "; ".join(
                f"{CONTENDERS.get(name, name)} {show_seconds(others)} s, {case.compute_memory(name):.0f} MB"
                for name, others in case.runs.items()
                if name != case.main
            )
            records, memory = runs[-1].records, case.compute_memory(case.main)
            lines.append(f"| {TITLES[letter]} | {records:,} | {show_seconds(runs)} | {memory:.0f} | {beside} |")
    return lines


def format_details(cases: dict[str, Case]) -> Iterator[str]:
    """A table for each case: every program, and its ratio to the one that the case is about."""
    for letter, case in cases.items():
        yield from (f"({letter}) {TITLES[letter]}", "", "| | seconds | ratio | CPU | MB | requests | records |")
        yield "| --- | ---: | ---: | ---: | ---: | ---: | ---: |"
        for name, runs in case.runs.items():
            ratio = f"{divide(case, name, case.main):.2f}" if case.main in case.runs else ""
            yield (
                f"| {CONTENDERS.get(name, name)} | {show_seconds(runs)} | {ratio} | {median(r.cpu for r in runs):.1f} "
                f"| {case.compute_memory(name):.0f} | {median(r.requests for r in runs):.0f} | {runs[-1].records:,} |"
            )
        yield ""


def write_report(folder: Path, cases: dict[str, Case], absent: dict[str, str], scale: float, rounds: int) -> None:
    """Write ingest.json, .md and .png, and print the Markdown.

    absent: the contenders that could not be installed, each with the reason
    """
    memory = psutil.virtual_memory().total / 2**30
    machine = (
        f"{os.cpu_count()} cores, {memory:.0f} GB, Python {platform.python_version()}, DuckDB {duckdb.__version__}"
    )
    report = {"machine": machine, "scale": scale, "absent": absent, "cases": {k: asdict(v) for k, v in cases.items()}}
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "ingest.json").write_text(json.dumps(report, indent=1) + "\n")
    rounded = f"{rounds} round{'s' * (rounds > 1)}"
    measured = f"Measured on {machine}, {datetime.now(UTC):%Y-%m-%d}: medians of {rounded} (fastest to slowest)"
    lines = [*format_details(cases), f"{measured}{'' if scale == 1 else f', scale {scale:g}'}.", ""]
    lines += [*format_summary(cases), "", "| goal | wanted | measured | met |", "| --- | ---: | ---: | --- |"]
    lines += [goal.show(cases) for goal in GOALS]
    lines += [f"\nNot measured: {CONTENDERS[name]}. {reason}" for name, reason in absent.items()]
    (folder / "ingest.md").write_text("\n".join(lines) + "\n")
    draw(folder, cases)
    print("\n".join(lines))


def draw(folder: Path, cases: dict[str, Case]) -> None:
    """Draw a bar per program: the median, and a line from the fastest run to the slowest."""
    mpl.use("Agg")
    from matplotlib import pyplot as plt  # noqa: PLC0415 - after the choice of how it draws

    bars = [len(case.runs) + 1 for case in cases.values()]
    figure, panels = plt.subplots(
        len(cases),
        1,
        figsize=(9, 0.45 * sum(bars) + len(bars)),
        squeeze=False,
        layout="constrained",
        height_ratios=bars,
    )
    for panel, (letter, case) in zip(panels[:, 0], cases.items(), strict=True):
        seconds = np.array(
            [[f([each.seconds for each in runs]) for f in (median, min, max)] for runs in case.runs.values()]
        ).T
        spread = np.array([seconds[0] - seconds[1], seconds[2] - seconds[0]])
        labels = [CONTENDERS.get(name, name) for name in case.runs]
        panel.bar_label(panel.barh(labels, seconds[0], xerr=spread, color="#4c72b0"), fmt="  %.1f s")
        panel.invert_yaxis()
        panel.margins(x=0.12)
        panel.set_title(TITLES[letter], loc="left")
    figure.savefig(folder / "ingest.png", dpi=120)
