-- Grain: one row per job type, active or not.
-- Source: raw_job_types; the company's job_type_rules.csv, matched by exact name.
-- Purpose: which types are estimates, which are warranty work, and which are left out of production.
-- Unbounded: every job type is needed; there are some dozens.
WITH job_types AS (
  SELECT * FROM st_raw_v2.raw_job_types
),

rules AS (
  SELECT * FROM st_ref_v2.job_type_rules
),

final AS (
  SELECT
    id AS job_type_id,
    name AS job_type_name,
    COALESCE(LOWER(name) LIKE '%estimate%', FALSE) AS is_estimate,
    COALESCE(TRIM(name) IN (SELECT job_type FROM rules WHERE rule = 'warranty'), FALSE) AS is_warranty,
    COALESCE(TRIM(name) IN (SELECT job_type FROM rules WHERE rule = 'excluded_from_production'), FALSE)
      AS is_excluded_from_production,
    COALESCE(active, TRUE) AS is_active,
    COALESCE(soldThreshold, 0) AS sold_threshold
  FROM job_types
)

SELECT * FROM final
