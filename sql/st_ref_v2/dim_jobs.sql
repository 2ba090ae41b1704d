-- Grain: one row per job.
-- Source: raw_jobs; names from dim_business_units, dim_job_types, dim_customers; raw_appointments for the start.
-- Purpose: every job with its names resolved, inactive types and units included, and its three business dates in the
-- tenant's time zone. start_date is the start of the first appointment (one that says it's another job's is not the
-- first of this one), else the completion, else the creation.
-- Partition: TIMESTAMP_TRUNC(root_created, MONTH)
-- Cluster: job_id
-- Replaces: root_created >= @created_from
WITH jobs AS (
  SELECT * FROM st_raw_v2.raw_jobs WHERE createdOn >= @created_from OR createdOn IS NULL
),

roots AS (
  SELECT * FROM st_ref_v2.roots WHERE first_created >= @created_from
),

appointments AS (
  SELECT id, jobId, start
  FROM st_raw_v2.raw_appointments
  WHERE createdOn >= @created_from OR createdOn IS NULL
),

units AS (
  SELECT * FROM st_ref_v2.dim_business_units
),

job_types AS (
  SELECT * FROM st_ref_v2.dim_job_types
),

customers AS (
  SELECT * FROM st_ref_v2.dim_customers
),

final AS (
  SELECT
    -- ids
    jobs.id AS job_id,
    jobs.jobNumber AS job_number,
    jobs.customerId AS customer_id,
    customers.root_customer_id,
    jobs.locationId AS location_id,
    jobs.businessUnitId AS business_unit_id,
    jobs.jobTypeId AS job_type_id,
    jobs.firstAppointmentId AS first_appointment_id,
    -- names
    customers.customer_name,
    units.unit_name,
    units.business_unit,
    units.region,
    units.division,
    units.segment,
    job_types.job_type_name,
    jobs.jobStatus AS job_status,
    -- flags
    COALESCE(customers.is_test, FALSE) AS is_test_customer,
    COALESCE(job_types.is_estimate, FALSE) AS is_estimate,
    COALESCE(job_types.is_excluded_from_production, FALSE) AS is_excluded_from_production,
    COALESCE(job_types.is_active, FALSE) AS type_is_active,
    COALESCE(job_types.is_warranty, FALSE) AS is_warranty_type,
    COALESCE(jobs.warrantyId, 0) != 0 AS has_warranty_id,
    COALESCE(job_types.is_warranty, FALSE) OR COALESCE(jobs.warrantyId, 0) != 0 AS is_warranty,
    COALESCE(jobs.noCharge, FALSE) AS is_no_charge,
    COALESCE(customers.is_active, TRUE) AS customer_is_active,
    -- measures
    COALESCE(job_types.sold_threshold, 0) AS sold_threshold,
    -- dates
    DATE(jobs.createdOn, @time_zone) AS created_date,
    DATE(jobs.completedOn, @time_zone) AS completed_date,
    DATE(COALESCE(appointments.start, jobs.completedOn, jobs.createdOn), @time_zone) AS start_date,
    -- instants
    jobs.createdOn AS created_on,
    jobs.completedOn AS completed_on,
    COALESCE(appointments.start, jobs.completedOn, jobs.createdOn) AS start_on,
    jobs.modifiedOn AS modified_on,
    roots.first_created AS root_created
  FROM jobs
  INNER JOIN roots ON roots.kind = 'jobs' AND jobs.id = roots.id
  LEFT JOIN appointments ON jobs.firstAppointmentId = appointments.id AND jobs.id = appointments.jobId
  LEFT JOIN units ON jobs.businessUnitId = units.business_unit_id
  LEFT JOIN job_types ON jobs.jobTypeId = job_types.job_type_id
  LEFT JOIN customers ON jobs.customerId = customers.customer_id
)

SELECT * FROM final
