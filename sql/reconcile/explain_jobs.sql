-- Grain: one row per key of st_stage_v2.reconcile_keys that is the number of a job; of several jobs with one number, one
-- of the units asked for.
-- Source: dim_jobs, and the raw records behind the facts, bounded by the keys.
-- Purpose: what the definitions of the KPIs ask of a job, each predicate on its own, with every date that a job has, by
-- the tenant's day and by UTC's.
WITH jobs AS (
  SELECT
    keys.key,
    dim.*,
    types.is_active AS type_is_active,
    raw.modifiedOn AS modified_on,
    dim.business_unit IN (SELECT business_unit FROM st_stage_v2.reconcile_units) AS of_units
  FROM st_stage_v2.reconcile_keys AS keys
  INNER JOIN st_ref_v2.dim_jobs AS dim ON keys.key = dim.job_number
  INNER JOIN st_raw_v2.raw_jobs AS raw ON dim.job_id = raw.id
  LEFT JOIN st_ref_v2.dim_job_types AS types ON dim.job_type_id = types.job_type_id
  WHERE TRUE
  QUALIFY ROW_NUMBER() OVER (
    PARTITION BY keys.key
    ORDER BY IF(dim.business_unit IN (SELECT business_unit FROM st_stage_v2.reconcile_units), 0, 1), dim.job_id
  ) = 1
),

estimates AS (
  SELECT
    jobs.job_id,
    COUNTIF(COALESCE(raw.active, TRUE)) AS estimates,
    COUNTIF(COALESCE(raw.active, TRUE) AND raw.status = 'Sold') AS sold_estimates,
    MIN(IF(COALESCE(raw.active, TRUE) AND raw.status = 'Sold', raw.soldOn, NULL)) AS sold_on,
    MAX(raw.modifiedOn) AS modified_on
  FROM jobs
  INNER JOIN st_raw_v2.raw_estimates AS raw ON jobs.job_id = raw.jobId
  GROUP BY job_id
),

invoices AS (
  SELECT
    jobs.job_id,
    SUM(IF(COALESCE(raw.active, TRUE), raw.subTotal, 0)) AS subtotal,
    SUM(IF(COALESCE(raw.active, TRUE) AND raw.adjustmentToId IS NOT NULL, raw.subTotal, 0)) AS adjustments,
    MAX(raw.modifiedOn) AS modified_on
  FROM jobs
  INNER JOIN st_raw_v2.raw_invoices AS raw ON jobs.job_id = raw.jobId
  GROUP BY job_id
),

payroll AS (
  SELECT jobs.job_id, MAX(raw.modifiedOn) AS modified_on
  FROM jobs
  INNER JOIN st_raw_v2.raw_payroll AS raw ON jobs.job_id = raw.jobId
  GROUP BY job_id
),

starts AS (
  SELECT jobs.job_id, raw.start AS start_on
  FROM jobs
  INNER JOIN st_raw_v2.raw_appointments AS raw ON jobs.first_appointment_id = raw.id
),

-- The appointment for which the job would be on the board: one in the window before others, one to be kept before others.
appointments AS (
  SELECT
    jobs.job_id,
    raw.start AS scheduled_on,
    COALESCE(raw.active, TRUE) AND COALESCE(raw.status, '') != 'Canceled' AS is_kept
  FROM jobs
  INNER JOIN st_raw_v2.raw_appointments AS raw ON jobs.job_id = raw.jobId
  WHERE TRUE
  QUALIFY ROW_NUMBER() OVER (
    PARTITION BY jobs.job_id
    ORDER BY
      IF(DATE(raw.start, @time_zone) BETWEEN @first_day AND @last_day, 0, 1),
      IF(COALESCE(raw.active, TRUE) AND COALESCE(raw.status, '') != 'Canceled', 0, 1),
      raw.start
  ) = 1
),

joined AS (
  SELECT
    jobs.*,
    customers.root_customer_id,
    COALESCE(estimates.estimates, 0) AS estimates,
    COALESCE(estimates.sold_estimates, 0) AS sold_estimates,
    COALESCE(invoices.subtotal, 0) AS subtotal,
    COALESCE(invoices.adjustments, 0) AS adjustments,
    COALESCE(appointments.is_kept, FALSE) AS has_appointment,
    estimates.sold_on,
    COALESCE(starts.start_on, jobs.completed_on, jobs.created_on) AS start_on,
    appointments.scheduled_on,
    GREATEST(
      jobs.modified_on,
      COALESCE(estimates.modified_on, jobs.modified_on),
      COALESCE(invoices.modified_on, jobs.modified_on),
      COALESCE(payroll.modified_on, jobs.modified_on)
    ) AS work_modified_on,
    COALESCE(jobs.job_status, '') = 'Completed' OR COALESCE(estimates.sold_estimates, 0) > 0 AS has_outcome
  FROM jobs
  LEFT JOIN st_ref_v2.dim_customers AS customers ON jobs.customer_id = customers.customer_id
  LEFT JOIN estimates ON jobs.job_id = estimates.job_id
  LEFT JOIN invoices ON jobs.job_id = invoices.job_id
  LEFT JOIN payroll ON jobs.job_id = payroll.job_id
  LEFT JOIN starts ON jobs.job_id = starts.job_id
  LEFT JOIN appointments ON jobs.job_id = appointments.job_id
),

final AS (
  SELECT
    key,
    -- what it is
    job_id AS record_id,
    customer_id,
    customer_name,
    root_customer_id,
    unit_name,
    segment,
    job_type_name,
    job_status,
    adjustments,
    modified_on,
    work_modified_on,
    -- predicates; one that rests on another holds where the other does not
    COALESCE(division = @division, FALSE) AS in_division,
    COALESCE(division != @division, TRUE) OR COALESCE(of_units, FALSE) AS in_unit,
    job_type_name IS NOT NULL AS has_type_name,
    job_type_name IS NULL OR is_estimate AS is_estimate,
    NOT is_excluded_from_production AS is_production_type,
    NOT is_test_customer AS is_real_customer,
    COALESCE(job_status, '') = 'Completed' AS is_completed,
    COALESCE(job_status, '') != 'Canceled' AS is_not_canceled,
    has_outcome,
    NOT has_outcome OR estimates > 0 OR subtotal != 0 AS is_charged,
    has_appointment,
    COALESCE(created_date <= @as_of, FALSE) AS is_created_in_time,
    -- traits
    is_warranty,
    COALESCE(type_is_active, TRUE) AS type_is_active,
    sold_estimates > 0 AS is_closed,
    -- dates
    created_date,
    DATE(created_on) AS created_utc,
    completed_date,
    DATE(completed_on) AS completed_utc,
    DATE(start_on, @time_zone) AS start_date,
    DATE(start_on) AS start_utc,
    DATE(sold_on, @time_zone) AS sold_date,
    DATE(sold_on) AS sold_utc,
    DATE(COALESCE(sold_on, completed_on), @time_zone) AS opportunity_date,
    DATE(COALESCE(sold_on, completed_on)) AS opportunity_utc,
    DATE(scheduled_on, @time_zone) AS scheduled_date,
    DATE(scheduled_on) AS scheduled_utc
  FROM joined
)

SELECT * FROM final
