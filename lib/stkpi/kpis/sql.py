"""GoogleSQL from definitions: fact tables, the daily, weekly and regional tables, and the number of any days and unit.

A fact is the candidates that count, with the day and unit that they count by. Everything else adds facts up: a flow
(its window begins with a period's first day) over the period's days, a level (it does not) as of its last day. The
statements are the templates under sql/kpis/; this module fills them in.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any

import jinja2

from stkpi import settings
from stkpi.kpis.catalog import TENANT_ZONE, Kpi, Option
from stkpi.kpis.days import day_sql, within_sql
from stkpi.kpis.definition import Definition, name_facts

MART, REF = "st_mart_v2", "st_ref_v2"
_TERM = re.compile(r"([+-]?)\s*(\w+)")
_ENTITY = re.compile(r"entity = '(\w+)'")
_WEEK = "CAST(DATE_TRUNC({day}, WEEK(MONDAY)) AS DATE)"
_FROM = "GREATEST(@first_day, @changed_from)"  # the first day of the periods that are computed
_templates = jinja2.Environment(
    loader=jinja2.FileSystemLoader(settings.ROOT / "sql" / "kpis"),
    trim_blocks=True,
    lstrip_blocks=True,
    undefined=jinja2.StrictUndefined,
    autoescape=False,  # noqa: S701 SQL, of which every part comes from the catalog
)


def _fill(template: str, **values: Any) -> str:
    return _templates.get_template(f"{template}.sql.j2").render(values).rstrip() + "\n"


# --- the rows that count ----------------------------------------------------------------------------------------------


def is_calendar_date(column: str) -> bool:
    """Whether a column of the candidates is a calendar date, which has no time zone: its name ends in _date."""
    return column.endswith("_date")


def date_sql(column: str, zone: str) -> str:
    """Return the business date of a column of the candidates as GoogleSQL."""
    if is_calendar_date(column):
        return column
    return f"DATE({column}, {zone if zone == TENANT_ZONE else repr(zone)})"


def unit_sql(kpi: Kpi, attribution: Option, column: str) -> str:
    """Return a column of the unit that a row counts for; NULL where the unit is of another division."""
    return f"IF({attribution.says}_division IN ({_divisions(kpi)}), {attribution.says}_{column}, NULL)"


def _divisions(kpi: Kpi) -> str:
    return ", ".join(f"'{division}'" for division in kpi.divisions)


def terms_sql(kpi: Kpi) -> list[str]:
    """Return the KPI's terms as selected columns; a term that is a column of the candidates is there already."""
    return [f"{sql} AS {name}" for name, sql in kpi.terms.items() if sql != name]


def operands(measure: Mapping[str, Any]) -> list[str]:
    """Return what a measure adds up: its terms with their signs, numerator first."""
    return list(measure.get("ratio") or [measure[kind] for kind in ("sum", "net") if kind in measure])


def split_operand(operand: str) -> list[tuple[int, str]]:
    """Return the terms of an operand, each with its sign: `produced - labor`."""
    return [(-1 if sign == "-" else 1, term) for sign, term in _TERM.findall(operand)]


def row_value_sql(operand: str) -> str:
    """Return what one row adds to an operand, as GoogleSQL over the candidates with the KPI's terms."""
    values = {"rows": "1"}
    parts = [
        f"{'-' if sign < 0 else '+'} {values.get(term, f'IF({term}, 1, 0)' if term.startswith('is_') else term)}"
        for sign, term in split_operand(operand)
    ]
    return " ".join(parts).removeprefix("+ ")


def measured_columns(definition: Definition) -> list[str]:
    """Return the terms and columns that the chosen measure, and what is shown beside it, look at."""
    found: dict[str, None] = {}
    for measure in (definition["measure"].says, *definition.kpi.beside.values()):
        found |= dict.fromkeys(measure[key] for key in ("distinct", "per") if key in measure)
        for operand in operands(measure):
            found |= dict.fromkeys(term for _, term in split_operand(operand) if term != "rows")
    return list(found)


