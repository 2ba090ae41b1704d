-- Grain: one row per KPI; value: how many weeks of units differ from their fact rows, missing weeks included.
-- Source: kpi_weekly_by_bu; the fact tables; dim_business_units for the units that every week must have.
-- Purpose: the weekly table is an aggregate of the facts and nothing else.
WITH weekly AS (
  SELECT * FROM st_mart_v2.kpi_weekly_by_bu
),

calendar AS (
  SELECT weeks.week_start, units.business_unit
  FROM (SELECT DISTINCT week_start FROM weekly) AS weeks
  CROSS JOIN (SELECT DISTINCT business_unit FROM st_ref_v2.dim_business_units) AS units
),

leads AS (
  SELECT
    CAST(DATE_TRUNC(event_date, WEEK(MONDAY)) AS DATE) AS week_start,
    business_unit,
    COUNT(DISTINCT customer_id) AS leads
  FROM st_mart_v2.fact_leads
  WHERE event_date <= @as_of
  GROUP BY 1, 2
),

scheduled AS (
  SELECT
    CAST(DATE_TRUNC(event_date, WEEK(MONDAY)) AS DATE) AS week_start,
    business_unit,
    COUNT(DISTINCT job_id) AS estimates_scheduled
  FROM st_mart_v2.fact_estimates_scheduled
  WHERE event_date <= @as_of
  GROUP BY 1, 2
),

estimates AS (
  SELECT
    CAST(DATE_TRUNC(event_date, WEEK(MONDAY)) AS DATE) AS week_start,
    business_unit,
    COUNT(*) AS estimates
  FROM st_mart_v2.fact_estimates
  WHERE event_date <= @as_of
  GROUP BY 1, 2
),

opportunities AS (
  SELECT
    CAST(DATE_TRUNC(event_date, WEEK(MONDAY)) AS DATE) AS week_start,
    business_unit,
    CAST(SAFE_DIVIDE(COUNTIF(is_closed), COUNT(*)) AS NUMERIC) AS success_rate
  FROM st_mart_v2.fact_opportunities
  WHERE event_date <= @as_of
  GROUP BY 1, 2
),

booked AS (
  SELECT
    CAST(DATE_TRUNC(event_date, WEEK(MONDAY)) AS DATE) AS week_start,
    business_unit,
    SUM(amount) AS total_booked
  FROM st_mart_v2.fact_booked
  WHERE event_date <= @as_of
  GROUP BY 1, 2
),

production AS (
  SELECT
    CAST(DATE_TRUNC(event_date, WEEK(MONDAY)) AS DATE) AS week_start,
    business_unit,
    SUM(produced) AS dollars_produced,
    CAST(SAFE_DIVIDE(SUM(produced) - SUM(labor), SUM(produced)) AS NUMERIC) AS gpm,
    CAST(SAFE_DIVIDE(SUM(IF(is_warranty, full_cost, 0)), SUM(produced)) AS NUMERIC) AS warranty_rate
  FROM st_mart_v2.fact_production
  WHERE event_date <= @as_of
  GROUP BY 1, 2
),

collected AS (
  SELECT
    CAST(DATE_TRUNC(event_date, WEEK(MONDAY)) AS DATE) AS week_start,
    business_unit,
    SUM(amount) AS dollars_collected
  FROM st_mart_v2.fact_collected
  WHERE event_date <= @as_of
  GROUP BY 1, 2
),

-- A week that is missing counts as -1, a ratio without a denominator as -9: neither may pass for the other or for zero.
differences AS (
  SELECT
    COUNTIF(COALESCE(weekly.leads, -1) != COALESCE(leads.leads, 0)) AS leads,
    COUNTIF(COALESCE(weekly.estimates_scheduled, -1) != COALESCE(scheduled.estimates_scheduled, 0))
      AS estimates_scheduled,
    COUNTIF(COALESCE(weekly.estimates, -1) != COALESCE(estimates.estimates, 0)) AS estimates,
    COUNTIF(COALESCE(weekly.success_rate, -9) != COALESCE(opportunities.success_rate, -9)) AS success_rate,
    COUNTIF(COALESCE(weekly.total_booked, -1) != COALESCE(booked.total_booked, 0)) AS total_booked,
    COUNTIF(COALESCE(weekly.dollars_produced, -1) != COALESCE(production.dollars_produced, 0)) AS dollars_produced,
    COUNTIF(COALESCE(weekly.gpm, -9) != COALESCE(production.gpm, -9)) AS gpm,
    COUNTIF(COALESCE(weekly.warranty_rate, -9) != COALESCE(production.warranty_rate, -9)) AS warranty_rate,
    COUNTIF(COALESCE(weekly.dollars_collected, -1) != COALESCE(collected.dollars_collected, 0)) AS dollars_collected
  FROM calendar
  LEFT JOIN weekly USING (week_start, business_unit)
  LEFT JOIN leads USING (week_start, business_unit)
  LEFT JOIN scheduled USING (week_start, business_unit)
  LEFT JOIN estimates USING (week_start, business_unit)
  LEFT JOIN opportunities USING (week_start, business_unit)
  LEFT JOIN booked USING (week_start, business_unit)
  LEFT JOIN production USING (week_start, business_unit)
  LEFT JOIN collected USING (week_start, business_unit)
),

final AS (
  SELECT item, value, CONCAT(CAST(value AS STRING), ' weeks of units differ from their rows') AS detail
  FROM differences
  UNPIVOT (
    value FOR item IN (
      leads,
      estimates_scheduled,
      estimates,
      success_rate,
      total_booked,
      dollars_produced,
      gpm,
      warranty_rate,
      dollars_collected
    )
  )
)

SELECT * FROM final
