-- Grain: one row per day and rolled-up business unit, from the first Monday to as_of, also where nothing happened.
-- Source: the fact tables; dim_business_units for the units.
-- Purpose: the eleven KPIs of a day. Counts and money are zero where nothing happened; a ratio is NULL where its
-- denominator is zero. Ratios are NUMERIC fractions of nine decimals. leads and estimates_scheduled are distinct counts
-- and must not be summed; outstanding_ar and future_bookings are as of the end of the day.
-- Partition: DATE_TRUNC(event_date, MONTH)
-- Cluster: business_unit
-- Replaces: event_date >= @changed_from
-- Unbounded: A/R carries every movement forward; four narrow columns of fact_receivables are read.
WITH units AS (
  SELECT business_unit, MIN(region) AS region, MIN(division) AS division
  FROM st_ref_v2.dim_business_units
  GROUP BY business_unit
),

calendar AS (
  SELECT event_date, units.business_unit, units.region, units.division
  FROM units
  CROSS JOIN UNNEST(GENERATE_DATE_ARRAY(GREATEST(@first_day, @changed_from), @as_of)) AS event_date
),

leads AS (
  SELECT event_date, business_unit, COUNT(DISTINCT customer_id) AS leads
  FROM st_mart_v2.fact_leads
  WHERE event_date >= @changed_from
  GROUP BY event_date, business_unit
),

estimates AS (
  SELECT event_date, business_unit, COUNT(*) AS estimates
  FROM st_mart_v2.fact_estimates
  WHERE event_date >= @changed_from
  GROUP BY event_date, business_unit
),

opportunities AS (
  SELECT event_date, business_unit, COUNT(*) AS opportunities, COUNTIF(is_closed) AS closed
  FROM st_mart_v2.fact_opportunities
  WHERE event_date >= @changed_from
  GROUP BY event_date, business_unit
),

booked AS (
  SELECT event_date, business_unit, SUM(amount) AS total_booked
  FROM st_mart_v2.fact_booked
  WHERE event_date >= @changed_from
  GROUP BY event_date, business_unit
),

production AS (
  SELECT
    event_date,
    business_unit,
    SUM(produced) AS dollars_produced,
    SUM(labor) AS labor_cost,
    SUM(full_cost) AS full_cost,
    SUM(IF(is_warranty, full_cost, 0)) AS warranty_cost
  FROM st_mart_v2.fact_production
  WHERE event_date >= @changed_from
  GROUP BY event_date, business_unit
),

collected AS (
  SELECT event_date, business_unit, SUM(amount) AS dollars_collected
  FROM st_mart_v2.fact_collected
  WHERE event_date >= @changed_from
  GROUP BY event_date, business_unit
),

estimates_scheduled AS (
  SELECT event_date, business_unit, COUNT(DISTINCT job_id) AS estimates_scheduled
  FROM st_mart_v2.fact_estimates_scheduled
  WHERE event_date >= @changed_from
  GROUP BY event_date, business_unit
),

-- Future Bookings: a job is ahead from first_ahead to the Sunday of the week of its start. It comes in on the first of
-- these days and leaves after the last, so that a running sum needs each job twice instead of once for every day. The
-- first computed day is a Monday: what started before it is ahead no more.
bookings AS (
  SELECT
    business_unit,
    job_created_date,
    produced,
    event_date AS start_date,
    DATE_SUB(event_date, INTERVAL 1 YEAR) AS year_before,
    DATE_ADD(CAST(DATE_TRUNC(event_date, WEEK(MONDAY)) AS DATE), INTERVAL 7 DAY) AS next_monday
  FROM st_mart_v2.fact_production
  WHERE event_date >= @changed_from AND COALESCE(job_status, '') != 'Canceled' AND produced != 0
),

ahead AS (
  SELECT
    business_unit,
    produced,
    next_monday,
    GREATEST(
      @first_day,
      @changed_from,
      job_created_date,
      -- A year before 29 February is the 28th, but a year after that day ends before the 29th.
      IF(DATE_ADD(year_before, INTERVAL 1 YEAR) < start_date, DATE_ADD(year_before, INTERVAL 1 DAY), year_before)
    ) AS first_ahead
  FROM bookings
),

