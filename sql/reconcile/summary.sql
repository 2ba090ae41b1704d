-- Grain: one row per ServiceTitan unit that did something in the window, of the units of st_stage_v2.reconcile_units.
-- Purpose: our side of a comparison with ServiceTitan's Daily WBR, a report that has totals by unit and no rows.
WITH units AS (
  SELECT unit_name
  FROM st_ref_v2.dim_business_units
  WHERE business_unit IN (SELECT business_unit FROM st_stage_v2.reconcile_units)
),

estimates AS (
  SELECT unit_name, CAST(COUNT(*) AS NUMERIC) AS jobs
  FROM st_mart_v2.fact_estimates
  WHERE event_date BETWEEN @first_day AND @last_day
  GROUP BY unit_name
),

opportunities AS (
  SELECT
    unit_name,
    CAST(COUNT(*) AS NUMERIC) AS opportunities,
    CAST(COUNTIF(is_closed) AS NUMERIC) AS closed
  FROM st_mart_v2.fact_opportunities
  WHERE event_date BETWEEN @first_day AND @last_day
  GROUP BY unit_name
),

booked AS (
  SELECT unit_name, SUM(amount) AS amount
  FROM st_mart_v2.fact_booked
  WHERE event_date BETWEEN @first_day AND @last_day
  GROUP BY unit_name
)

SELECT
  units.unit_name AS key,
  CAST(NULL AS INT64) AS customer_id,
  COALESCE(estimates.jobs, 0) AS jobs,
  COALESCE(opportunities.opportunities, 0) AS opportunities,
  COALESCE(opportunities.closed, 0) AS closed,
  COALESCE(booked.amount, 0) AS amount
FROM units
LEFT JOIN estimates ON units.unit_name = estimates.unit_name
LEFT JOIN opportunities ON units.unit_name = opportunities.unit_name
LEFT JOIN booked ON units.unit_name = booked.unit_name
WHERE
  estimates.unit_name IS NOT NULL
  OR opportunities.unit_name IS NOT NULL
  OR booked.unit_name IS NOT NULL
