-- Grain: one row per entity and day, from the entity's first record to as_of, also where nothing happened.
-- Source: the raw tables that grow, by creation day (payroll by the day that was worked).
-- Purpose: what coverage, volume and the age of the newest record are judged by. A day without rows is a row.
WITH records AS (
  SELECT 'jobs' AS entity, DATE(createdOn, @time_zone) AS day FROM st_raw_v2.raw_jobs
  UNION ALL
  SELECT 'appointments' AS entity, DATE(createdOn, @time_zone) AS day FROM st_raw_v2.raw_appointments
  UNION ALL
  SELECT 'invoices' AS entity, DATE(createdOn, @time_zone) AS day FROM st_raw_v2.raw_invoices
  UNION ALL
  SELECT 'estimates' AS entity, DATE(createdOn, @time_zone) AS day FROM st_raw_v2.raw_estimates
  UNION ALL
  SELECT 'payments' AS entity, DATE(createdOn, @time_zone) AS day FROM st_raw_v2.raw_payments
  UNION ALL
  SELECT 'payroll' AS entity, date AS day FROM st_raw_v2.raw_payroll
  UNION ALL
  SELECT 'payroll_adjustments' AS entity, DATE(createdOn, @time_zone) AS day FROM st_raw_v2.raw_payroll_adjustments
  UNION ALL
  SELECT 'customers' AS entity, DATE(createdOn, @time_zone) AS day FROM st_raw_v2.raw_customers
  UNION ALL
  SELECT 'locations' AS entity, DATE(createdOn, @time_zone) AS day FROM st_raw_v2.raw_locations
  UNION ALL
  SELECT 'purchase_orders' AS entity, DATE(createdOn, @time_zone) AS day FROM st_raw_v2.raw_purchase_orders
  UNION ALL
  SELECT 'returns' AS entity, DATE(createdOn, @time_zone) AS day FROM st_raw_v2.raw_returns
),

counts AS (
  SELECT entity, day, COUNT(*) AS records
  FROM records
  GROUP BY entity, day
),

starts AS (
  SELECT entity, MIN(day) AS first_day
  FROM records
  GROUP BY entity
),

calendar AS (
  SELECT starts.entity, day
  FROM starts
  CROSS JOIN UNNEST(GENERATE_DATE_ARRAY(DATE '2000-01-01', @as_of)) AS day
  WHERE day >= starts.first_day
),

final AS (
  SELECT calendar.entity, calendar.day, COALESCE(counts.records, 0) AS records
  FROM calendar
  LEFT JOIN counts ON calendar.entity = counts.entity AND calendar.day = counts.day
)

SELECT * FROM final
