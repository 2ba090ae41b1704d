-- Grain: one row per appointment of an estimate job.
-- Source: raw_appointments, dim_jobs. ServiceTitan's screen: the dispatch board.
-- Purpose: Estimates Scheduled = COUNT(DISTINCT job_id) by event_date, the day the appointment starts. Appointments that
-- are active and not Canceled, for jobs of Sales units whose type is an estimate.
-- Partition: DATE_TRUNC(event_date, MONTH)
-- Cluster: business_unit, job_id
-- Replaces: event_date >= @changed_from AND root_created >= @created_from
WITH appointments AS (
  SELECT *
  FROM st_raw_v2.raw_appointments
  WHERE
    (createdOn >= @created_from OR createdOn IS NULL)
    AND COALESCE(active, TRUE)
    AND COALESCE(status, '') != 'Canceled'
    AND start IS NOT NULL
),

jobs AS (
  SELECT * FROM st_ref_v2.dim_jobs WHERE root_created >= @created_from AND division = 'Sales' AND is_estimate
),

final AS (
  SELECT
    DATE(appointments.start, @time_zone) AS event_date,
    jobs.business_unit,
    jobs.unit_name,
    jobs.region,
    jobs.segment,
    jobs.customer_id,
    jobs.customer_name,
    jobs.job_id,
    jobs.job_number,
    jobs.job_type_name,
    jobs.job_status,
    appointments.id AS appointment_id,
    appointments.status AS appointment_status,
    appointments.start AS appointment_start,
    jobs.root_created
  FROM appointments
  INNER JOIN jobs ON appointments.jobId = jobs.job_id
)

SELECT * FROM final WHERE event_date >= @changed_from
