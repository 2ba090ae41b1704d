-- Grain: one row per business unit and job type; value: its jobs, of any time, if it was renamed and counts as something
-- else since, else 0.
-- Source: counted_names (what each counted as, and its name then), counted_as (the same now), dim_jobs.
-- Purpose: a name in ServiceTitan decides how records count: who renames a unit or a type there rewrites its history.
-- Unbounded: the whole history of a renamed unit moves; only the ids of jobs are read.
WITH before AS (
  SELECT * FROM st_logs_v2.counted_names
),

now AS (
  SELECT * FROM st_ref_v2.counted_as
),

jobs AS (
  SELECT 'business unit' AS kind, business_unit_id AS id, COUNT(*) AS jobs
  FROM st_ref_v2.dim_jobs
  GROUP BY business_unit_id
  UNION ALL
  SELECT 'job type' AS kind, job_type_id AS id, COUNT(*) AS jobs
  FROM st_ref_v2.dim_jobs
  GROUP BY job_type_id
),

final AS (
  SELECT
    now.name AS item,
    IF(before.name != now.name AND before.counted_as != now.counted_as, COALESCE(jobs.jobs, 0), 0) AS value,
    CONCAT(
      'was called ', before.name, ' when its ', CAST(COALESCE(jobs.jobs, 0) AS STRING), ' jobs counted as ',
      before.counted_as, '; now they count as ', now.counted_as
    ) AS detail
  FROM before
  INNER JOIN now ON before.kind = now.kind AND before.id = now.id
  LEFT JOIN jobs ON now.kind = jobs.kind AND now.id = jobs.id
)

SELECT * FROM final
