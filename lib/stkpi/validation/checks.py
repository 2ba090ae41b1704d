"""Checks: measures against the limits of expectations/thresholds.yml, and the color that follows."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field, replace
from math import isfinite
from pathlib import Path
from typing import Any

import yaml

from stkpi import settings
from stkpi.errors import UserError, suggest_name
from stkpi.kpis.definition import Definition

FOLDER = settings.ROOT / "expectations"
THRESHOLDS = FOLDER / "thresholds.yml"
COLORS = ("red", "yellow", "green")
SEVERITIES = ("critical", "warning")
SHOWN = 20  # measures of one check that validation.json names


@dataclass(frozen=True)
class Rule:
    """Limits of a check: a value up to `green` is green, one above `red` is red, what lies between is yellow.

    title, remedy   what holds when it is green, and what to do when it does not
    items           limits of single measures, by their name
    least           `series` leaves out what usually has fewer rows than this
    kpi             the check holds for the default definition of this KPI; where another is adopted it is not made
    """

    title: str
    severity: str
    green: float
    red: float
    remedy: str
    items: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    least: float = 0
    kpi: str = ""

    def color(self, item: str, value: float) -> str:
        """Return the color of a measure. A value that is not a number is red: it was not measured."""
        limits = {"green": self.green, "red": self.red} | dict(self.items.get(item, {}))
        return "green" if value <= limits["green"] else "yellow" if value <= limits["red"] else "red"


@dataclass(frozen=True)
class Measure:
    """One value that a check looked at, in words (`detail`); `item` says of what, such as an entity or a unit."""

    item: str
    value: float
    detail: str


@dataclass(frozen=True)
class Check:
    """A check and what it found. `measures` holds what is not green, `found` the worst of all in one sentence."""

    name: str
    title: str
    severity: str
    color: str
    found: str
    remedy: str
    measures: tuple[Measure, ...] = ()

    @property
    def is_blocking(self) -> bool:
        """Whether the nightly run must fail for it."""
        return self.color == "red" and self.severity == "critical"

    def to_dict(self) -> dict[str, Any]:
        """Return the check as validation.json has it."""
        measures = [
            asdict(measure) | {"value": measure.value if isfinite(measure.value) else None}  # JSON has no infinity
            for measure in self.measures[:SHOWN]
        ]
        return asdict(self) | {"measures": measures}


@dataclass(frozen=True)
class Thresholds:
    """The limits: rules by kind of expectation, and rules by name of a check, which go first."""

    expectations: Mapping[str, Rule]
    checks: Mapping[str, Rule]


def read_thresholds(path: Path = THRESHOLDS) -> Thresholds:
    """Read the file of limits. Raises UserError for a field that is missing, unknown or out of order."""
    try:
        kinds = yaml.safe_load(path.read_text(encoding="utf-8"))
        parts = {kind: {name: Rule(**rule) for name, rule in rules.items()} for kind, rules in kinds.items()}
        read = Thresholds(**parts)
    except (TypeError, AttributeError, yaml.YAMLError) as error:
        raise UserError(f"{path} cannot be read as limits: {error}") from None
    for name, rule in {**read.expectations, **read.checks}.items():
        if rule.severity not in SEVERITIES or rule.green > rule.red:
            raise UserError(f"{path}: {name} needs a severity ({', '.join(SEVERITIES)}) and green not above red.")
    return read


def change_limits(limits: Thresholds, changes: Mapping[str, Mapping[str, Any]]) -> Thresholds:
    """Return the limits with what company.yml says in their place: green, red, and items, which are added.

    Raises UserError for a check that does not exist, or another key.
    """
    changed = {"expectations": dict(limits.expectations), "checks": dict(limits.checks)}
    for name, change in changes.items():
        where = f"company.yml, thresholds of {name}"
        found = next((rules for rules in changed.values() if name in rules), None)
        if found is None:
            known = [*limits.checks, *limits.expectations]
            raise UserError(f"{where}: there is no such check; {suggest_name(str(name), known)}")
        rule = found[name]
        try:
            green, red = (float(change.get(color, getattr(rule, color))) for color in ("green", "red"))
            items = {**rule.items, **{item: dict(given) for item, given in change.get("items", {}).items()}}
            is_in_order = all(one["green"] <= one["red"] for one in ({"green": green, "red": red}, *items.values()))
        except (AttributeError, KeyError, TypeError, ValueError):
            is_in_order = False
        if change.keys() - {"green", "red", "items"} or not is_in_order:
            raise UserError(f"{where}: it takes numbers for green and red, green not above red, and items with both.")
        found[name] = replace(rule, green=green, red=red, items=items)
    return Thresholds(**changed)


def judge(name: str, rule: Rule, measures: Iterable[Measure]) -> Check:
    """Return a check with the color of its worst measure; any red is red. Nothing measured is red as well."""
    colored = [(COLORS.index(rule.color(m.item, m.value)), -m.value, m.item, m) for m in measures]
    if not colored:
        return fail_check(name, rule, "there was nothing to look at")
    ranked = sorted(colored, key=lambda each: each[:3])
    worst, shown = ranked[0], tuple(each[3] for each in ranked if COLORS[each[0]] != "green")
    found = f"{worst[3].item}: {worst[3].detail}".removeprefix(": ")
    more = f" (and {len(shown) - 1} more)" if len(shown) > 1 else ""
    return Check(name, rule.title, rule.severity, COLORS[worst[0]], found + more, rule.remedy, shown)


def fail_check(name: str, rule: Rule, reason: str | Exception) -> Check:
    """Return the red check that could not be made."""
    first_line = (str(reason).splitlines() or [type(reason).__name__])[0]
    return Check(name, rule.title, rule.severity, "red", f"Could not be checked: {first_line}", rule.remedy)


def skip_check(name: str, rule: Rule, reason: str) -> Check:
    """Return the green check that says why it was not made."""
    return Check(name, rule.title, rule.severity, "green", f"Not checked: {reason}", rule.remedy)


def describe_departed(definitions: Iterable[Definition]) -> str:
    """Return the reason not to make a check that holds for the default definitions only."""
    names = [definition.kpi.label for definition in definitions]
    return f"{' and '.join(names)} {'are' if len(names) > 1 else 'is'} counted by another definition."
