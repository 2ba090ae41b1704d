-- Grain: one row per record that a KPI may count; of a payment or credit memo one per application, and one for what is
-- unapplied.
-- Source: raw_jobs, raw_appointments, raw_estimates, raw_invoices, raw_payments, raw_payroll, raw_purchase_orders,
-- raw_returns, raw_vendor_bills, raw_credit_memos; active or not.
-- Purpose: what the last build saw of each record: its version, the invoice and job that it belongs to (what is applied to
-- an invoice belongs to its job), and the first business day on which it counts, or was entered: a definition may count
-- by that. The next build compares, and finds what changed, moved or is gone.
-- Partition: TIMESTAMP_TRUNC(created_on, MONTH)
-- Cluster: entity, record_key
-- Replaces: created_on >= @created_from OR created_on IS NULL
-- Unbounded: what is new may be applied to an invoice of any age; ids are read.
WITH payments AS (
  SELECT * FROM st_raw_v2.raw_payments WHERE createdOn >= @created_from OR createdOn IS NULL
),

memos AS (
  SELECT * FROM st_raw_v2.raw_credit_memos WHERE createdOn >= @created_from OR createdOn IS NULL
),

applications AS (
  SELECT
    payments.id,
    payments.createdOn,
    payments._ingested_at,
    payments.date,
    SAFE_CAST(JSON_VALUE(application, '$.appliedTo') AS INT64) AS invoice_id,
    DATE(
      IF(
        SUBSTR(JSON_VALUE(application, '$.appliedOn'), 1, 4) BETWEEN '1990' AND '2100',
        SAFE_CAST(
          REGEXP_REPLACE(JSON_VALUE(application, '$.appliedOn'), r'(\.[0-9]{6})[0-9]+', r'\1') AS TIMESTAMP
        ),
        NULL
      ),
      @time_zone
    ) AS applied_date
  FROM payments
  CROSS JOIN UNNEST(JSON_QUERY_ARRAY(payments.appliedTo)) AS application
),

days AS (
  SELECT
    'jobs' AS entity,
    CAST(id AS STRING) AS record_key,
    id AS job_id,
    CAST(NULL AS INT64) AS invoice_id,
    createdOn AS created_on,
    _ingested_at AS version,
    DATE(createdOn, @time_zone) AS one_day,
    DATE(completedOn, @time_zone) AS other_day
  FROM st_raw_v2.raw_jobs
  WHERE createdOn >= @created_from OR createdOn IS NULL
  UNION ALL
  SELECT 'appointments', CAST(id AS STRING), jobId, NULL, createdOn, _ingested_at, DATE(start, @time_zone), NULL
  FROM st_raw_v2.raw_appointments
  WHERE createdOn >= @created_from OR createdOn IS NULL
  UNION ALL
  SELECT 'estimates', CAST(id AS STRING), jobId, NULL, createdOn, _ingested_at, DATE(soldOn, @time_zone), DATE(createdOn, @time_zone)
  FROM st_raw_v2.raw_estimates
  WHERE createdOn >= @created_from OR createdOn IS NULL
  UNION ALL
  SELECT 'invoices', CAST(id AS STRING), jobId, id, createdOn, _ingested_at, invoiceDate, DATE(createdOn, @time_zone)
  FROM st_raw_v2.raw_invoices
  WHERE createdOn >= @created_from OR createdOn IS NULL
  UNION ALL
  SELECT 'payments', CAST(id AS STRING), NULL, NULL, createdOn, _ingested_at, date, DATE(createdOn, @time_zone)
  FROM payments
  WHERE unappliedAmount != 0
  UNION ALL
  SELECT 'payments', CAST(id AS STRING), NULL, invoice_id, createdOn, _ingested_at, LEAST(date, DATE(createdOn, @time_zone)), applied_date
  FROM applications
  UNION ALL
  SELECT 'payroll', _key, jobId, NULL, createdOn, _ingested_at, NULL, NULL
  FROM st_raw_v2.raw_payroll
  WHERE (createdOn >= @created_from OR createdOn IS NULL) AND jobId IS NOT NULL
  UNION ALL
  SELECT 'purchase_orders', CAST(id AS STRING), jobId, NULL, createdOn, _ingested_at, NULL, NULL
  FROM st_raw_v2.raw_purchase_orders
  WHERE (createdOn >= @created_from OR createdOn IS NULL) AND jobId IS NOT NULL
  UNION ALL
  SELECT 'returns', CAST(id AS STRING), jobId, NULL, createdOn, _ingested_at, NULL, NULL
  FROM st_raw_v2.raw_returns
  WHERE (createdOn >= @created_from OR createdOn IS NULL) AND jobId IS NOT NULL
  UNION ALL
  SELECT 'vendor_bills', CAST(id AS STRING), jobId, NULL, createdOn, _ingested_at, NULL, NULL
  FROM st_raw_v2.raw_vendor_bills
  WHERE (createdOn >= @created_from OR createdOn IS NULL) AND jobId IS NOT NULL
  UNION ALL
  SELECT 'credit_memos', CAST(id AS STRING), NULL, NULL, createdOn, _ingested_at, date, DATE(createdOn, @time_zone)
  FROM memos
  WHERE balance != 0
  UNION ALL
  SELECT
    'credit_memos',
    CAST(memos.id AS STRING),
    NULL,
    SAFE_CAST(JSON_VALUE(application, '$.appliedTo') AS INT64),
    memos.createdOn,
    memos._ingested_at,
    memos.date,
    IF(
      SUBSTR(JSON_VALUE(application, '$.appliedOn'), 1, 4) BETWEEN '1990' AND '2100',
      SAFE_CAST(SUBSTR(JSON_VALUE(application, '$.appliedOn'), 1, 10) AS DATE),
      NULL
    )
  FROM memos
  CROSS JOIN UNNEST(JSON_QUERY_ARRAY(memos.appliedTo)) AS application
),

invoices AS (
  SELECT id, jobId FROM st_raw_v2.raw_invoices WHERE jobId IS NOT NULL
),

final AS (
  SELECT
    days.entity,
    days.record_key,
    COALESCE(days.job_id, invoices.jobId) AS job_id,
    days.invoice_id,
    days.created_on,
    days.version,
    LEAST(COALESCE(days.one_day, days.other_day), COALESCE(days.other_day, days.one_day)) AS first_day
  FROM days
  LEFT JOIN invoices ON days.invoice_id = invoices.id
)

SELECT * FROM final
