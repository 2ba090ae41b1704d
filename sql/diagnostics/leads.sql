-- Grain: one row per job that one of the readings of Leads could count: one of its days is in the window, or it was
-- created in the window of a year or of 364 days before.
-- Source: dim_jobs, dim_customers, dim_estimates.
-- Purpose: what the Leads diagnostics count, each reading with its own date and conditions. Days are the tenant's, but
-- created_utc.
WITH jobs AS (
  SELECT * FROM st_ref_v2.dim_jobs
),

customers AS (
  SELECT * FROM st_ref_v2.dim_customers
),

sales AS (
  SELECT job_id, COUNT(*) AS sold_estimates, MIN(sold_date) AS sold_date
  FROM st_ref_v2.dim_estimates
  WHERE is_sold
  GROUP BY job_id
),

final AS (
  SELECT
    jobs.job_id,
    jobs.job_number,
    jobs.customer_id,
    COALESCE(customers.root_customer_id, jobs.customer_id) AS root_customer_id,
    jobs.customer_name,
    jobs.business_unit,
    jobs.unit_name,
    jobs.segment,
    jobs.job_type_name,
    jobs.job_status,
    jobs.is_estimate,
    COALESCE(jobs.job_type_name LIKE '%Estimate%', FALSE) AS is_estimate_by_case,
    jobs.is_test_customer,
    COALESCE(sales.sold_estimates, 0) > 0 AS is_sold,
    jobs.created_on,
    jobs.created_date,
    DATE(jobs.created_on) AS created_utc,
    jobs.completed_date,
    jobs.start_date,
    sales.sold_date
  FROM jobs
  LEFT JOIN customers ON jobs.customer_id = customers.customer_id
  LEFT JOIN sales ON jobs.job_id = sales.job_id
)

SELECT *
FROM final
WHERE
  created_date BETWEEN @first_day AND @last_day
  OR created_utc BETWEEN @first_day AND @last_day
  OR completed_date BETWEEN @first_day AND @last_day
  OR start_date BETWEEN @first_day AND @last_day
  OR sold_date BETWEEN @first_day AND @last_day
  OR created_date BETWEEN DATE_SUB(@first_day, INTERVAL 1 YEAR) AND DATE_SUB(@last_day, INTERVAL 1 YEAR)
  OR created_date BETWEEN DATE_SUB(@first_day, INTERVAL 364 DAY) AND DATE_SUB(@last_day, INTERVAL 364 DAY)
