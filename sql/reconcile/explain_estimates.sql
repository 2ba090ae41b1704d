-- Grain: one row per key of st_stage_v2.reconcile_keys that is the id of an estimate, active or not.
-- Source: raw_estimates, dim_jobs, dim_business_units, bounded by the keys.
-- Purpose: what Total Booked asks of an estimate, each predicate on its own, with every date that it has.
WITH estimates AS (
  SELECT
    keys.key,
    raw.id AS record_id,
    COALESCE(raw.customerId, jobs.customer_id) AS customer_id,
    jobs.job_type_name,
    jobs.job_status,
    COALESCE(raw.active, TRUE) AS is_active,
    COALESCE(raw.isChangeOrder, FALSE) AS is_change_order,
    jobs.job_id IS NOT NULL AS has_job,
    COALESCE(jobs.is_estimate, FALSE) AS is_estimate_job,
    COALESCE(raw.status, '') = 'Sold' AS is_sold,
    IF(jobs.job_id IS NULL, raw.businessUnitId, jobs.business_unit_id) AS business_unit_id,
    raw.modifiedOn AS modified_on,
    raw.soldOn AS sold_on,
    raw.createdOn AS created_on,
    jobs.completed_on,
    jobs.start_date
  FROM st_stage_v2.reconcile_keys AS keys
  INNER JOIN st_raw_v2.raw_estimates AS raw ON SAFE_CAST(keys.key AS INT64) = raw.id
  LEFT JOIN st_ref_v2.dim_jobs AS jobs ON raw.jobId = jobs.job_id
),

final AS (
  SELECT
    estimates.key,
    -- what it is
    estimates.record_id,
    estimates.customer_id,
    customers.customer_name,
    customers.root_customer_id,
    units.unit_name,
    units.segment,
    estimates.job_type_name,
    estimates.job_status,
    estimates.modified_on,
    -- predicates; one that rests on another holds where the other does not
    estimates.is_active,
    estimates.is_sold,
    COALESCE(units.division = @division, FALSE) AS in_division,
    COALESCE(units.division != @division, TRUE)
    OR COALESCE(units.business_unit IN (SELECT business_unit FROM st_stage_v2.reconcile_units), FALSE) AS in_unit,
    -- traits
    estimates.is_change_order,
    estimates.has_job,
    estimates.is_estimate_job,
    -- dates
    DATE(estimates.sold_on, @time_zone) AS sold_date,
    DATE(estimates.sold_on) AS sold_utc,
    DATE(estimates.created_on, @time_zone) AS created_date,
    DATE(estimates.created_on) AS created_utc,
    DATE(estimates.completed_on, @time_zone) AS completed_date,
    DATE(estimates.completed_on) AS completed_utc,
    estimates.start_date
  FROM estimates
  LEFT JOIN st_ref_v2.dim_business_units AS units ON estimates.business_unit_id = units.business_unit_id
  LEFT JOIN st_ref_v2.dim_customers AS customers ON estimates.customer_id = customers.customer_id
)

SELECT * FROM final
