-- Grain: one row per application of a payment, active or not, to an invoice, known or not.
-- Source: the appliedTo list of raw_payments; raw_invoices for the job of an invoice.
-- Purpose: which payment paid which invoice, how much and when. paid_date is the payment's calendar date, applied_date
-- the day of the application in the tenant's time zone.
-- Partition: TIMESTAMP_TRUNC(root_created, MONTH)
-- Cluster: invoice_id, payment_id
-- Replaces: root_created >= @created_from
WITH payments AS (
  SELECT *
  FROM st_raw_v2.raw_payments
  WHERE createdOn >= @created_from OR createdOn IS NULL
),

invoices AS (
  -- Grouped: an old row without a key may stand beside the one that the ingest wrote.
  SELECT id, MAX(jobId) AS jobId
  FROM st_raw_v2.raw_invoices
  WHERE createdOn >= @created_from OR createdOn IS NULL
  GROUP BY id
),

roots AS (
  SELECT * FROM st_ref_v2.roots WHERE first_created >= @created_from
),

applications AS (
  SELECT
    payments.id AS payment_id,
    payments.customerId AS customer_id,
    payments.businessUnitId AS business_unit_id,
    COALESCE(payments.active, TRUE) AS payment_is_active,
    payments.type AS payment_type,
    payments.date AS paid_date,
    payments.createdOn AS created_on,
    payments.modifiedOn AS modified_on,
    JSON_VALUE(application, '$.appliedToReferenceNumber') AS invoice_number,
    SAFE_CAST(JSON_VALUE(application, '$.appliedId') AS INT64) AS application_id,
    SAFE_CAST(JSON_VALUE(application, '$.appliedTo') AS INT64) AS invoice_id,
    SAFE_CAST(REPLACE(JSON_VALUE(application, '$.appliedAmount'), ',', '') AS NUMERIC) AS amount,
    -- Before 1990 and after 2100 it is no date. A TIMESTAMP holds six of ServiceTitan's seven fractional digits.
    IF(
      SUBSTR(JSON_VALUE(application, '$.appliedOn'), 1, 4) BETWEEN '1990' AND '2100',
      SAFE_CAST(
        REGEXP_REPLACE(JSON_VALUE(application, '$.appliedOn'), r'(\.[0-9]{6})[0-9]+', r'\1') AS TIMESTAMP
      ),
      NULL
    ) AS applied_on
  FROM payments
  CROSS JOIN UNNEST(JSON_QUERY_ARRAY(payments.appliedTo)) AS application
),

final AS (
  SELECT
    applications.payment_id,
    applications.application_id,
    applications.invoice_id,
    applications.customer_id,
    applications.business_unit_id,
    applications.payment_is_active,
    applications.payment_type,
    applications.invoice_number,
    COALESCE(applications.amount, 0) AS amount,
    applications.paid_date,
    DATE(applications.applied_on, @time_zone) AS applied_date,
    applications.applied_on,
    applications.created_on,
    applications.modified_on,
    roots.first_created AS root_created
  FROM applications
  LEFT JOIN invoices ON applications.invoice_id = invoices.id
  INNER JOIN roots
    ON
      roots.kind = CASE
        WHEN invoices.jobId IS NOT NULL THEN 'jobs'
        WHEN applications.invoice_id IS NOT NULL THEN 'invoices'
        ELSE 'payments'
      END
      AND roots.id = COALESCE(invoices.jobId, applications.invoice_id, applications.payment_id)
)

SELECT * FROM final
