-- Grain: one row per job of fact_estimates_scheduled in the window and the units of st_stage_v2.reconcile_units.
-- Purpose: our side of a comparison with a list of the dispatch board's estimate jobs.
SELECT job_number AS key, MIN(customer_id) AS customer_id, CAST(1 AS NUMERIC) AS jobs
FROM st_mart_v2.fact_estimates_scheduled
WHERE
  event_date BETWEEN @first_day AND @last_day
  AND business_unit IN (SELECT business_unit FROM st_stage_v2.reconcile_units)
GROUP BY key
