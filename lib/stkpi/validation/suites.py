"""Run the suites of expectations/suites/ with Great Expectations on the rows of the window.

A suite file maps a table to the column that dates its rows (`instant` or `day`; none: the whole table) and to its
expectations, each as `type: {arguments}` with the names of Great Expectations' gallery. Only the columns that the
expectations name are read, and no suite names a customer. The raw tables come from the registry: each that grows is
dated and checked for its key without a line in any file.

Every fact table has at least the expectations that hold for any: each row has its day and its unit. What a suite
expects of a fact table or of a KPI's column holds for the default definition; where another was adopted, it is not
checked.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from datetime import date, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import great_expectations as gx
import pandas as pd
import yaml
from great_expectations.data_context.types.base import ProgressBarsConfig

from stkpi.errors import UserError
from stkpi.kpis.definition import Definition, choose_definitions, name_facts
from stkpi.kpis.sql import MART, table_columns
from stkpi.servicetitan.entities import ENTITIES, Entity
from stkpi.validation.checks import (
    FOLDER,
    THRESHOLDS,
    Check,
    Measure,
    Rule,
    Thresholds,
    describe_departed,
    fail_check,
    judge,
    skip_check,
)
from stkpi.warehouse import Warehouse

SUITES = FOLDER / "suites"
NOT_NULL = "ExpectColumnValuesToNotBeNull"
OF_EVERY_FACT = ("event_date", "business_unit")  # never empty, by whatever definition
_FACT = f"{MART}.fact_"
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
        """Return the query for the rows of the window, and its parameters; plain bounds prune partitions."""
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


@dataclass(frozen=True)
class PreparedSuite:
    """A suite ready to run: its expectations with their limits and the library's own objects, and what is left out."""

    suite: Suite
    rules: tuple[Rule, ...]
    objects: tuple[Any, ...]
    skipped: tuple[Check, ...]


def read_suites(folder: Path = SUITES) -> tuple[Suite, ...]:
    """Read every suite of the folder, and add what the registry says of the raw tables.

    Raises UserError for a file that is not a suite.
    """
    found = {entity.table: _key_suite(entity) for entity in ENTITIES.values() if entity.grows}
    for path in sorted(folder.glob("*.yml")):
        try:
            for table, suite in yaml.safe_load(path.read_text(encoding="utf-8")).items():
                lines = [next(iter(line.items())) for line in suite.pop("expectations")]
                expectations = tuple(Expectation(table, kind, arguments) for kind, arguments in lines)
                known = found.get(table, Suite(table, ()))
                found[table] = replace(known, expectations=known.expectations + expectations, **suite)
        except (TypeError, AttributeError, KeyError, yaml.YAMLError) as error:
            raise UserError(f"{path} is not a suite (table: expectations): {error}") from None
    return tuple(found.values())


def _key_suite(entity: Entity) -> Suite:
    """The suite that every growing raw table has: each new record has a key, and has it alone."""
    kinds = ("ExpectColumnValuesToNotBeNull", "ExpectColumnValuesToBeUnique")
    dated = {"day" if entity.day_column == "date" else "instant": entity.day_column}
    return Suite(entity.table, tuple(Expectation(entity.table, kind, {"column": "_key"}) for kind in kinds), **dated)


def complete_suites(suites: Iterable[Suite], definitions: Mapping[str, Definition]) -> tuple[Suite, ...]:
    """Return the suites with what holds for every fact table; a fact table without a suite gets one."""
    found = {suite.table: suite for suite in suites}
    for table in dict.fromkeys(f"{MART}.{name}" for name in name_facts(definitions).values()):
        suite = found.get(table, Suite(table, (), day=OF_EVERY_FACT[0]))
        more = [Expectation(table, NOT_NULL, {"column": column}) for column in OF_EVERY_FACT]
        named = {each.name for each in suite.expectations}
        added = tuple(each for each in more if each.name not in named)
        found[table] = replace(suite, expectations=(*suite.expectations, *added))
    return tuple(found.values())


def prepare_suites(limits: Thresholds, definitions: Mapping[str, Definition]) -> list[PreparedSuite]:
    """Make every suite ready to run. It takes a second, so do it before DuckDB, which lets one program in, is open.

    Raises UserError for an expectation that Great Expectations does not know or that takes other arguments.
    """
    found = []
    for suite in complete_suites(read_suites(), definitions):
        made, skipped = [], []
        for each in suite.expectations:
            rule, reason = _rule(each, limits), _reason_to_skip(each, definitions)
            if reason:
                skipped.append(skip_check(each.name, rule, reason))
            else:
                made.append((each, rule, build_expectation(each)))
        kept = replace(suite, expectations=tuple(each for each, _, _ in made))
        rules, objects = tuple(rule for _, rule, _ in made), tuple(built for _, _, built in made)
        found.append(PreparedSuite(kept, rules, objects, tuple(skipped)))
    return found


