-- Grain: one row per record of ServiceTitan, and job that it belongs or belonged to, that is not what it was before the
-- build.
-- Source: records beside st_stage_v2.before_records, the same rows as they stood; fact_history for the jobs that matter.
-- Purpose: the records behind a row that changed. What has no job is kept, too: payments have none.
WITH sides AS (
  SELECT entity, record_key, job_id, version, 'before' AS side FROM st_stage_v2.before_records
  UNION ALL
  SELECT entity, record_key, job_id, version, 'after' AS side
  FROM st_ref_v2.records
  WHERE created_on >= @created_from OR created_on IS NULL
),

versions AS (
  SELECT
    entity,
    record_key,
    job_id,
    MAX(IF(side = 'before', version, NULL)) AS then_version,
    MAX(IF(side = 'after', version, NULL)) AS now_version
  FROM sides
  GROUP BY entity, record_key, job_id
),

jobs AS (
  SELECT DISTINCT job_id FROM st_logs_v2.fact_history WHERE noted_at = @noted_at AND side != 'same'
),

final AS (
  SELECT
    versions.entity,
    versions.record_key,
    versions.job_id,
    CASE
      WHEN versions.then_version IS NULL THEN 'arrived'
      WHEN versions.now_version IS NULL THEN 'gone'
      ELSE 'changed'
    END AS what
  FROM versions
  LEFT JOIN jobs ON versions.job_id = jobs.job_id
  WHERE
    versions.then_version IS DISTINCT FROM versions.now_version
    AND (versions.job_id IS NULL OR jobs.job_id IS NOT NULL)
)

SELECT * FROM final
