-- Grain: one row per entity; value: rows whose key is empty or stands there more than once.
-- Source: the raw tables; of those that grow, the rows from before first_day, because the suites look at the newer ones.
-- Purpose: a record that is there twice counts twice.
WITH records AS (
  SELECT 'jobs' AS entity, _key FROM st_raw_v2.raw_jobs WHERE DATE(createdOn, @time_zone) < @first_day
  UNION ALL
  SELECT 'appointments' AS entity, _key FROM st_raw_v2.raw_appointments WHERE DATE(createdOn, @time_zone) < @first_day
  UNION ALL
  SELECT 'invoices' AS entity, _key FROM st_raw_v2.raw_invoices WHERE DATE(createdOn, @time_zone) < @first_day
  UNION ALL
  SELECT 'estimates' AS entity, _key FROM st_raw_v2.raw_estimates WHERE DATE(createdOn, @time_zone) < @first_day
  UNION ALL
  SELECT 'payments' AS entity, _key FROM st_raw_v2.raw_payments WHERE DATE(createdOn, @time_zone) < @first_day
  UNION ALL
  SELECT 'payroll' AS entity, _key FROM st_raw_v2.raw_payroll WHERE DATE(createdOn, @time_zone) < @first_day
  UNION ALL
  SELECT 'payroll_adjustments' AS entity, _key FROM st_raw_v2.raw_payroll_adjustments WHERE DATE(createdOn, @time_zone) < @first_day
  UNION ALL
  SELECT 'customers' AS entity, _key FROM st_raw_v2.raw_customers WHERE DATE(createdOn, @time_zone) < @first_day
  UNION ALL
  SELECT 'locations' AS entity, _key FROM st_raw_v2.raw_locations WHERE DATE(createdOn, @time_zone) < @first_day
  UNION ALL
  SELECT 'purchase_orders' AS entity, _key FROM st_raw_v2.raw_purchase_orders WHERE DATE(createdOn, @time_zone) < @first_day
  UNION ALL
  SELECT 'returns' AS entity, _key FROM st_raw_v2.raw_returns WHERE DATE(createdOn, @time_zone) < @first_day
  UNION ALL
  SELECT 'business_units' AS entity, _key FROM st_raw_v2.raw_business_units
  UNION ALL
  SELECT 'job_types' AS entity, _key FROM st_raw_v2.raw_job_types
  UNION ALL
  SELECT 'technicians' AS entity, _key FROM st_raw_v2.raw_technicians
  UNION ALL
  SELECT 'employees' AS entity, _key FROM st_raw_v2.raw_employees
  UNION ALL
  SELECT 'activity_codes' AS entity, _key FROM st_raw_v2.raw_activity_codes
  UNION ALL
  SELECT 'tag_types' AS entity, _key FROM st_raw_v2.raw_tag_types
  UNION ALL
  SELECT 'campaigns' AS entity, _key FROM st_raw_v2.raw_campaigns
),

final AS (
  SELECT
    entity AS item,
    COUNT(*) - COUNT(DISTINCT _key) AS value,
    CONCAT(
      CAST(COUNT(*) AS STRING), ' rows, ', CAST(COUNT(*) - COUNT(DISTINCT _key) AS STRING), ' without a key of their own'
    ) AS detail
  FROM records
  GROUP BY entity
)

SELECT * FROM final
