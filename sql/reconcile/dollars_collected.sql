-- Grain: one row per payment and invoice of fact_collected in the window and the units of st_stage_v2.reconcile_units.
-- Purpose: our side of a comparison with ServiceTitan's report Collections. An invoice's number is what the payment says
-- of it, because the report names inactive and unknown invoices too; what is unapplied has none.
WITH collected AS (
  SELECT *
  FROM st_mart_v2.fact_collected
  WHERE
    event_date BETWEEN @first_day AND @last_day
    AND business_unit IN (SELECT business_unit FROM st_stage_v2.reconcile_units)
),

applications AS (
  SELECT
    payments.id AS payment_id,
    SAFE_CAST(JSON_VALUE(application, '$.appliedId') AS INT64) AS application_id,
    JSON_VALUE(application, '$.appliedToReferenceNumber') AS invoice_number
  FROM st_raw_v2.raw_payments AS payments
  CROSS JOIN UNNEST(JSON_QUERY_ARRAY(payments.appliedTo)) AS application
  WHERE payments.id IN (SELECT payment_id FROM collected)
)

SELECT
  CONCAT(CAST(collected.payment_id AS STRING), ' to ', COALESCE(applications.invoice_number, '')) AS key,
  MIN(collected.customer_id) AS customer_id,
  SUM(collected.amount) AS amount
FROM collected
LEFT JOIN applications
  ON collected.payment_id = applications.payment_id AND collected.application_id = applications.application_id
GROUP BY key
