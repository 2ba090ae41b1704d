-- Grain: one row per business unit and one per job type.
-- Source: dim_business_units, dim_job_types.
-- Purpose: in words, what its records count as. st_logs_v2.counted_names keeps that under the name that it had.
-- Kind: view
-- Unbounded: every unit and every job type is needed; there are some dozens.
WITH units AS (
  SELECT * FROM st_ref_v2.dim_business_units
),

job_types AS (
  SELECT * FROM st_ref_v2.dim_job_types
),

final AS (
  SELECT
    'business unit' AS kind,
    business_unit_id AS id,
    COALESCE(unit_name, '') AS name,
    CONCAT(business_unit, ', ', COALESCE(region, 'no region'), ', ', division, ', ', COALESCE(segment, 'no segment'))
      AS counted_as
  FROM units
  UNION ALL
  SELECT
    'job type' AS kind,
    job_type_id AS id,
    COALESCE(job_type_name, '') AS name,
    CONCAT(
      IF(is_estimate, 'an estimate', 'no estimate'),
      IF(is_warranty, ', warranty work', ''),
      IF(is_excluded_from_production, ', not in production', '')
    ) AS counted_as
  FROM job_types
)

SELECT * FROM final
