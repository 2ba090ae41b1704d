"""The suites of expectations/suites/, run by Great Expectations on the rows of the window.

A suite file maps a table to the column that dates its rows (`instant` or `day`; none: the whole table) and to its
expectations, each as `type: {arguments}` with the names of Great Expectations' gallery. Only the columns that the
expectations name are read, and no suite names a customer.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from decimal import Decimal
from functools import cache
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import pandas as pd
import yaml

from stkpi.errors import UserError
from stkpi.validation.checks import FOLDER, THRESHOLDS, Check, Measure, Rule, Thresholds, judge, unable
from stkpi.warehouse import Warehouse

SUITES = FOLDER / "suites"
_PREFIXES = ("ExpectColumnValuesTo", "ExpectCompoundColumnsTo", "ExpectColumnPairValues", "ExpectTable")


@dataclass(frozen=True)
class Expectation:
    """One line of a suite."""

    table: str  # with its dataset
    kind: str
    arguments: Mapping[str, Any]

    @property
    def columns(self) -> tuple[str, ...]:
        """The columns that it names."""
        named = (self.arguments.get(key, ()) for key in ("column", "column_A", "column_B", "column_list"))
        return tuple(column for value in named for column in ([value] if isinstance(value, str) else value))

    @property
    def name(self) -> str:
        """Its name as a check: table.columns.what."""
        what = next(self.kind.removeprefix(prefix) for prefix in _PREFIXES if self.kind.startswith(prefix))
        return ".".join(part for part in (self.table.partition(".")[2], "+".join(self.columns), what) if part)


@dataclass(frozen=True)
class Suite:
    """The expectations of one table, and how its rows are dated."""

    table: str
    expectations: tuple[Expectation, ...]
    instant: str | None = None
    day: str | None = None

    def select(self, first_day: date, as_of: date, zone: str) -> tuple[str, dict[str, Any]]:
        """The query for the rows of the window with its parameters; plain bounds, so that partitions are pruned."""
        columns = sorted({column for expectation in self.expectations for column in expectation.columns})
        sql = f"SELECT {', '.join(f'`{column}`' for column in columns)} FROM {self.table}"
        if self.day:
            return f"{sql} WHERE `{self.day}` BETWEEN @first AND @last", {"first": first_day, "last": as_of}
        if self.instant:
            ends = (
                datetime.combine(day, datetime.min.time(), ZoneInfo(zone))
                for day in (first_day, as_of + timedelta(days=1))
            )
            return f"{sql} WHERE `{self.instant}` >= @first AND `{self.instant}` < @end", dict(
                zip(("first", "end"), ends, strict=True)
            )
        return sql, {}


def read(folder: Path = SUITES) -> tuple[Suite, ...]:
    """Every suite of the folder. Raises UserError for a file that does not hold together."""
    found = []
    for path in sorted(folder.glob("*.yml")):
        try:
            for table, suite in yaml.safe_load(path.read_text(encoding="utf-8")).items():
                lines = [next(iter(line.items())) for line in suite.pop("expectations")]
                expectations = tuple(Expectation(table, kind, arguments) for kind, arguments in lines)
                found.append(Suite(table, expectations, **suite))
        except (TypeError, AttributeError, KeyError, yaml.YAMLError) as error:
            raise UserError(f"{path} is not a suite (table: expectations): {error}") from None
    return tuple(found)


Declared = list[tuple[Suite, list[tuple[str, Rule, Any]]]]  # of each suite: name, limits and the library's own object


def declared(limits: Thresholds) -> Declared:
    """Every suite, ready to run. Takes seconds, so call it before the warehouse is open: DuckDB lets one program in.

    Raises UserError for an expectation that Great Expectations does not know or that takes other arguments.
    """
    return [
        (suite, [(each.name, _rule(each, limits), declare(each)) for each in suite.expectations]) for suite in read()
    ]


def run(target: Warehouse, found: Declared, first_day: date, as_of: date, zone: str) -> Iterator[Check]:
    """Run every suite; yields a check per expectation. Raises UserError for one that did not run."""
    frames = _frames()
    for suite, lines in found:
        sql, parameters = suite.select(first_day, as_of, zone)
        try:
            frame = target.query(sql, **parameters)
        except Exception as error:  # whatever the engine says: these checks are red, the others go on
            yield from (unable(name, rule, error) for name, rule, _ in lines)
            continue
        # Plain Python values: of pandas' own strings the library cannot tell the type, and instants lose their zone.
        frame = frame.astype(dict.fromkeys(frame.select_dtypes(["str", "datetimetz"]).columns, object))
        results = _validate(frames, suite.table, frame, [ready for _, _, ready in lines])
        if len(results) != len(lines):
            raise UserError(f"Of {suite.table} {len(results)} of {len(lines)} expectations ran: is one there twice?")
        for (name, rule, _), expectation, result in zip(lines, suite.expectations, results, strict=True):
            failure = _failure(result)
            yield unable(name, rule, failure) if failure else judge(name, rule, [_measure(expectation, result)])


def _rule(expectation: Expectation, limits: Thresholds) -> Rule:
    rule = limits.checks.get(expectation.name) or limits.expectations.get(expectation.kind)
    if rule is None:
        raise UserError(f"{THRESHOLDS} has no limits for {expectation.kind}: add them.")
    table = expectation.table.partition(".")[2]
    words = rule.title.format(columns=" and ".join(expectation.columns))
    return Rule(**{**vars(rule), "title": f"{table}: {words}"})


@cache
def _library() -> Any:
    """Great Expectations, imported late because that takes seconds, and silenced: it would report its use."""
    os.environ["GX_ANALYTICS_ENABLED"] = "false"
    import great_expectations  # noqa: PLC0415

    return great_expectations


def declare(expectation: Expectation) -> Any:
    """The library's own object: a name or an argument that it does not know must not be dropped in silence."""
    try:
        return getattr(_library().expectations, expectation.kind)(**expectation.arguments)
    except (AttributeError, ValueError) as error:
        words = " ".join(str(error).split())
        raise UserError(f"Expectation {expectation.name} cannot be used, correct it in {SUITES}: {words}") from None


