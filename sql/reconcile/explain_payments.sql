-- Grain: one row per key of st_stage_v2.reconcile_keys that names a payment, active or not, and what it was applied to:
-- `1234 to 5678` (payment id, invoice number), `1234 to ` for what is unapplied.
-- Source: raw_payments, raw_invoices, dim_jobs, dim_business_units, bounded by the keys.
-- Purpose: what $ Collected asks of a payment, each predicate on its own, with every date that it has.
WITH keys AS (
  SELECT
    key,
    SAFE_CAST(REGEXP_EXTRACT(key, r'^([0-9]+) to ') AS INT64) AS payment_id,
    REGEXP_EXTRACT(key, r'^[0-9]+ to (.+)$') AS invoice_number
  FROM st_stage_v2.reconcile_keys
),

applications AS (
  SELECT DISTINCT
    payments.id AS payment_id,
    JSON_VALUE(application, '$.appliedToReferenceNumber') AS invoice_number
  FROM st_raw_v2.raw_payments AS payments
  CROSS JOIN UNNEST(JSON_QUERY_ARRAY(payments.appliedTo)) AS application
  WHERE payments.id IN (SELECT payment_id FROM keys)
),

invoices AS (
  SELECT
    raw.referenceNumber AS invoice_number,
    raw.id AS invoice_id,
    raw.adjustmentToId IS NOT NULL AS is_adjustment,
    COALESCE(raw.active, TRUE) AS is_active,
    IF(jobs.job_id IS NULL, raw.businessUnitId, jobs.business_unit_id) AS business_unit_id,
    raw.invoiceDate AS invoiced_date,
    jobs.job_type_name,
    jobs.job_status,
    jobs.start_date
  FROM st_raw_v2.raw_invoices AS raw
  LEFT JOIN st_ref_v2.dim_jobs AS jobs ON raw.jobId = jobs.job_id
  WHERE raw.referenceNumber IN (SELECT invoice_number FROM keys)
  QUALIFY ROW_NUMBER() OVER (PARTITION BY raw.referenceNumber ORDER BY IF(raw.active, 0, 1), raw.id) = 1
),

payments AS (
  SELECT
    keys.key,
    keys.invoice_number,
    raw.id AS payment_id,
    raw.customerId AS customer_id,
    COALESCE(raw.active, TRUE) AS is_active,
    raw.type AS payment_type,
    raw.date AS paid_date,
    raw.createdOn AS created_on,
    raw.modifiedOn AS modified_on,
    invoices.is_adjustment,
    invoices.job_type_name,
    invoices.job_status,
    invoices.invoiced_date,
    invoices.start_date,
    IF(COALESCE(invoices.is_active, FALSE), invoices.business_unit_id, raw.businessUnitId) AS business_unit_id,
    IF(
      keys.invoice_number IS NULL, COALESCE(raw.unappliedAmount, 0) != 0, applications.payment_id IS NOT NULL
    ) AS has_amount
  FROM keys
  INNER JOIN st_raw_v2.raw_payments AS raw ON keys.payment_id = raw.id
  LEFT JOIN invoices ON keys.invoice_number = invoices.invoice_number
  LEFT JOIN applications
    ON keys.payment_id = applications.payment_id AND keys.invoice_number = applications.invoice_number
),

final AS (
  SELECT
    payments.key,
    -- what it is
    payments.payment_id AS record_id,
    payments.customer_id,
    customers.customer_name,
    customers.root_customer_id,
    units.unit_name,
    units.segment,
    payments.job_type_name,
    payments.job_status,
    payments.modified_on,
    -- predicates; one that rests on another holds where the other does not
    payments.is_active,
    payments.has_amount,
    COALESCE(units.division = @division, FALSE) AS in_division,
    COALESCE(units.division != @division, TRUE)
    OR COALESCE(units.business_unit IN (SELECT business_unit FROM st_stage_v2.reconcile_units), FALSE) AS in_unit,
    -- traits
    payments.invoice_number IS NOT NULL AS is_applied,
    COALESCE(payments.is_adjustment, FALSE) AS is_adjustment,
    -- dates
    payments.paid_date,
    DATE(payments.created_on, @time_zone) AS created_date,
    DATE(payments.created_on) AS created_utc,
    payments.invoiced_date,
    payments.start_date
  FROM payments
  LEFT JOIN st_ref_v2.dim_business_units AS units ON payments.business_unit_id = units.business_unit_id
  LEFT JOIN st_ref_v2.dim_customers AS customers ON payments.customer_id = customers.customer_id
)

SELECT * FROM final
