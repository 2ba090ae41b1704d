-- Grain: one row per application of a payment to an invoice, and one for what a payment leaves unapplied.
-- Source: raw_payments with its appliedTo list, raw_invoices, dim_jobs, dim_business_units; nothing is left out yet.
-- Purpose: what $ Collected could have counted; see candidates_jobs.sql. `invoice_…` is the unit of the invoice's job,
-- else of the invoice, else of the payment; `own_…` the payment's.
WITH payments AS (
  SELECT * FROM st_raw_v2.raw_payments
),

units AS (
  SELECT * FROM st_ref_v2.dim_business_units
),

amounts AS (
  SELECT
    'application' AS entity,
    payments.id AS payment_id,
    SAFE_CAST(JSON_VALUE(application, '$.appliedTo') AS INT64) AS invoice_id,
    SAFE_CAST(REPLACE(JSON_VALUE(application, '$.appliedAmount'), ',', '') AS NUMERIC) AS amount,
    SAFE_CAST(
      REGEXP_REPLACE(JSON_VALUE(application, '$.appliedOn'), r'(\.[0-9]{6})[0-9]+', r'\1') AS TIMESTAMP
    ) AS applied_on
  FROM payments
  CROSS JOIN UNNEST(JSON_QUERY_ARRAY(payments.appliedTo)) AS application
  UNION ALL
  SELECT
    'unapplied' AS entity,
    id AS payment_id,
    NULL AS invoice_id,
    unappliedAmount AS amount,
    NULL AS applied_on
  FROM payments
  WHERE unappliedAmount != 0
),

invoices AS (
  SELECT invoices.*, jobs.business_unit_id AS job_business_unit_id, jobs.job_id IS NOT NULL AS has_job
  FROM st_raw_v2.raw_invoices AS invoices
  LEFT JOIN st_ref_v2.dim_jobs AS jobs ON invoices.jobId = jobs.job_id
),

final AS (
  SELECT
    amounts.entity,
    amounts.payment_id,
    amounts.invoice_id,
    payments.customerId AS customer_id,
    payments.type AS payment_type,
    invoice_units.business_unit AS invoice_business_unit,
    invoice_units.unit_name AS invoice_unit_name,
    own_units.business_unit AS own_business_unit,
    own_units.unit_name AS own_unit_name,
    invoice_units.segment,
    COALESCE(payments.active, TRUE) AS own_is_active,
    COALESCE(amounts.amount, 0) AS amount,
    payments.date AS paid_date,
    TIMESTAMP(payments.date) AS paid_on,
    invoices.invoiceDate AS invoice_date,
    payments.createdOn AS own_created_on,
    amounts.applied_on
  FROM amounts
  INNER JOIN payments ON amounts.payment_id = payments.id
  -- An inactive invoice is as if it were not there.
  LEFT JOIN invoices ON amounts.invoice_id = invoices.id AND COALESCE(invoices.active, TRUE)
  LEFT JOIN units AS own_units ON payments.businessUnitId = own_units.business_unit_id
  LEFT JOIN units AS invoice_units
    ON CASE
      WHEN invoices.id IS NULL THEN payments.businessUnitId
      WHEN invoices.has_job THEN invoices.job_business_unit_id
      ELSE invoices.businessUnitId
    END = invoice_units.business_unit_id
)

SELECT * FROM final
