-- Grain: one row per invoice that is owed on @as_of, for the units of st_stage_v2.reconcile_units.
-- Purpose: our side of a comparison with ServiceTitan's AR Report: locations that owe less than $10 are left out.
WITH movements AS (
  SELECT *
  FROM st_mart_v2.fact_receivables
  WHERE
    event_date <= @as_of
    AND business_unit IN (SELECT business_unit FROM st_stage_v2.reconcile_units)
),

locations AS (
  SELECT business_unit, COALESCE(location_id, -1) AS location
  FROM movements
  GROUP BY business_unit, location
  HAVING SUM(amount) >= 10
)

SELECT
  COALESCE(movements.invoice_number, CAST(movements.invoice_id AS STRING)) AS key,
  MIN(movements.customer_id) AS customer_id,
  SUM(movements.amount) AS balance
FROM movements
INNER JOIN locations
  ON movements.business_unit = locations.business_unit AND COALESCE(movements.location_id, -1) = locations.location
GROUP BY key
HAVING SUM(movements.amount) != 0