def conditions_sql(definition: Definition) -> list[str]:
    """Return the conditions of a definition on a candidate, each safe to be joined with AND."""
    return [f"({option.says})" if " OR " in option.says else option.says for option in definition.conditions.values()]


def _candidates_sql(definition: Definition, text: str) -> str:
    """The SELECT of the candidates that the definition can count, without what `text` (GoogleSQL) does not look at."""
    used = set(re.findall(r"\w+", text))
    entities = _ENTITY.findall(definition["entity"].says) if "entity" in definition.options else []
    found = _fill(
        definition.kpi.candidates,
        bounded=True,
        entities=entities or _list_entities(definition.kpi),
        uses=lambda names: bool(used & set(names.split())),
    )
    return found[found.index("WITH ") :].rstrip()


def _list_entities(kpi: Kpi) -> list[str]:
    """The kinds of rows among the candidates of a KPI."""
    text = (settings.ROOT / "sql" / "kpis" / f"{kpi.candidates}.sql.j2").read_text(encoding="utf-8")
    return list(dict.fromkeys(re.findall(r"'(\w+)' AS entity", text)))


def candidates_view_sql(kpi: Kpi) -> str:
    """Return the SELECT of the view of a KPI's candidates: every row and column, for the search and for people."""
    select = _fill(kpi.candidates, bounded=False, entities=_list_entities(kpi), uses=lambda names: True)
    return _fill("candidates", select=select)


def fact_sql(sharing: Sequence[Definition]) -> str:
    """Return the SELECT of a fact table: the rows that the definitions sharing it count."""
    first = sharing[0]
    attribution, rollup = first["attribution"].says, first["rollup"].says
    columns = {
        "event_date": date_sql(first["date"].says, first["zone"].says),
        "business_unit": f"{attribution}_{rollup}",
        "unit_name": f"{attribution}_unit_name",
        **{name: name for name in ("region", "segment", "customer_id")},
    }
    for definition in sharing:
        kpi, known_by = definition.kpi, definition["window"].known_by
        columns |= kpi.columns
        columns |= {name: kpi.terms.get(name, name) for name in measured_columns(definition)}
        columns |= {known_by: known_by} if known_by else {}
    conditions = [
        f"{attribution}_division IN ({_divisions(first.kpi)})",
        f"{attribution}_{rollup} IS NOT NULL",
        *conditions_sql(first),
        f"{first['date'].says} IS NOT NULL",
    ]
    return _fill(
        "fact",
        labels=" and ".join(definition.kpi.label for definition in sharing),
        reports=", ".join(dict.fromkeys(definition.kpi.report.name for definition in sharing)),
        sentences=[_describe(definition) for definition in sharing],
        candidates=first.kpi.candidates,
        columns=columns,
        conditions=conditions,
        candidates_sql=_candidates_sql(first, " ".join((*columns.values(), *conditions))),
    )


def _describe(definition: Definition) -> str:
    departs = f" Departs from the default: {definition.describe()}." if definition.departures else ""
    return f"{definition.kpi.label}. {definition.kpi.sentence}{departs}"


# --- measures over facts ----------------------------------------------------------------------------------------------


def sum_sql(kpi: Kpi, operand: str, facts: str = "") -> str:
    """Return an operand added up over fact rows. `facts` is the alias of an outer-joined fact, which may have none."""
    prefix = f"{facts}." if facts else ""
    parts = []
    for sign, term in split_operand(operand):
        if term == "rows":
            total = f"COUNT({prefix}business_unit)" if facts else "COUNT(*)"
        elif term.startswith("is_"):
            total = f"COUNTIF({prefix}{term})"
        elif term in kpi.terms:
            total = f"COALESCE(SUM({prefix}{term}), 0)"
        else:  # a whole number, whose sum would be of another type on each engine
            total = f"COALESCE(SUM(CAST({prefix}{term} AS NUMERIC)), 0)"
        parts.append(f"{'-' if sign < 0 else '+'} {total}")
    return " ".join(parts).removeprefix("+ ")


def ratio_sql(numerator: str, denominator: str) -> str:
    """Return a ratio as a NUMERIC of nine decimals; NULL where the denominator is zero."""
    return f"CAST(SAFE_DIVIDE(CAST({numerator} AS NUMERIC), {denominator}) AS NUMERIC)"


