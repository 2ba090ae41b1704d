-- Grain: one row per kind of link, for what is dated from first_day on and for what is older; value: the share of the
-- links that lead nowhere.
-- Source: raw_invoices, raw_jobs, raw_payroll, raw_estimates, raw_appointments, raw_customers, raw_locations;
-- dim_payment_applications.
-- Purpose: an id that is there must find its record. An id that is empty or 0 is no link.
WITH jobs AS (
  SELECT DISTINCT id FROM st_raw_v2.raw_jobs
),

invoices AS (
  SELECT DISTINCT id FROM st_raw_v2.raw_invoices
),

customers AS (
  SELECT DISTINCT id FROM st_raw_v2.raw_customers
),

links AS (
  SELECT 'invoices to jobs' AS link, DATE(rows_.createdOn, @time_zone) AS day, jobs.id AS found
  FROM st_raw_v2.raw_invoices AS rows_
  LEFT JOIN jobs ON rows_.jobId = jobs.id
  WHERE rows_.jobId != 0
  UNION ALL
  SELECT 'payments to invoices' AS link, rows_.paid_date AS day, invoices.id AS found
  FROM st_ref_v2.dim_payment_applications AS rows_
  LEFT JOIN invoices ON rows_.invoice_id = invoices.id
  WHERE rows_.payment_is_active
  UNION ALL
  SELECT 'payroll to jobs' AS link, rows_.date AS day, jobs.id AS found
  FROM st_raw_v2.raw_payroll AS rows_
  LEFT JOIN jobs ON rows_.jobId = jobs.id
  WHERE rows_.jobId != 0
  UNION ALL
  SELECT 'estimates to jobs' AS link, DATE(rows_.createdOn, @time_zone) AS day, jobs.id AS found
  FROM st_raw_v2.raw_estimates AS rows_
  LEFT JOIN jobs ON rows_.jobId = jobs.id
  WHERE rows_.jobId != 0
  UNION ALL
  SELECT 'appointments to jobs' AS link, DATE(rows_.createdOn, @time_zone) AS day, jobs.id AS found
  FROM st_raw_v2.raw_appointments AS rows_
  LEFT JOIN jobs ON rows_.jobId = jobs.id
  WHERE rows_.jobId != 0
  UNION ALL
  SELECT 'jobs to customers' AS link, DATE(rows_.createdOn, @time_zone) AS day, customers.id AS found
  FROM st_raw_v2.raw_jobs AS rows_
  LEFT JOIN customers ON rows_.customerId = customers.id
  WHERE rows_.customerId != 0
  UNION ALL
  SELECT 'locations to customers' AS link, DATE(rows_.createdOn, @time_zone) AS day, customers.id AS found
  FROM st_raw_v2.raw_locations AS rows_
  LEFT JOIN customers ON rows_.customerId = customers.id
  WHERE rows_.customerId != 0
),

final AS (
  SELECT
    CONCAT(link, IF(day >= @first_day, '', ', older')) AS item,
    CAST(SAFE_DIVIDE(COUNTIF(found IS NULL), COUNT(*)) AS NUMERIC) AS value,
    CONCAT(CAST(COUNTIF(found IS NULL) AS STRING), ' of ', CAST(COUNT(*) AS STRING), ' lead nowhere') AS detail
  FROM links
  GROUP BY item
)

SELECT * FROM final
