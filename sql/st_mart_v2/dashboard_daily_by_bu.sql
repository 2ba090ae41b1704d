-- Kind: view
-- Grain: one row per day and rolled-up business unit.
-- Source: kpi_daily_by_bu.
-- Purpose: the day under the column names of the older pipeline's daily_kpis; see dashboard_daily. Its close_rate is a
-- percentage like the others, times 100.
SELECT
  event_date,
  business_unit,
  leads AS lead_count,
  estimates AS estimate_count,
  estimates_scheduled,
  total_booked,
  CAST(100 * success_rate AS NUMERIC) AS close_rate,
  dollars_produced,
  CAST(100 * gpm AS NUMERIC) AS gpm_percent,
  CAST(100 * warranty_rate AS NUMERIC) AS warranty_percent,
  dollars_collected,
  outstanding_ar,
  future_bookings
FROM st_mart_v2.kpi_daily_by_bu
