-- Grain: one row per kind of date; value: records whose date was still to come when they were read.
-- Source: the raw tables whose dates decide a KPI's day.
-- Purpose: what is created, completed or sold has happened. Invoices and payments may be dated ahead by a month.
WITH dates AS (
  SELECT 'jobs created' AS item, createdOn > _ingested_at AS is_ahead FROM st_raw_v2.raw_jobs
  UNION ALL
  SELECT 'jobs completed' AS item, completedOn > _ingested_at AS is_ahead FROM st_raw_v2.raw_jobs
  UNION ALL
  SELECT 'estimates sold' AS item, soldOn > _ingested_at AS is_ahead FROM st_raw_v2.raw_estimates
  UNION ALL
  SELECT 'invoices dated' AS item, invoiceDate > DATE_ADD(DATE(_ingested_at), INTERVAL 31 DAY) AS is_ahead
  FROM st_raw_v2.raw_invoices
  UNION ALL
  SELECT 'payments dated' AS item, date > DATE_ADD(DATE(_ingested_at), INTERVAL 31 DAY) AS is_ahead
  FROM st_raw_v2.raw_payments
  UNION ALL
  SELECT 'payroll worked' AS item, date > DATE_ADD(DATE(_ingested_at), INTERVAL 31 DAY) AS is_ahead
  FROM st_raw_v2.raw_payroll
),

final AS (
  SELECT
    item,
    COUNTIF(is_ahead) AS value,
    CONCAT(CAST(COUNTIF(is_ahead) AS STRING), ' of ', CAST(COUNT(*) AS STRING), ' lie in the future') AS detail
  FROM dates
  GROUP BY item
)

SELECT * FROM final
