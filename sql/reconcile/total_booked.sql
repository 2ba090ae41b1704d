-- Grain: one row per estimate of fact_booked in the window and the units of st_stage_v2.reconcile_units.
-- Purpose: our side of a comparison with the estimates behind Total Sales of ServiceTitan's Daily WBR.
SELECT CAST(estimate_id AS STRING) AS key, customer_id, amount
FROM st_mart_v2.fact_booked
WHERE
  event_date BETWEEN @first_day AND @last_day
  AND business_unit IN (SELECT business_unit FROM st_stage_v2.reconcile_units)
