-- Grain: one row per job that is a sales opportunity.
-- Source: dim_jobs, dim_estimates, dim_invoices. ServiceTitan's report: Daily WBR, columns Sales Opportunity and Closed.
-- Purpose: Success Rate = COUNTIF(is_closed) / COUNT(*) by event_date, the day of the first sale, else of the
-- completion. Jobs of Sales units, of any type, that are Completed or have a sold estimate; not no-charge jobs, which
-- have no estimate and invoices that sum to zero.
-- Partition: DATE_TRUNC(event_date, MONTH)
-- Cluster: business_unit, job_id
-- Replaces: event_date >= @changed_from AND root_created >= @created_from
WITH jobs AS (
  SELECT * FROM st_ref_v2.dim_jobs WHERE root_created >= @created_from
),

estimates AS (
  SELECT
    job_id,
    COUNT(*) AS estimates,
    COUNTIF(is_sold) AS sold_estimates,
    MIN(IF(is_sold, sold_date, NULL)) AS first_sold_date
  FROM st_ref_v2.dim_estimates
  WHERE root_created >= @created_from
  GROUP BY job_id
),

invoices AS (
  SELECT job_id, SUM(subtotal) AS subtotal
  FROM st_ref_v2.dim_invoices
  WHERE root_created >= @created_from
  GROUP BY job_id
),

final AS (
  SELECT
    COALESCE(estimates.first_sold_date, jobs.completed_date) AS event_date,
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
    COALESCE(estimates.estimates, 0) AS estimates,
    COALESCE(estimates.sold_estimates, 0) AS sold_estimates,
    COALESCE(estimates.sold_estimates, 0) > 0 AS is_closed,
    jobs.root_created
  FROM jobs
  LEFT JOIN estimates ON jobs.job_id = estimates.job_id
  LEFT JOIN invoices ON jobs.job_id = invoices.job_id
  WHERE
    jobs.division = 'Sales'
    AND (jobs.job_status = 'Completed' OR estimates.sold_estimates > 0)
    AND (estimates.estimates > 0 OR invoices.subtotal != 0)
    AND COALESCE(estimates.first_sold_date, jobs.completed_date) IS NOT NULL
)

SELECT * FROM final WHERE event_date >= @changed_from