def measure_sql(kpi: Kpi, measure: Mapping[str, Any], facts: str = "") -> str:
    """Return a measure over the fact rows of a group (not `net`, which needs two steps)."""
    prefix = f"{facts}." if facts else ""
    match measure:
        case {"count": _}:
            return sum_sql(kpi, "rows", facts)
        case {"distinct": column}:
            return f"COUNT(DISTINCT {prefix}{column})"
        case {"sum": operand}:
            return sum_sql(kpi, operand, facts)
        case {"ratio": [part, whole]}:
            return ratio_sql(sum_sql(kpi, part, facts), sum_sql(kpi, whole, facts))
    raise ValueError(f"{kpi.name} has a measure that is not one of a group: {measure}")


# --- the tables of days and weeks -------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Column:
    """A column of the KPI tables: how it is measured over facts, and what becomes of it where nothing happened."""

    name: str
    kpi: Kpi
    measure: Mapping[str, Any]

    @property
    def is_ratio(self) -> bool:
        """Whether it is NULL, and not zero, where nothing happened."""
        return "ratio" in self.measure

    @property
    def adds_up(self) -> bool:
        """Whether the number of a region is the sum of its units' numbers."""
        return not self.measure.keys() & {"ratio", "distinct"}

    @property
    def is_whole(self) -> bool:
        """Whether it is a whole number (INT64), and not money or a rate (NUMERIC)."""
        if self.measure.keys() & {"count", "distinct"}:
            return True
        terms = [term for operand in operands(self.measure) for _, term in split_operand(operand)]
        return not self.is_ratio and all(term == "rows" or term.startswith("is_") for term in terms)


def table_columns(definition: Definition) -> list[Column]:
    """Return the columns of a KPI in the tables: of a ratio its sums, then the number, then what is shown beside it."""
    kpi, measure = definition.kpi, definition["measure"].says
    sums = zip(kpi.sums, operands(measure), strict=True) if "ratio" in measure else ()
    found = [Column(name, kpi, {"sum": operand}) for name, operand in sums]
    found.append(Column(kpi.name, kpi, measure))
    return [*found, *(Column(name, kpi, beside) for name, beside in kpi.beside.items())]


@dataclass(frozen=True)
class _Flow:
    """Flows that are added up together, because their rows and windows are the same."""

    name: str
    table: str
    definitions: tuple[Definition, ...]

    @property
    def window(self) -> Option:
        return self.definitions[0]["window"]

    @property
    def shift(self) -> Option:
        return self.definitions[0]["shift"]

    @property
    def is_plain(self) -> bool:
        """Whether a row counts in the period in which its day lies, and in no other."""
        return tuple(self.window.says) == ("first", "last") and not self.shift.says


def _group_flows(definitions: Mapping[str, Definition]) -> list[_Flow]:
    facts = name_facts(definitions)

    def key(definition: Definition) -> tuple[str, str, str]:
        return facts[definition.kpi.name], str(definition["window"].says), str(definition["shift"].says)

    found: list[_Flow] = []
    for (table, _, _), group in groupby(sorted(_flows(definitions), key=key), key):
        name = table.removeprefix("fact_")
        taken = sum(flow.table == table for flow in found)
        found.append(_Flow(f"{name}_{taken}" if taken else name, table, tuple(group)))
    return found


def _flows(definitions: Mapping[str, Definition]) -> list[Definition]:
    return [definition for definition in definitions.values() if not definition.kpi.is_level]


def _levels(definitions: Mapping[str, Definition]) -> list[Definition]:
    return [definition for definition in definitions.values() if definition.kpi.is_level]


def _fill_flow(flow: _Flow, period: str) -> dict[str, Any]:
    """The values of a flow in flows.sql.j2; `period` is that of a row, as GoogleSQL."""
    columns = [column for definition in flow.definitions for column in table_columns(definition)]
    return {
        "name": flow.name,
        "table": flow.table,
        "period": period if flow.is_plain else "",
        "low": day_sql(flow.window.says[0], flow.shift, _FROM, _FROM),
        "within": within_sql("days.event_date", flow.window, flow.shift, "periods.first_day", "periods.last_day"),
        "columns": [f"{measure_sql(column.kpi, column.measure)} AS {column.name}" for column in columns],
    }


