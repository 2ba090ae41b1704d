-- Kind: view
-- Grain: one row per week, Monday to Sunday, and region; units that are not in sql/business_units.csv are "Unmapped".
-- Source: kpi_weekly_by_bu; fact_leads and fact_estimates_scheduled for the distinct counts.
-- Purpose: what the owner's dashboard reads: a region's Sales and Production units on one row. A customer who is a lead
-- of two units of a region is one lead of the region; a ratio is a ratio of the region's sums.
WITH weekly AS (
  SELECT * REPLACE (COALESCE(region, 'Unmapped') AS region)
  FROM st_mart_v2.kpi_weekly_by_bu
),

leads AS (
  SELECT weekly.week_start, weekly.region, COUNT(DISTINCT leads.customer_id) AS leads
  FROM weekly
  INNER JOIN st_mart_v2.fact_leads AS leads
    ON
      CAST(DATE_TRUNC(leads.event_date, WEEK(MONDAY)) AS DATE) = weekly.week_start
      AND leads.business_unit = weekly.business_unit
      AND leads.event_date <= weekly.last_day
  GROUP BY weekly.week_start, weekly.region
),

estimates_scheduled AS (
  SELECT weekly.week_start, weekly.region, COUNT(DISTINCT scheduled.job_id) AS estimates_scheduled
  FROM weekly
  INNER JOIN st_mart_v2.fact_estimates_scheduled AS scheduled
    ON
      CAST(DATE_TRUNC(scheduled.event_date, WEEK(MONDAY)) AS DATE) = weekly.week_start
      AND scheduled.business_unit = weekly.business_unit
      AND scheduled.event_date <= weekly.last_day
  GROUP BY weekly.week_start, weekly.region
),

sums AS (
  SELECT
    week_start,
    last_day,
    region,
    CAST(SUM(estimates) AS INT64) AS estimates,
    CAST(SUM(opportunities) AS INT64) AS opportunities,
    CAST(SUM(closed) AS INT64) AS closed,
    SUM(total_booked) AS total_booked,
    SUM(dollars_produced) AS dollars_produced,
    SUM(labor_cost) AS labor_cost,
    SUM(full_cost) AS full_cost,
    SUM(warranty_cost) AS warranty_cost,
    SUM(future_bookings) AS future_bookings,
    SUM(dollars_collected) AS dollars_collected,
    SUM(outstanding_ar) AS outstanding_ar
  FROM weekly
  GROUP BY week_start, last_day, region
),

final AS (
  SELECT
    sums.week_start,
    sums.last_day,
    sums.region,
    COALESCE(leads.leads, 0) AS leads,
    sums.estimates,
    sums.opportunities,
    sums.closed,
    CAST(SAFE_DIVIDE(sums.closed, sums.opportunities) AS NUMERIC) AS success_rate,
    sums.total_booked,
    sums.dollars_produced,
    sums.labor_cost,
    sums.full_cost,
    sums.warranty_cost,
    CAST(SAFE_DIVIDE(sums.dollars_produced - sums.labor_cost, sums.dollars_produced) AS NUMERIC) AS gpm,
    CAST(SAFE_DIVIDE(sums.dollars_produced - sums.full_cost, sums.dollars_produced) AS NUMERIC) AS gpm_full,
    CAST(SAFE_DIVIDE(sums.warranty_cost, sums.dollars_produced) AS NUMERIC) AS warranty_rate,
    sums.future_bookings,
    sums.dollars_collected,
    sums.outstanding_ar,
    COALESCE(estimates_scheduled.estimates_scheduled, 0) AS estimates_scheduled
  FROM sums
  LEFT JOIN leads
    ON sums.week_start = leads.week_start AND sums.region = leads.region
  LEFT JOIN estimates_scheduled
    ON sums.week_start = estimates_scheduled.week_start AND sums.region = estimates_scheduled.region
)

SELECT * FROM final
