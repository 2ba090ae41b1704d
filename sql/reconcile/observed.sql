-- Grain: one row per observed number of @numbers, a JSON list of {id, kpi, unit, first_day, last_day}: id, value.
-- Source: the fact tables. A KPI of any days is computed from their rows: distinct counts and ratios do not add up.
-- Purpose: what our facts give for a number that somebody read off ServiceTitan. NULL is a ratio without a denominator.
WITH texts AS (
  SELECT number_text
  FROM UNNEST(JSON_QUERY_ARRAY(@numbers)) AS number_text
),

numbers AS (
  SELECT
    JSON_VALUE(number_text, '$.id') AS id,
    JSON_VALUE(number_text, '$.kpi') AS kpi,
    JSON_VALUE(number_text, '$.unit') AS business_unit,
    CAST(JSON_VALUE(number_text, '$.first_day') AS DATE) AS first_day,
    CAST(JSON_VALUE(number_text, '$.last_day') AS DATE) AS last_day
  FROM texts
),

leads AS (
  SELECT numbers.id, CAST(COUNT(DISTINCT facts.customer_id) AS NUMERIC) AS value
  FROM numbers
  LEFT JOIN st_mart_v2.fact_leads AS facts
    ON
      numbers.business_unit = facts.business_unit
      AND facts.event_date BETWEEN numbers.first_day AND numbers.last_day
  WHERE numbers.kpi = 'leads'
  GROUP BY numbers.id
),

estimates AS (
  SELECT numbers.id, CAST(COUNT(facts.job_id) AS NUMERIC) AS value
  FROM numbers
  LEFT JOIN st_mart_v2.fact_estimates AS facts
    ON
      numbers.business_unit = facts.business_unit
      AND facts.event_date BETWEEN numbers.first_day AND numbers.last_day
  WHERE numbers.kpi = 'estimates'
  GROUP BY numbers.id
),

estimates_scheduled AS (
  SELECT numbers.id, CAST(COUNT(DISTINCT facts.job_id) AS NUMERIC) AS value
  FROM numbers
  LEFT JOIN st_mart_v2.fact_estimates_scheduled AS facts
    ON
      numbers.business_unit = facts.business_unit
      AND facts.event_date BETWEEN numbers.first_day AND numbers.last_day
  WHERE numbers.kpi = 'estimates_scheduled'
  GROUP BY numbers.id
),

opportunities AS (
  SELECT
    numbers.id,
    CAST(SAFE_DIVIDE(CAST(COUNTIF(facts.is_closed) AS NUMERIC), COUNT(facts.job_id)) AS NUMERIC) AS value
  FROM numbers
  LEFT JOIN st_mart_v2.fact_opportunities AS facts
    ON
      numbers.business_unit = facts.business_unit
      AND facts.event_date BETWEEN numbers.first_day AND numbers.last_day
  WHERE numbers.kpi = 'success_rate'
  GROUP BY numbers.id
),

booked AS (
  SELECT numbers.id, COALESCE(SUM(facts.amount), 0) AS value
  FROM numbers
  LEFT JOIN st_mart_v2.fact_booked AS facts
    ON
      numbers.business_unit = facts.business_unit
      AND facts.event_date BETWEEN numbers.first_day AND numbers.last_day
  WHERE numbers.kpi = 'total_booked'
  GROUP BY numbers.id
),

production AS (
  SELECT
    numbers.id,
    numbers.kpi,
    COALESCE(SUM(facts.produced), 0) AS produced,
    COALESCE(SUM(facts.labor), 0) AS labor,
    COALESCE(SUM(IF(facts.is_warranty, facts.full_cost, 0)), 0) AS warranty_cost
  FROM numbers
  LEFT JOIN st_mart_v2.fact_production AS facts
    ON
      numbers.business_unit = facts.business_unit
      AND facts.event_date BETWEEN numbers.first_day AND numbers.last_day
  WHERE numbers.kpi IN ('dollars_produced', 'gpm', 'warranty_rate')
  GROUP BY numbers.id, numbers.kpi
),

-- Jobs known on the last day that start from the Monday of its week up to a year after it.
bookings AS (
  SELECT numbers.id, COALESCE(SUM(facts.produced), 0) AS value
  FROM numbers
  LEFT JOIN st_mart_v2.fact_production AS facts
    ON
      numbers.business_unit = facts.business_unit
      AND facts.event_date >= CAST(DATE_TRUNC(numbers.last_day, WEEK(MONDAY)) AS DATE)
      AND facts.event_date <= DATE_ADD(numbers.last_day, INTERVAL 1 YEAR)
      AND facts.job_created_date <= numbers.last_day
      AND COALESCE(facts.job_status, '') != 'Canceled'
  WHERE numbers.kpi = 'future_bookings'
  GROUP BY numbers.id
),

collected AS (
  SELECT numbers.id, COALESCE(SUM(facts.amount), 0) AS value
  FROM numbers
  LEFT JOIN st_mart_v2.fact_collected AS facts
    ON
      numbers.business_unit = facts.business_unit
      AND facts.event_date BETWEEN numbers.first_day AND numbers.last_day
  WHERE numbers.kpi = 'dollars_collected'
  GROUP BY numbers.id
),

-- What each location owes at the end of the last day; less than $10 is left out.
balances AS (
  SELECT numbers.id, facts.location_id, COALESCE(SUM(facts.amount), 0) AS balance
  FROM numbers
  LEFT JOIN st_mart_v2.fact_receivables AS facts
    ON
      numbers.business_unit = facts.business_unit
      AND facts.event_date <= numbers.last_day
  WHERE numbers.kpi = 'outstanding_ar'
  GROUP BY numbers.id, facts.location_id
),

final AS (
  SELECT id, value FROM leads
  UNION ALL
  SELECT id, value FROM estimates
  UNION ALL
  SELECT id, value FROM estimates_scheduled
  UNION ALL
  SELECT id, value FROM opportunities
  UNION ALL
  SELECT id, value FROM booked
  UNION ALL
  SELECT
    id,
    CAST(
      CASE kpi
        WHEN 'dollars_produced' THEN produced
        WHEN 'gpm' THEN SAFE_DIVIDE(produced - labor, produced)
        ELSE SAFE_DIVIDE(warranty_cost, produced)
      END AS NUMERIC
    ) AS value
  FROM production
  UNION ALL
  SELECT id, value FROM bookings
  UNION ALL
  SELECT id, value FROM collected
  UNION ALL
  SELECT id, SUM(IF(balance < 10, 0, balance)) AS value
  FROM balances
  GROUP BY id
)

SELECT * FROM final
