-- Grain: one row per payment and invoice of fact_collected in the window and the units of st_stage_v2.reconcile_units.
-- Purpose: our side of a comparison with ServiceTitan's report Collections. What is unapplied has no invoice number.
SELECT
  CONCAT(CAST(payment_id AS STRING), ' to ', COALESCE(invoice_number, '')) AS key,
  MIN(customer_id) AS customer_id,
  SUM(amount) AS amount
FROM st_mart_v2.fact_collected
WHERE
  event_date BETWEEN @first_day AND @last_day
  AND business_unit IN (SELECT business_unit FROM st_stage_v2.reconcile_units)
GROUP BY key
