-- Grain: one row per full week from first_day on and scope: each rolled-up unit, and the whole company.
-- Source: kpi_weekly_by_bu.
-- Purpose: the eleven KPIs that a week is compared by with the weeks before. The company's ratios are ratios of sums.
WITH weeks AS (
  SELECT *
  FROM st_mart_v2.kpi_weekly_by_bu
  WHERE week_start >= @first_day AND DATE_ADD(week_start, INTERVAL 6 DAY) <= @as_of
),

scopes AS (
  SELECT business_unit AS scope, * FROM weeks
  UNION ALL
  SELECT 'The company' AS scope, * FROM weeks
),

final AS (
  SELECT
    scope,
    week_start,
    SUM(leads) AS leads,
    SUM(estimates_scheduled) AS estimates_scheduled,
    SUM(estimates) AS estimates,
    SAFE_DIVIDE(SUM(closed), SUM(opportunities)) AS success_rate,
    SUM(total_booked) AS total_booked,
    SUM(dollars_produced) AS dollars_produced,
    SAFE_DIVIDE(SUM(dollars_produced) - SUM(labor_cost), SUM(dollars_produced)) AS gpm,
    SAFE_DIVIDE(SUM(warranty_cost), SUM(dollars_produced)) AS warranty_rate,
    SUM(future_bookings) AS future_bookings,
    SUM(dollars_collected) AS dollars_collected,
    SUM(outstanding_ar) AS outstanding_ar
  FROM scopes
  GROUP BY scope, week_start
)

SELECT * FROM final