def _fill_level(definition: Definition, table: str) -> dict[str, Any]:
    """The values of a level in daily.sql.j2."""
    window, shift, measure = definition["window"], definition["shift"], definition["measure"].says
    days = ("periods.first_day", "periods.last_day")
    low = "" if window.says[0] == "ever" else day_sql(window.says[0], shift, _FROM, _FROM)
    moved = bool(window.known_by and shift.says)
    return {
        "name": definition.kpi.name,
        "label": definition.kpi.label,
        "table": table,
        "low": low,
        "ends": bool(low),
        "is_plain": tuple(window.says) == ("ever", "last") and not shift.says,
        "within": within_sql("days.event_date", window, shift, *days),
        "known_by": window.known_by or "",
        "known_within": f"days.known_on <= {day_sql('last', shift, *days)}" if moved else "",
        "known_from": "known.known_from" if moved else f"facts.{window.known_by}",
        "amount": row_value_sql((operands(measure) or ["rows"])[0]),
        "per": measure.get("per", ""),
        "least": measure.get("least", 0),
    }


def _shown_columns(definitions: Mapping[str, Definition], level: str) -> list[str]:
    """The columns of all KPIs in the catalog's order; `level` is what is shown of a level, with {} for its name."""
    source = {definition.kpi.name: flow.name for flow in _group_flows(definitions) for definition in flow.definitions}
    shown = []
    for name, definition in definitions.items():
        if name in source:
            shown += [_show(column, source[name]) for column in table_columns(definition)]
        else:
            shown.append(level.format(name))
    return shown


def _show(column: Column, source: str) -> str:
    if column.is_ratio:
        return f"{source}.{column.name}"
    return f"COALESCE({source}.{column.name}, 0) AS {column.name}"


def daily_sql(definitions: Mapping[str, Definition]) -> str:
    """Return the SELECT of kpi_daily_by_bu."""
    facts, flows, levels = name_facts(definitions), _group_flows(definitions), _levels(definitions)
    return _fill(
        "daily",
        flows=[_fill_flow(flow, "event_date") for flow in flows],
        levels=[_fill_level(definition, facts[definition.kpi.name]) for definition in levels],
        sources=[*(flow.name for flow in flows), *(definition.kpi.name for definition in levels)],
        columns=_shown_columns(definitions, "SUM(COALESCE({0}.change, 0)) OVER to_date AS {0}"),
        provisional_days=provisional_days(definitions),
    )


def weekly_sql(definitions: Mapping[str, Definition]) -> str:
    """Return the SELECT of kpi_weekly_by_bu."""
    flows = _group_flows(definitions)
    return _fill(
        "weekly",
        flows=[_fill_flow(flow, _WEEK.format(day="event_date")) for flow in flows],
        levels=[{"name": definition.kpi.name} for definition in _levels(definitions)],
        sources=[flow.name for flow in flows],
        columns=_shown_columns(definitions, "calendar.{0}"),
        provisional_days=provisional_days(definitions),
    )


def regional_sql(definitions: Mapping[str, Definition]) -> str:
    """Return the SELECT of the view regional_kpis: a region's Sales and Production units on one row."""
    facts = name_facts(definitions)
    recounted: list[dict[str, str]] = []
    sums, shown = [], []
    for name, definition in definitions.items():
        for column in table_columns(definition):
            if column.adds_up:
                total = f"SUM({column.name})"
                sums.append(f"{f'CAST({total} AS INT64)' if column.is_whole else total} AS {column.name}")
                shown.append(f"sums.{column.name}")
            elif column.is_ratio and column.name == name:
                part, whole = (f"sums.{each}" for each in definition.kpi.sums)
                shown.append(f"{ratio_sql(part, whole)} AS {name}")
            else:  # it is counted from the region's rows
                recounted.append(_fill_recount(definition, column, facts[name]))
                shown.append(_show(column, f"{column.name}_rows"))
    return _fill("regional", recounted=recounted, sums=sums, columns=shown)


