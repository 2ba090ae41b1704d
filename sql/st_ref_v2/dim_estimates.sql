-- Grain: one row per estimate, active or not.
-- Source: raw_estimates; the job from dim_jobs; dim_business_units.
-- Purpose: which estimates are sold, on which business day, and for which unit: the job's, else the estimate's own.
-- Partition: TIMESTAMP_TRUNC(root_created, MONTH)
-- Cluster: job_id
-- Replaces: root_created >= @created_from
WITH estimates AS (
  SELECT *
  FROM st_raw_v2.raw_estimates
  WHERE createdOn >= @created_from OR createdOn IS NULL
),

roots AS (
  SELECT * FROM st_ref_v2.roots WHERE first_created >= @created_from
),

jobs AS (
  SELECT * FROM st_ref_v2.dim_jobs WHERE root_created >= @created_from
),

units AS (
  SELECT * FROM st_ref_v2.dim_business_units
),

final AS (
  SELECT
    -- ids
    estimates.id AS estimate_id,
    jobs.job_id,
    jobs.job_number,
    COALESCE(estimates.customerId, jobs.customer_id) AS customer_id,
    COALESCE(estimates.locationId, jobs.location_id) AS location_id,
    units.business_unit_id,
    estimates.businessUnitId AS own_business_unit_id,
    -- names
    estimates.name AS estimate_name,
    estimates.status,
    units.unit_name,
    units.business_unit,
    units.region,
    units.division,
    units.segment,
    jobs.job_type_name,
    -- flags
    COALESCE(estimates.active, TRUE) AS is_active,
    COALESCE(estimates.status = 'Sold', FALSE) AS is_sold,
    COALESCE(estimates.isChangeOrder, FALSE) AS is_change_order,
    -- measures
    COALESCE(estimates.subtotal, 0) AS subtotal,
    COALESCE(estimates.subtotal, 0) + COALESCE(estimates.tax, 0) AS total,
    -- dates
    DATE(estimates.soldOn, @time_zone) AS sold_date,
    -- instants
    estimates.soldOn AS sold_on,
    estimates.createdOn AS created_on,
    estimates.modifiedOn AS modified_on,
    roots.first_created AS root_created
  FROM estimates
  INNER JOIN roots
    ON
      roots.kind = IF(estimates.jobId IS NULL, 'estimates', 'jobs')
      AND roots.id = COALESCE(estimates.jobId, estimates.id)
  LEFT JOIN jobs ON estimates.jobId = jobs.job_id
  LEFT JOIN units ON IF(jobs.job_id IS NULL, estimates.businessUnitId, jobs.business_unit_id) = units.business_unit_id
)

SELECT * FROM final
