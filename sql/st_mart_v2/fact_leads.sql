-- Grain: one row per job that is a lead.
-- Source: dim_jobs. ServiceTitan's report: Leads.
-- Purpose: Leads = COUNT(DISTINCT customer_id) by event_date, the day the job was created. Jobs of Sales units whose
-- type is an estimate, in any status, RES and COMM; not those of test customers.
-- Partition: DATE_TRUNC(event_date, MONTH)
-- Cluster: business_unit, job_id
-- Replaces: event_date >= @changed_from AND root_created >= @created_from
WITH jobs AS (
  SELECT * FROM st_ref_v2.dim_jobs WHERE root_created >= @created_from
),

final AS (
  SELECT
    created_date AS event_date,
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
    created_on,
    root_created
  FROM jobs
  WHERE
    division = 'Sales'
    AND is_estimate
    AND NOT is_test_customer
    AND created_date IS NOT NULL
)

SELECT * FROM final WHERE event_date >= @changed_from
