-- Grain: one row per job of fact_opportunities in the window and the units of st_stage_v2.reconcile_units.
-- Purpose: our side of a comparison with the jobs behind Close Rate of ServiceTitan's Daily WBR.
SELECT
  job_number AS key,
  customer_id,
  CAST(1 AS NUMERIC) AS opportunities,
  CAST(IF(is_closed, 1, 0) AS NUMERIC) AS closed
FROM st_mart_v2.fact_opportunities
WHERE
  event_date BETWEEN @first_day AND @last_day
  AND business_unit IN (SELECT business_unit FROM st_stage_v2.reconcile_units)
