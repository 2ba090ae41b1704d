-- Grain: one row per completed estimate job.
-- Source: dim_jobs. ServiceTitan's report: Daily WBR, column Completed Jobs.
-- Purpose: Estimates = COUNT(*) by event_date, the day the job was completed. Jobs of Sales units whose type is an
-- estimate and whose status is Completed: a canceled job can keep its completion date.
-- Partition: DATE_TRUNC(event_date, MONTH)
-- Cluster: business_unit, job_id
-- Replaces: event_date >= @changed_from AND root_created >= @created_from
WITH jobs AS (
  SELECT * FROM st_ref_v2.dim_jobs WHERE root_created >= @created_from
),

final AS (
  SELECT
    completed_date AS event_date,
    business_unit,
    unit_name,
    region,
    segment,
    customer_id,
    customer_name,
    job_id,
    job_number,
    job_type_name,
    job_status,
    completed_on,
    root_created
  FROM jobs
  WHERE
    division = 'Sales'
    AND is_estimate
    AND job_status = 'Completed'
    AND completed_date IS NOT NULL
)

SELECT * FROM final WHERE event_date >= @changed_from
