-- Grain: one row per job of fact_production in the window and the units of st_stage_v2.reconcile_units.
-- Purpose: our side of a comparison of warranty cost with ServiceTitan's report FOREMAN Job Cost.
SELECT
  job_number AS key,
  customer_id,
  produced,
  IF(is_warranty, full_cost, 0) AS warranty_cost
FROM st_mart_v2.fact_production
WHERE
  event_date BETWEEN @first_day AND @last_day
  AND business_unit IN (SELECT business_unit FROM st_stage_v2.reconcile_units)
