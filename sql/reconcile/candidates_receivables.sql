-- Grain: one row per movement of an invoice: what was invoiced, and what each payment applied to it.
-- Source: raw_invoices, raw_payments, dim_jobs, dim_business_units; inactive invoices are not left out yet.
-- Purpose: what Outstanding A/R could have summed; see candidates_jobs.sql. An invoice moves on its date (or the day it
-- was entered), an application on its own day (by the tenant's clock or UTC) or on the payment's.
WITH invoices AS (
  SELECT
    invoices.id AS invoice_id,
    invoices.customerId AS customer_id,
    invoices.locationId AS location_id,
    COALESCE(invoices.active, TRUE) AS own_is_active,
    invoices.invoiceDate AS invoice_date,
    DATE(invoices.createdOn, @time_zone) AS created_date,
    COALESCE(invoices.total, 0) AS total,
    COALESCE(invoices.subTotal, 0) AS subtotal,
    job_units.business_unit AS job_business_unit,
    job_units.unit_name AS job_unit_name,
    own_units.business_unit AS own_business_unit,
    own_units.unit_name AS own_unit_name,
    job_units.segment
  FROM st_raw_v2.raw_invoices AS invoices
  LEFT JOIN st_ref_v2.dim_jobs AS jobs ON invoices.jobId = jobs.job_id
  LEFT JOIN st_ref_v2.dim_business_units AS own_units ON invoices.businessUnitId = own_units.business_unit_id
  LEFT JOIN st_ref_v2.dim_business_units AS job_units
    ON IF(jobs.job_id IS NULL, invoices.businessUnitId, jobs.business_unit_id) = job_units.business_unit_id
),

applications AS (
  SELECT
    SAFE_CAST(JSON_VALUE(application, '$.appliedTo') AS INT64) AS invoice_id,
    COALESCE(SAFE_CAST(REPLACE(JSON_VALUE(application, '$.appliedAmount'), ',', '') AS NUMERIC), 0) AS amount,
    SAFE_CAST(
      REGEXP_REPLACE(JSON_VALUE(application, '$.appliedOn'), r'(\.[0-9]{6})[0-9]+', r'\1') AS TIMESTAMP
    ) AS applied_on,
    payments.date AS paid_date,
    COALESCE(payments.active, TRUE) AS payment_is_active
  FROM st_raw_v2.raw_payments AS payments
  CROSS JOIN UNNEST(JSON_QUERY_ARRAY(payments.appliedTo)) AS application
),

final AS (
  SELECT
    'invoiced' AS entity,
    invoices.*,
    TRUE AS payment_is_active,
    total AS amount,
    subtotal AS amount_before_tax,
    invoice_date AS moved_date,
    invoice_date AS moved_date_utc,
    created_date AS entered_date,
    invoice_date AS paid_date
  FROM invoices
  UNION ALL
  SELECT
    'applied' AS entity,
    invoices.*,
    applications.payment_is_active,
    -applications.amount AS amount,
    -applications.amount AS amount_before_tax,
    DATE(applications.applied_on, @time_zone) AS moved_date,
    DATE(applications.applied_on) AS moved_date_utc,
    DATE(applications.applied_on, @time_zone) AS entered_date,
    applications.paid_date
  FROM applications
  INNER JOIN invoices ON applications.invoice_id = invoices.invoice_id
)

SELECT * FROM final