def _frames() -> Any:
    """The library's reader of frames, in a context that keeps nothing. One for all: it takes longer than reading."""
    context = _library().get_context(mode="ephemeral")
    context.variables.progress_bars = {"globally": False}
    return context.data_sources.pandas_default.add_dataframe_asset("frames").add_batch_definition_whole_dataframe("all")


def _validate(frames: Any, table: str, frame: pd.DataFrame, declared: list[Any]) -> list[Any]:
    """The library's results for the frame of one table, in the order of `declared`."""
    suite = _library().ExpectationSuite(name=table, expectations=declared)
    order = {each.id: place for place, each in enumerate(suite.expectations)}
    told = {"result_format": "BASIC", "partial_unexpected_count": 50}
    results = frames.get_batch({"dataframe": frame}).validate(suite, result_format=told).results
    return sorted(results, key=lambda result: order[result.expectation_config.id])


def _failure(result: Any) -> str | None:
    """Why an expectation could not be evaluated, if so."""
    info = result.exception_info or {}
    raised = info.values() if info and "raised_exception" not in info else [info]
    messages = [each["exception_message"] for each in raised if each.get("raised_exception")]
    return messages[0] if messages else None


def _measure(expectation: Expectation, result: Any) -> Measure:
    """The share of the rows that miss it; 0 or 1 where the table as a whole, or a column's type, is judged."""
    found = result.result
    if "unexpected_count" not in found:
        return Measure("", float(not result.success), f"is {found.get('observed_value')}")
    rows, wrong = found["element_count"], found["unexpected_count"]
    detail = f"{wrong:,} of {rows:,} rows"
    if wrong and len(expectation.columns) == 1 and not expectation.kind.endswith("NotBeNull"):
        examples = dict.fromkeys(
            f"{value:g}" if isinstance(value, Decimal) else f"{value}" for value in found["partial_unexpected_list"]
        )
        detail += f", such as {', '.join(list(examples)[:3])}"
    return Measure("", wrong / rows if rows else 0.0, detail)
