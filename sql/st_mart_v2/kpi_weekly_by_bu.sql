-- Grain: one row per week, Monday to Sunday, and rolled-up business unit, also where nothing happened.
-- Source: kpi_daily_by_bu for what adds up over days; fact_leads and fact_estimates_scheduled for the distinct counts.
-- Purpose: the eleven KPIs of a week up to last_day: its Sunday, or as_of in the running week. Leads and estimates
-- scheduled are counted anew from the week's rows; A/R and future bookings are those of the last day; a ratio is a ratio
-- of the week's sums, a NUMERIC fraction of nine decimals, NULL where its denominator is zero.
-- Partition: DATE_TRUNC(week_start, MONTH)
-- Cluster: business_unit
-- Replaces: week_start >= @changed_from
WITH daily AS (
  SELECT *, CAST(DATE_TRUNC(event_date, WEEK(MONDAY)) AS DATE) AS week_start
  FROM st_mart_v2.kpi_daily_by_bu
  WHERE event_date >= @changed_from
),

leads AS (
  SELECT
    CAST(DATE_TRUNC(event_date, WEEK(MONDAY)) AS DATE) AS week_start,
    business_unit,
    COUNT(DISTINCT customer_id) AS leads
  FROM st_mart_v2.fact_leads
  WHERE event_date >= @changed_from AND event_date <= @as_of
  GROUP BY 1, 2
),

estimates_scheduled AS (
  SELECT
    CAST(DATE_TRUNC(event_date, WEEK(MONDAY)) AS DATE) AS week_start,
    business_unit,
    COUNT(DISTINCT job_id) AS estimates_scheduled
  FROM st_mart_v2.fact_estimates_scheduled
  WHERE event_date >= @changed_from AND event_date <= @as_of
  GROUP BY 1, 2
),

sums AS (
  SELECT
    week_start,
    business_unit,
    region,
    division,
    MAX(event_date) AS last_day,
    CAST(SUM(estimates) AS INT64) AS estimates,
    CAST(SUM(opportunities) AS INT64) AS opportunities,
    CAST(SUM(closed) AS INT64) AS closed,
    SUM(total_booked) AS total_booked,
    SUM(dollars_produced) AS dollars_produced,
    SUM(labor_cost) AS labor_cost,
    SUM(full_cost) AS full_cost,
    SUM(warranty_cost) AS warranty_cost,
    SUM(dollars_collected) AS dollars_collected
  FROM daily
  GROUP BY week_start, business_unit, region, division
),

final AS (
  SELECT
    sums.week_start,
    sums.last_day,
    sums.business_unit,
    sums.region,
    sums.division,
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
    last_days.future_bookings,
    sums.dollars_collected,
    last_days.outstanding_ar,
    COALESCE(estimates_scheduled.estimates_scheduled, 0) AS estimates_scheduled
  FROM sums
  INNER JOIN daily AS last_days
    ON sums.last_day = last_days.event_date AND sums.business_unit = last_days.business_unit
  LEFT JOIN leads
    ON sums.week_start = leads.week_start AND sums.business_unit = leads.business_unit
  LEFT JOIN estimates_scheduled
    ON sums.week_start = estimates_scheduled.week_start AND sums.business_unit = estimates_scheduled.business_unit
)

SELECT * FROM final
