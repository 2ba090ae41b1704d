-- Grain: one row per job of fact_production that is ahead, for the units of st_stage_v2.reconcile_units.
-- Purpose: our side of a comparison with ServiceTitan's report FOREMAN Job Cost over the year to come: jobs that are not
-- Canceled, start in the window and were created by @as_of.
SELECT job_number AS key, customer_id, produced
FROM st_mart_v2.fact_production
WHERE
  event_date BETWEEN @first_day AND @last_day
  AND COALESCE(job_status, '') != 'Canceled'
  AND job_created_date <= @as_of
  AND business_unit IN (SELECT business_unit FROM st_stage_v2.reconcile_units)