def _fill_recount(definition: Definition, column: Column, table: str) -> dict[str, str]:
    flow = _Flow(column.name, table, (definition,))
    within = within_sql("facts.event_date", flow.window, flow.shift, "weekly.week_start", "weekly.last_day")
    if flow.is_plain:  # an equality, by which BigQuery and DuckDB join faster
        week = _WEEK.format(day="facts.event_date")
        within = f"{week} = weekly.week_start\n      AND facts.event_date <= weekly.last_day"
    return {
        "name": column.name,
        "table": table,
        "measure": measure_sql(column.kpi, column.measure, "facts"),
        "within": within,
    }


def provisional_days(definitions: Mapping[str, Definition]) -> int:
    """Return for how many days after its last one a period is provisional: until the last KPI is complete."""
    return max((definition.kpi.complete_after for definition in definitions.values()), default=0)


def settle_sql(definitions: Mapping[str, Definition]) -> tuple[str, ...]:
    """Return the statements by which days and weeks that an increment left alone stop being provisional."""
    settled = f"DATE_SUB(@as_of, INTERVAL {provisional_days(definitions)} DAY)"
    return tuple(
        f"UPDATE {MART}.{table} SET is_provisional = FALSE WHERE is_provisional AND {day} <= {settled}"
        for table, day in (("kpi_daily_by_bu", "event_date"), ("kpi_weekly_by_bu", "last_day"))
    )


# --- the number of any days and unit ----------------------------------------------------------------------------------


def _within(definition: Definition, day: str, first: str, last: str, facts: str = "") -> list[str]:
    """The conditions that a row counts for the days from `first` to `last`."""
    window, shift = definition["window"], definition["shift"]
    found = [within_sql(day, window, shift, first, last)]
    if window.known_by:
        found.append(f"{facts}{window.known_by} <= {day_sql('last', shift, first, last)}")
    return found


def numbers_sql(definitions: Mapping[str, Definition], asked: Iterable[str]) -> str:
    """Return the SELECT of (id, value) for @numbers, a JSON list of {id, kpi, unit, first_day, last_day}.

    asked: the KPIs that occur in it. NULL is a ratio without a denominator.
    """
    facts, wanted = name_facts(definitions), set(asked)
    parts = []
    for name, definition in definitions.items():
        if name not in wanted:
            continue
        measure = definition["measure"].says
        if "net" in measure:
            value = sum_sql(definition.kpi, measure["net"], "facts")
        else:
            value = measure_sql(definition.kpi, measure, "facts")
        parts.append(
            {
                "name": name,
                "table": facts[name],
                "measure": value,
                "within": _within(definition, "facts.event_date", "numbers.first_day", "numbers.last_day", "facts."),
                "per": measure.get("per", ""),
                "least": measure.get("least", 0),
            }
        )
    return _fill("numbers", parts=parts)


def fact_rows_sql(definition: Definition, table: str) -> str:
    """Return the SELECT of the fact rows of one @unit that count for the days from @first to @last."""
    within = " AND ".join(_within(definition, "event_date", "@first", "@last"))
    return f"SELECT * FROM {MART}.{table} WHERE business_unit = @unit AND {within} ORDER BY event_date"


# --- what changed since the last build --------------------------------------------------------------------------------


def changed_figures_sql(definitions: Iterable[Definition]) -> str:
    """Return the SELECT of the weekly figures of the KPIs that are not what they were: kpi, business_unit, week_start,
    value, and of a ratio its `part` and `whole`, each with its …_before.
    """
    kpis = []
    for definition in definitions:
        sums = definition.kpi.sums or ("", "")
        kpis.append({"name": definition.kpi.name, "sums": dict(zip(("part", "whole"), sums, strict=True))})
    return _fill("changed_figures", kpis=kpis)


