"""The suites of expectations/*.yml, run by Great Expectations on the rows of the window.

A suite file maps a table to the column that dates its rows (`instant` or `day`; none: the whole table) and to its
expectations, each as `type: {arguments}` with the names of Great Expectations' gallery. Only the columns that the
expectations name are read, and no suite names a customer.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from functools import cache
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import yaml

from stkpi.errors import UserError
from stkpi.validation.checks import FOLDER, THRESHOLDS, Check, Measure, Rule, Thresholds, judge, unable
from stkpi.warehouse import Warehouse

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


def read(folder: Path = FOLDER) -> tuple[Suite, ...]:
    """Every suite of the folder. Raises UserError for a file that does not hold together."""
    found = []
    for path in sorted(folder.glob("*.yml")):
        if path.name == THRESHOLDS.name:
            continue
        try:
            for table, suite in yaml.safe_load(path.read_text(encoding="utf-8")).items():
                lines = [next(iter(line.items())) for line in suite.pop("expectations")]
                expectations = tuple(Expectation(table, kind, arguments) for kind, arguments in lines)
                found.append(Suite(table, expectations, **suite))
        except (TypeError, AttributeError, KeyError, yaml.YAMLError) as error:
            raise UserError(f"{path} is not a suite (table: expectations): {error}") from None
    return tuple(found)


def run(target: Warehouse, limits: Thresholds, first_day: date, as_of: date, zone: str) -> Iterator[Check]:
    """Run every suite; yields a check per expectation.

    Raises UserError for an expectation that Great Expectations does not know, takes other arguments, or did not run.
    """
    for suite in read():
        rules = {each.name: _rule(each, limits) for each in suite.expectations}
        declared = [_declared(each) for each in suite.expectations]
        sql, parameters = suite.select(first_day, as_of, zone)
        try:
            frame = target.query(sql, **parameters)
        except Exception as error:  # whatever the engine says: these checks are red, the others go on
            yield from (unable(name, rule, str(error).splitlines()[0]) for name, rule in rules.items())
            continue
        # Plain Python strings: of pandas' own the library cannot tell the type.
        frame = frame.astype(dict.fromkeys(frame.select_dtypes("str").columns, object))
        results = _validate(suite.table, frame, declared)
        if len(results) != len(suite.expectations):
            raise UserError(f"Of {suite.table} {len(results)} of {len(suite.expectations)} expectations ran: mend it.")
        for expectation, result in zip(suite.expectations, results, strict=True):
            rule = rules[expectation.name]
            if failure := _failure(result):
                yield unable(expectation.name, rule, failure)
            else:
                yield judge(expectation.name, rule, [_measure(expectation, result)])


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


def _declared(expectation: Expectation) -> Any:
    """The library's own object: a name or an argument that it does not know must not be dropped in silence."""
    try:
        return getattr(_library().expectations, expectation.kind)(**expectation.arguments)
    except (AttributeError, ValueError) as error:
        words = " ".join(str(error).split())
        raise UserError(f"Expectation {expectation.name} cannot be used, correct it in {FOLDER}: {words}") from None


def _validate(name: str, frame: Any, declared: list[Any]) -> list[Any]:
    """The library's results of one frame, in the order of `declared`."""
    gx = _library()
    context = gx.get_context(mode="ephemeral")
    context.variables.progress_bars = {"globally": False}
    asset = context.data_sources.add_pandas("frames").add_dataframe_asset(name)
    batch = asset.add_batch_definition_whole_dataframe("window").get_batch({"dataframe": frame})
    suite = gx.ExpectationSuite(name=name, expectations=declared)
    order = {each.id: place for place, each in enumerate(suite.expectations)}
    results = batch.validate(suite, result_format={"result_format": "BASIC", "partial_unexpected_count": 50}).results
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
    if wrong and len(expectation.columns) == 1:
        examples = dict.fromkeys(str(value) for value in found["partial_unexpected_list"] if value is not None)
        detail += f", such as {', '.join(list(examples)[:3])}" if examples else ""
    return Measure("", wrong / rows if rows else 0.0, detail)
