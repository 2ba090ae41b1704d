"""GoogleSQL of the checks that look at every KPI, made from the company's definitions.

`weekly_equals_facts_sql` counts each week again from its fact rows. It shares with the build only how a definition
measures rows (`kpis.sql.measure_sql`) and which days a week reads (`kpis.days`): it joins every week with its rows and
knows no running sums, so that an error in how the tables are built, or updated, shows as a difference.
"""

from __future__ import annotations

from collections.abc import Mapping

from stkpi.kpis.days import day_sql, within_sql
from stkpi.kpis.definition import Definition, name_facts
from stkpi.kpis.sql import MART, REF, measure_sql, sum_sql, table_columns

COMPANY = "The company"
_MONDAY = "2000-01-03"  # any Monday before the first week


def weekly_equals_facts_sql(definitions: Mapping[str, Definition]) -> str:
    """Return the SELECT of one row per KPI: how many weeks of units differ from their fact rows.

    Takes @first_day and @as_of. A level (what stands at the end of a day, such as a balance) is counted again from
    @first_day on only, because each of its weeks reads all of the past.
    """
    facts = name_facts(definitions)
    recounts = ",\n\n".join(_recount_sql(definition, facts[name]) for name, definition in definitions.items())
    differences = "\n  UNION ALL\n".join(_differences_sql(definition) for definition in definitions.values())
    return f"""\
-- Grain: one row per KPI; value: how many weeks of units differ from their fact rows, missing weeks included.
-- Source: kpi_weekly_by_bu; the fact tables; dim_business_units for the units that every week must have.
-- Purpose: the weekly table is what its facts add up to, and nothing else.
WITH weekly AS (
  SELECT * FROM {MART}.kpi_weekly_by_bu
),

periods AS (
  SELECT monday AS week_start, LEAST(DATE_ADD(monday, INTERVAL 6 DAY), @as_of) AS last_day
  FROM UNNEST(GENERATE_DATE_ARRAY(DATE '{_MONDAY}', @as_of, INTERVAL 7 DAY)) AS monday
  CROSS JOIN (SELECT MIN(week_start) AS first_week FROM weekly) AS bounds
  WHERE monday >= bounds.first_week
),

calendar AS (
  SELECT periods.week_start, periods.last_day, units.business_unit
  FROM periods
  CROSS JOIN (SELECT DISTINCT business_unit FROM {REF}.dim_business_units) AS units
),

{recounts},

differences AS (
{differences}
),

final AS (
  SELECT item, value, CONCAT(CAST(value AS STRING), ' weekly numbers differ from their rows') AS detail
  FROM differences
)

SELECT * FROM final
"""


def _recount_sql(definition: Definition, table: str) -> str:
    """The CTEs of a KPI counted again: its columns by week and unit, where there are rows."""
    kpi, measure = definition.kpi, definition["measure"].says
    window, shift = definition["window"], definition["shift"]
    within = within_sql("facts.event_date", window, shift, "calendar.week_start", "calendar.last_day")
    if window.known_by:
        last = day_sql("last", shift, "calendar.week_start", "calendar.last_day")
        within += f" AND facts.{window.known_by} <= {last}"
    source = f"""\
  FROM calendar
  INNER JOIN {MART}.{table} AS facts
    ON calendar.business_unit = facts.business_unit AND {within}{_recent_sql(definition)}"""
    if "net" in measure:
        return f"""\
{kpi.name}_items AS (
  SELECT
    calendar.week_start,
    calendar.business_unit,
    facts.{measure["per"]} AS item,
    {sum_sql(kpi, measure["net"], "facts")} AS balance
{source}
  GROUP BY 1, 2, 3
),

{kpi.name}_recount AS (
  SELECT week_start, business_unit, SUM(balance) AS {kpi.name}
  FROM {kpi.name}_items
  WHERE balance >= {measure["least"]}
  GROUP BY 1, 2
)"""
    columns = ",\n    ".join(f"{measure_sql(kpi, c.measure, 'facts')} AS {c.name}" for c in table_columns(definition))
    return f"""\
{kpi.name}_recount AS (
  SELECT
    calendar.week_start,
    calendar.business_unit,
    {columns}
{source}
  GROUP BY 1, 2
)"""


def _differences_sql(definition: Definition) -> str:
    kpi = definition.kpi
    # Where a week has no rows, counts and money are zero and ratios NULL.
    expected = {c.name: f"recount.{c.name}" for c in table_columns(definition)}
    expected |= {c.name: f"COALESCE({expected[c.name]}, 0)" for c in table_columns(definition) if not c.is_ratio}
    differs = "\n      OR ".join(f"weekly.{name} IS DISTINCT FROM {value}" for name, value in expected.items())
    return f"""\
  SELECT
    '{kpi.label}' AS item,
    COUNTIF(
      weekly.week_start IS NULL
      OR {differs}
    ) AS value
  FROM calendar
  LEFT JOIN weekly
    ON calendar.week_start = weekly.week_start AND calendar.business_unit = weekly.business_unit
  LEFT JOIN {kpi.name}_recount AS recount
    ON calendar.week_start = recount.week_start AND calendar.business_unit = recount.business_unit\
{_recent_sql(definition)}"""


def _recent_sql(definition: Definition) -> str:
    return "\n  WHERE calendar.last_day >= @first_day" if definition.kpi.is_level else ""


def weekly_kpis_sql(definitions: Mapping[str, Definition]) -> str:
    """Return the SELECT of the KPIs by which the newest week is compared with those before: a row per full week from
    @first_day to @as_of and scope, each unit and the whole company, whose ratios are ratios of sums.
    """
    kpis = [definition.kpi for definition in definitions.values()]
    columns = ",\n    ".join(
        f"SAFE_DIVIDE(SUM({kpi.sums[0]}), SUM({kpi.sums[1]})) AS {kpi.name}"
        if kpi.sums
        else f"SUM({kpi.name}) AS {kpi.name}"
        for kpi in kpis
    )
    return f"""\
-- Grain: one row per full week from first_day on and scope: each rolled-up unit, and the whole company.
-- Source: kpi_weekly_by_bu.
-- Purpose: the KPIs by which a week is compared with the weeks before.
WITH weeks AS (
  SELECT *
  FROM {MART}.kpi_weekly_by_bu
  WHERE week_start >= @first_day AND DATE_ADD(week_start, INTERVAL 6 DAY) <= @as_of
),

scopes AS (
  SELECT business_unit AS scope, * FROM weeks
  UNION ALL
  SELECT '{COMPANY}' AS scope, * FROM weeks
),

final AS (
  SELECT
    scope,
    week_start,
    {columns}
  FROM scopes
  GROUP BY scope, week_start
)

SELECT * FROM final
"""