def changed_rows_sql(sharing: Sequence[Definition], table: str, columns: Iterable[str], replaces: str) -> str:
    """Return the SELECT of the rows of a fact table that are not what they were (see the template for its columns).

    sharing: the definitions that count its rows; columns: those that it had before and has now
    replaces: the condition of the rows that the build computed; empty: all
    """
    known = set(columns)
    keys = [column for column in row_keys(sharing[0].kpi) if column in known]
    groups = dict.fromkeys(filter(None, map(group_column, sharing)))
    kept = dict.fromkeys((*keys, *groups))
    for definition in sharing:
        kept |= dict.fromkeys((*measured_columns(definition), *filter(None, [definition["window"].known_by])))
    texts = [f"CAST({column} AS STRING) AS {column}" for column in kept if column in known]
    group = f"CONCAT({', '.join(_text_sql(column) for column in groups)})" if groups else "CAST(NULL AS STRING)"
    return _fill(
        "changed_rows",
        table=table,
        columns=[
            "event_date",
            "business_unit",
            "job_id",
            f"CONCAT({', '.join(map(_text_sql, keys))}) AS row_key",
            f"{group} AS group_key",
            f"TO_JSON_STRING(STRUCT({', '.join(texts)})) AS row_text",
        ],
        replaces=replaces,
        kpis=[f"'{definition.kpi.name}'" for definition in sharing],
        is_plain=all(_Flow("", table, (definition,)).is_plain for definition in sharing),
        is_grouped=bool(groups),
    )


def failing_sql(definition: Definition, table: str) -> str:
    """Return the SELECT of (row_key, failed): which dimension's choice a row of a fact's past does not meet now."""
    kpi, conditions = definition.kpi, dict(definition.conditions)
    entity = conditions.pop("entity", None)
    return _fill(
        "failing",
        label=kpi.label,
        table=table,
        candidates=kpi.candidates,
        key=f"CONCAT({', '.join(_text_sql(kpi.columns.get(column, column)) for column in row_keys(kpi))})",
        conditions={name: f"({option.says})" for name, option in conditions.items()}
        | {
            "attribution": f"{definition['attribution'].says}_division IN ({_divisions(kpi)})",
            "date": f"({definition['date'].says} IS NOT NULL)",
        },
        entity=f"({entity.says})" if entity else "",
    )


def _text_sql(column: str) -> str:
    return f"COALESCE(CAST({column} AS STRING), ''), ' '"


def row_keys(kpi: Kpi) -> list[str]:
    """Return the columns that tell which record a fact row is: its own ids, else its job's."""
    own = [name for name in kpi.columns if name.endswith("_id") and name not in ("job_id", *_SHARED_IDS)]
    return own or ["job_id"]


_SHARED_IDS = ("customer_id", "location_id")


def group_column(definition: Definition) -> str:
    """Return the column whose rows count together: what is counted once, or what a balance is of; else nothing."""
    measure = definition["measure"].says
    return str(measure.get("distinct") or measure.get("per") or "")


# --- figures and rows for people to look at ---------------------------------------------------------------------------


def figures_sql(definitions: Mapping[str, Definition]) -> str:
    """Return the SELECT of every KPI for the periods in @periods, a JSON list of {first_day, last_day}: a row per
    period and place (`place_kind` is company, region or unit), with the columns of the KPI tables, whose last day is
    @as_of.
    """
    flows, levels = _group_flows(definitions), _levels(definitions)
    columns = [definition.kpi.name for definition in levels]
    return _fill(
        "figures",
        flows=[_fill_flow(flow, "") for flow in flows],
        levels=[f"SUM(daily.{name}) AS {name}" for name in columns],
        sources=[*(flow.name for flow in flows), *(["levels"] if levels else [])],
        columns=_shown_columns(definitions, "levels.{0}"),
    )


@dataclass(frozen=True)
class Drill:
    """The rows behind the figures of KPIs that share a fact table, and what of them each KPI looks at.

    is_balance: a row is what is open on a day, and not what happened on one
    parts: the column of what a row adds to an operand of a measure; keys: of what is counted once, however many rows
    name it; known: from which day on a row counts
    named: columns by which people know a row, besides its job
    """

    table: str
    sql: str
    is_balance: bool
    parts: Mapping[str, str]
    keys: Mapping[str, str]
    known: str | None
    named: tuple[str, ...]


_NAMED = re.compile(r"(?!job_|customer_)\w+_(number|name|type|status)")