def _reason_to_skip(expectation: Expectation, definitions: Mapping[str, Definition]) -> str:
    """Why an expectation does not hold by the company's definitions; empty where it does."""
    defaults = choose_definitions({}, {name: definition.kpi for name, definition in definitions.items()})
    if expectation.table.startswith(_FACT):
        facts = name_facts(definitions)
        sharing = [d for name, d in definitions.items() if f"{MART}.{facts[name]}" == expectation.table]
        if not sharing:
            return "no KPI counts the rows of this table."
        if expectation.kind == NOT_NULL and set(expectation.columns) <= set(OF_EVERY_FACT):
            return ""
        departed = [d for d in sharing if d.rows != defaults[d.kpi.name].rows]
    elif expectation.table.startswith(f"{MART}."):
        departed = [
            d
            for d in definitions.values()
            if d.departures and {c.name for c in table_columns(d)} & set(expectation.columns)
        ]
    else:
        return ""
    return describe_departed(departed) if departed else ""


def run_suites(
    target: Warehouse, prepared: Iterable[PreparedSuite], first_day: date, as_of: date, zone: str
) -> Iterator[Check]:
    """Run every suite; yields a check per expectation. Raises UserError for one that did not run."""
    frames = _frames()
    for each in prepared:
        yield from each.skipped
        suite = each.suite
        lines = list(zip(suite.expectations, each.rules, strict=True))
        if not lines:
            continue
        sql, parameters = suite.select(first_day, as_of, zone)
        try:
            frame = target.query(sql, **parameters)
        except Exception as error:  # whatever the engine says: these checks are red, the others go on
            yield from (fail_check(expectation.name, rule, error) for expectation, rule in lines)
            continue
        # Plain Python values: of pandas' own strings the library cannot tell the type, and instants lose their zone.
        frame = frame.astype(dict.fromkeys(frame.select_dtypes(["str", "datetimetz"]).columns, object))
        results = _validate(frames, suite.table, frame, each.objects)
        if len(results) != len(lines):
            raise UserError(f"Of {suite.table} {len(results)} of {len(lines)} expectations ran: is one there twice?")
        for (expectation, rule), result in zip(lines, results, strict=True):
            failure = _failure(result)
            if failure:
                yield fail_check(expectation.name, rule, failure)
            else:
                yield judge(expectation.name, rule, [_measure(expectation, result)])


def _rule(expectation: Expectation, limits: Thresholds) -> Rule:
    rule = limits.checks.get(expectation.name) or limits.expectations.get(expectation.kind)
    if rule is None:
        raise UserError(f"{THRESHOLDS} has no limits for {expectation.kind}: add them.")
    table = expectation.table.partition(".")[2]
    words = rule.title.format(columns=" and ".join(expectation.columns))
    return Rule(**{**vars(rule), "title": f"{table}: {words}"})


def build_expectation(expectation: Expectation) -> Any:
    """Return the library's own object. Raises UserError for a name or an argument that it does not know."""
    try:
        return getattr(gx.expectations, expectation.kind)(**expectation.arguments)
    except (AttributeError, ValueError) as error:
        words = " ".join(str(error).split())
        raise UserError(f"Expectation {expectation.name} cannot be used, correct it in {SUITES}: {words}") from None


def _frames() -> Any:
    """The library's reader of frames, in a context that keeps nothing. One for all: it takes longer than reading."""
    context = gx.get_context(mode="ephemeral")
    context.variables.progress_bars = ProgressBarsConfig(globally=False)
    return context.data_sources.pandas_default.add_dataframe_asset("frames").add_batch_definition_whole_dataframe("all")


def _validate(frames: Any, table: str, frame: pd.DataFrame, objects: Iterable[Any]) -> list[Any]:
    """The library's results for the frame of one table, in the order of `objects`."""
    suite = gx.ExpectationSuite(name=table, expectations=list(objects))
    order = {each.id: place for place, each in enumerate(suite.expectations)}
    result_format = {"result_format": "BASIC", "partial_unexpected_count": 50}
    results = frames.get_batch({"dataframe": frame}).validate(suite, result_format=result_format).results
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
        seen = found.get("observed_value")
        return Measure("", float(not result.success), f"{seen:,} rows" if isinstance(seen, int) else f"is {seen}")
    rows, wrong = found["element_count"], found["unexpected_count"]
    detail = f"{wrong:,} of {rows:,} rows"
    if wrong and len(expectation.columns) == 1 and not expectation.kind.endswith("NotBeNull"):
        examples = dict.fromkeys(
            f"{value:g}" if isinstance(value, Decimal) else f"{value}" for value in found["partial_unexpected_list"]
        )
        detail += f", such as {', '.join(list(examples)[:3])}"
    return Measure("", wrong / rows if rows else 0.0, detail)
