-- Grain: one row per rolled-up business unit that produces; value: dollars that $ Produced is off.
-- Source: kpi_weekly_by_bu, fact_production, raw_invoices; records for the versions that the build saw.
-- Purpose: $ Produced of all weeks must equal the sum of the jobs' single invoices: a join that doubles a row, or loses
-- one, shows here. The tables do not have what was read after the build: jobs with such an invoice are left out.
WITH weekly AS (
  SELECT business_unit, SUM(dollars_produced) AS produced, MIN(week_start) AS first_day
  FROM st_mart_v2.kpi_weekly_by_bu
  WHERE division IN ('Production', 'Both')
  GROUP BY business_unit
),

seen AS (
  SELECT record_key, version, job_id FROM st_ref_v2.records WHERE entity = 'invoices'
),

stored AS (
  SELECT CAST(id AS STRING) AS record_key, _ingested_at AS version, jobId AS job_id FROM st_raw_v2.raw_invoices
),

versions AS (
  SELECT seen.job_id AS job_before, stored.job_id AS job_now
  FROM seen
  FULL JOIN stored ON seen.record_key = stored.record_key
  WHERE seen.version IS DISTINCT FROM stored.version
),

read_since AS (
  SELECT job_before AS job_id FROM versions
  UNION DISTINCT
  SELECT job_now AS job_id FROM versions
),

jobs AS (
  SELECT DISTINCT facts.business_unit, facts.job_id, facts.produced, read_since.job_id IS NOT NULL AS was_read_since
  FROM st_mart_v2.fact_production AS facts
  INNER JOIN weekly ON facts.business_unit = weekly.business_unit
  LEFT JOIN read_since ON facts.job_id = read_since.job_id
  WHERE facts.event_date BETWEEN weekly.first_day AND @as_of
),

left_out AS (
  SELECT business_unit, SUM(produced) AS produced FROM jobs WHERE was_read_since GROUP BY business_unit
),

invoices AS (
  SELECT jobs.business_unit, SUM(invoices.subTotal) AS produced
  FROM st_raw_v2.raw_invoices AS invoices
  INNER JOIN (SELECT DISTINCT business_unit, job_id FROM jobs WHERE NOT was_read_since) AS jobs
    ON invoices.jobId = jobs.job_id
  WHERE COALESCE(invoices.active, TRUE)
  GROUP BY jobs.business_unit
),

final AS (
  SELECT
    weekly.business_unit AS item,
    ABS(weekly.produced - COALESCE(left_out.produced, 0) - COALESCE(invoices.produced, 0)) AS value,
    CONCAT(
      'weeks $',
      CAST(CAST(ROUND(weekly.produced - COALESCE(left_out.produced, 0)) AS INT64) AS STRING),
      ', invoices $',
      CAST(CAST(ROUND(COALESCE(invoices.produced, 0)) AS INT64) AS STRING)
    ) AS detail
  FROM weekly
  LEFT JOIN left_out ON weekly.business_unit = left_out.business_unit
  LEFT JOIN invoices ON weekly.business_unit = invoices.business_unit
)

SELECT * FROM final