booking_changes AS (
  SELECT first_ahead AS event_date, business_unit, produced AS amount FROM ahead WHERE first_ahead < next_monday
  UNION ALL
  SELECT next_monday AS event_date, business_unit, -produced AS amount FROM ahead WHERE first_ahead < next_monday
),

future AS (
  SELECT event_date, business_unit, SUM(amount) AS change
  FROM booking_changes
  GROUP BY event_date, business_unit
),

-- Outstanding A/R: the balance of a location after each day on which it moves, cut below $10, and what each such day
-- changes in the unit's sum. What moved before the calendar begins is its opening balance.
movements AS (
  SELECT
    GREATEST(event_date, @first_day, @changed_from) AS event_date,
    business_unit,
    location_id,
    SUM(amount) AS amount
  FROM st_mart_v2.fact_receivables
  GROUP BY 1, 2, 3
),

balances AS (
  SELECT
    event_date,
    business_unit,
    location_id,
    SUM(amount) OVER (PARTITION BY business_unit, location_id ORDER BY event_date) AS balance
  FROM movements
),

balance_changes AS (
  SELECT
    event_date,
    business_unit,
    IF(balance < 10, 0, balance) - COALESCE(
      LAG(IF(balance < 10, 0, balance)) OVER (PARTITION BY business_unit, location_id ORDER BY event_date), 0
    ) AS amount
  FROM balances
),

receivables AS (
  SELECT event_date, business_unit, SUM(amount) AS change
  FROM balance_changes
  GROUP BY event_date, business_unit
),

final AS (
  SELECT
    calendar.event_date,
    calendar.business_unit,
    calendar.region,
    calendar.division,
    COALESCE(leads.leads, 0) AS leads,
    COALESCE(estimates.estimates, 0) AS estimates,
    COALESCE(opportunities.opportunities, 0) AS opportunities,
    COALESCE(opportunities.closed, 0) AS closed,
    CAST(SAFE_DIVIDE(opportunities.closed, opportunities.opportunities) AS NUMERIC) AS success_rate,
    COALESCE(booked.total_booked, 0) AS total_booked,
    COALESCE(production.dollars_produced, 0) AS dollars_produced,
    COALESCE(production.labor_cost, 0) AS labor_cost,
    COALESCE(production.full_cost, 0) AS full_cost,
    COALESCE(production.warranty_cost, 0) AS warranty_cost,
    CAST(
      SAFE_DIVIDE(production.dollars_produced - production.labor_cost, production.dollars_produced) AS NUMERIC
    ) AS gpm,
    CAST(
      SAFE_DIVIDE(production.dollars_produced - production.full_cost, production.dollars_produced) AS NUMERIC
    ) AS gpm_full,
    CAST(SAFE_DIVIDE(production.warranty_cost, production.dollars_produced) AS NUMERIC) AS warranty_rate,
    SUM(COALESCE(future.change, 0)) OVER to_date AS future_bookings,
    COALESCE(collected.dollars_collected, 0) AS dollars_collected,
    SUM(COALESCE(receivables.change, 0)) OVER to_date AS outstanding_ar,
    COALESCE(estimates_scheduled.estimates_scheduled, 0) AS estimates_scheduled
  FROM calendar
  LEFT JOIN leads USING (event_date, business_unit)
  LEFT JOIN estimates USING (event_date, business_unit)
  LEFT JOIN opportunities USING (event_date, business_unit)
  LEFT JOIN booked USING (event_date, business_unit)
  LEFT JOIN production USING (event_date, business_unit)
  LEFT JOIN future USING (event_date, business_unit)
  LEFT JOIN collected USING (event_date, business_unit)
  LEFT JOIN receivables USING (event_date, business_unit)
  LEFT JOIN estimates_scheduled USING (event_date, business_unit)
  WINDOW to_date AS (PARTITION BY calendar.business_unit ORDER BY calendar.event_date)
)

SELECT * FROM final
