-- Grain: one row per job of fact_leads in the window and the units of st_stage_v2.reconcile_units.
-- Purpose: our side of a comparison with ServiceTitan's report Leads.
SELECT job_number AS key, customer_id
FROM st_mart_v2.fact_leads
WHERE
  event_date BETWEEN @first_day AND @last_day
  AND business_unit IN (SELECT business_unit FROM st_stage_v2.reconcile_units)
