-- Grain: one row per rolled-up business unit that produces; value: dollars that $ Produced is off.
-- Source: kpi_weekly_by_bu, fact_production, raw_invoices.
-- Purpose: $ Produced of all weeks must equal the sum of the jobs' single invoices: a join that doubles a row, or loses
-- one, shows here.
WITH weekly AS (
  SELECT business_unit, SUM(dollars_produced) AS produced, MIN(week_start) AS first_day
  FROM st_mart_v2.kpi_weekly_by_bu
  WHERE division IN ('Production', 'Both')
  GROUP BY business_unit
),

jobs AS (
  SELECT DISTINCT facts.business_unit, facts.job_id
  FROM st_mart_v2.fact_production AS facts
  INNER JOIN weekly ON facts.business_unit = weekly.business_unit
  WHERE facts.event_date BETWEEN weekly.first_day AND @as_of
),

invoices AS (
  SELECT jobs.business_unit, SUM(invoices.subTotal) AS produced
  FROM st_raw_v2.raw_invoices AS invoices
  INNER JOIN jobs ON invoices.jobId = jobs.job_id
  WHERE COALESCE(invoices.active, TRUE)
  GROUP BY jobs.business_unit
),

final AS (
  SELECT
    weekly.business_unit AS item,
    ABS(weekly.produced - COALESCE(invoices.produced, 0)) AS value,
    CONCAT(
      'weeks $',
      CAST(CAST(ROUND(weekly.produced) AS INT64) AS STRING),
      ', invoices $',
      CAST(CAST(ROUND(COALESCE(invoices.produced, 0)) AS INT64) AS STRING)
    ) AS detail
  FROM weekly
  LEFT JOIN invoices ON weekly.business_unit = invoices.business_unit
)

SELECT * FROM final