def list_drills(definitions: Mapping[str, Definition]) -> dict[str, Drill]:
    """Return for each KPI the rows behind it; KPIs that look at the same rows share one."""
    facts = name_facts(definitions)
    groups: dict[tuple[str, bool], list[Definition]] = {}
    for name, definition in definitions.items():
        groups.setdefault((facts[name], _is_balance(definition)), []).append(definition)
    found: dict[str, Drill] = {}
    for (table, is_balance), sharing in groups.items():
        drill = _make_drill(table, sharing, is_balance)
        found |= dict.fromkeys((definition.kpi.name for definition in sharing), drill)
    return {name: found[name] for name in definitions}


def _is_balance(definition: Definition) -> bool:
    """Whether all that ever happened counts, so that only what is left of it tells people something."""
    return str(definition["window"].says[0]) == "ever"


def _make_drill(table: str, sharing: Sequence[Definition], is_balance: bool) -> Drill:
    measures = [definition["measure"].says for definition in sharing]
    first = sharing[0]
    parts = {each: f"part_{n}" for n, each in enumerate(dict.fromkeys(o for m in measures for o in operands(m)))}
    keys = {
        each: f"key_{n}" for n, each in enumerate(dict.fromkeys(m["distinct"] for m in measures if "distinct" in m))
    }
    record = [each for each in first.kpi.report.key.values() if each != "job_number"]
    known = next(iter(filter(None, (definition["window"].known_by for definition in sharing))), None)
    balance: dict[str, Any] = {}
    if is_balance:
        measure, (operand, *_) = measures[0], list(parts) or ["rows"]
        per = measure.get("per")
        balance = {
            "columns": list(dict.fromkeys([*filter(None, [per]), *record])) or ["unit_name"],
            "amount": row_value_sql(operand),
            "within": within_sql("facts.event_date", first["window"], first["shift"], *["days.as_of_day"] * 2),
            "per": per,
            "least": measure.get("least"),
        }
        parts, named = {operand: "part_0"}, tuple(record)
    else:
        named = tuple(dict.fromkeys([*record, *(each for each in first.kpi.columns if _NAMED.fullmatch(each))]))
    columns = [f"facts.{name}" for name in (*parts.values(), *keys.values())]
    columns += [f"facts.{known} AS known"] if known else []
    columns += [f"CAST(facts.{column} AS STRING) AS {column}" for column in named]
    computed = [f"{row_value_sql(operand)} AS {name}" for operand, name in parts.items()]
    computed += [f"CAST({column} AS STRING) AS {name}" for column, name in keys.items()]
    filled = _fill("rows", table=table, balance=balance, computed=computed, columns=columns or ["1 AS counted"])
    return Drill(table, filled, is_balance, parts, keys, known, named)


def differing_jobs_sql(chosen: Definition, other: Definition, table: str) -> str:
    """Return the SELECT of the jobs that only one of two definitions counts, for @unit, @first and @last.

    table: the fact table of the chosen one
    """
    days = ("event_date", "@first", "@last")
    ours, theirs = _within(chosen, *days), _within(other, *days)
    return _fill("differing", table=table, ours=ours, theirs=theirs, other=fact_sql([other]).rstrip())


def definition_sql(definition: Definition) -> str:
    """Return a definition as one SELECT of one `value` over the candidates, with @business_unit, @first_day, @last_day
    and @time_zone: the SQL by which an engineer can check a number by hand.
    """
    kpi, measure = definition.kpi, definition["measure"].says
    attribution = definition["attribution"].says
    return _fill(
        "definition",
        candidates=kpi.candidates,
        terms=terms_sql(kpi),
        conditions=[
            *conditions_sql(definition),
            *_within(definition, date_sql(definition["date"].says, definition["zone"].says), "@first_day", "@last_day"),
            f"{attribution}_division IN ({_divisions(kpi)})",
            f"{attribution}_{definition['rollup'].says} = @business_unit",
        ],
        measure=sum_sql(kpi, measure["net"]) if "net" in measure else measure_sql(kpi, measure),
        per=measure.get("per", ""),
        least=measure.get("least", 0),
    )
