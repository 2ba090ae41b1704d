-- Grain: one row per ServiceTitan business unit; value: its jobs from first_day to as_of if no line of
-- business_units.csv names it, else 0.
-- Source: dim_business_units, dim_jobs.
-- Purpose: a unit without a line counts under its own name, as Sales and as Production, in no region.
WITH units AS (
  SELECT * FROM st_ref_v2.dim_business_units
),

jobs AS (
  SELECT business_unit_id, COUNT(*) AS jobs
  FROM st_ref_v2.dim_jobs
  WHERE created_date BETWEEN @first_day AND @as_of
  GROUP BY business_unit_id
),

final AS (
  SELECT
    units.unit_name AS item,
    IF(units.is_mapped, 0, COALESCE(jobs.jobs, 0)) AS value,
    IF(
      units.is_mapped,
      'is in business_units.csv',
      CONCAT(CAST(COALESCE(jobs.jobs, 0) AS STRING), ' jobs count under its own name, as Sales and Production')
    ) AS detail
  FROM units
  LEFT JOIN jobs ON units.business_unit_id = jobs.business_unit_id
)

SELECT * FROM final
