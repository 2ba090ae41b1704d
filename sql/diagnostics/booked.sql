-- Grain: one row per sold estimate of the units of any division that has one of its days in the window.
-- Source: dim_estimates, raw_estimates, dim_jobs, dim_invoices, dim_business_units.
-- Purpose: what the Booked diagnostics sum up, by each of these days. Days are the tenant's, but sold_utc and
-- invoice_date, which is the calendar date of the job's first invoice.
WITH estimates AS (
  SELECT * FROM st_ref_v2.dim_estimates WHERE is_sold
),

raw_estimates AS (
  SELECT id, createdOn FROM st_raw_v2.raw_estimates
),

jobs AS (
  SELECT job_id, completed_date FROM st_ref_v2.dim_jobs
),

invoices AS (
  SELECT job_id, MIN(invoice_date) AS invoice_date
  FROM st_ref_v2.dim_invoices
  WHERE job_id IS NOT NULL
  GROUP BY job_id
),

units AS (
  SELECT * FROM st_ref_v2.dim_business_units
),

final AS (
  SELECT
    estimates.estimate_id,
    estimates.job_id,
    estimates.job_number,
    estimates.customer_id,
    estimates.business_unit,
    estimates.division,
    estimates.unit_name,
    estimates.segment,
    units.is_active AS unit_is_active,
    estimates.subtotal AS amount,
    estimates.sold_on,
    estimates.sold_date,
    DATE(estimates.sold_on) AS sold_utc,
    DATE(raw_estimates.createdOn, @time_zone) AS created_date,
    jobs.completed_date,
    invoices.invoice_date
  FROM estimates
  INNER JOIN raw_estimates ON estimates.estimate_id = raw_estimates.id
  INNER JOIN units ON estimates.business_unit_id = units.business_unit_id
  LEFT JOIN jobs ON estimates.job_id = jobs.job_id
  LEFT JOIN invoices ON estimates.job_id = invoices.job_id
)

SELECT *
FROM final
WHERE
  sold_date BETWEEN @first_day AND @last_day
  OR sold_utc BETWEEN @first_day AND @last_day
  OR created_date BETWEEN @first_day AND @last_day
  OR completed_date BETWEEN @first_day AND @last_day
  OR invoice_date BETWEEN @first_day AND @last_day
