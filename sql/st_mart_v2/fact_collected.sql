-- Grain: one row per application of a payment to an invoice, and one for what a payment leaves unapplied.
-- Source: dim_payment_applications, raw_payments, dim_invoices. ServiceTitan's report: Collections.
-- Purpose: $ Collected = SUM(amount) by event_date, the payment's calendar date. Production units: an application counts
-- for the unit of its invoice, but for the payment's own unit where that invoice is inactive or unknown, as does what is
-- unapplied. Refunds are negative.
-- Partition: DATE_TRUNC(event_date, MONTH)
-- Cluster: business_unit, job_id
-- Replaces: event_date >= @changed_from AND root_created >= @created_from
WITH applications AS (
  SELECT * FROM st_ref_v2.dim_payment_applications WHERE root_created >= @created_from
),

payments AS (
  SELECT * FROM st_raw_v2.raw_payments WHERE (createdOn >= @created_from OR createdOn IS NULL) AND COALESCE(active, TRUE)
),

invoices AS (
  SELECT * FROM st_ref_v2.dim_invoices WHERE root_created >= @created_from
),

units AS (
  SELECT * FROM st_ref_v2.dim_business_units
),

amounts AS (
  SELECT payment_id, application_id, invoice_id, customer_id, business_unit_id, amount, paid_date, root_created
  FROM applications
  UNION ALL
  SELECT
    id AS payment_id,
    NULL AS application_id,
    NULL AS invoice_id,
    customerId AS customer_id,
    businessUnitId AS business_unit_id,
    unappliedAmount AS amount,
    date AS paid_date,
    COALESCE(createdOn, TIMESTAMP '9999-12-31 00:00:00+00') AS root_created
  FROM payments
  WHERE unappliedAmount != 0
),

final AS (
  SELECT
    amounts.paid_date AS event_date,
    units.business_unit,
    units.unit_name,
    units.region,
    units.segment,
    amounts.customer_id,
    amounts.payment_id,
    amounts.application_id,
    amounts.invoice_id,
    invoices.invoice_number,
    invoices.job_id,
    invoices.job_number,
    amounts.amount,
    amounts.root_created
  FROM amounts
  LEFT JOIN invoices ON amounts.invoice_id = invoices.invoice_id
  INNER JOIN units
    ON IF(invoices.invoice_id IS NULL, amounts.business_unit_id, invoices.business_unit_id) = units.business_unit_id
  WHERE
    units.division = 'Production'
    AND amounts.paid_date IS NOT NULL
)

SELECT * FROM final WHERE event_date >= @changed_from
