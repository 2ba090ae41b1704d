-- Kind: view
-- Grain: one row per day and region; units without a region are "Unmapped".
-- Source: kpi_daily_by_bu.
-- Purpose: the day under the column names of the older pipeline's regional_kpis, so that a dashboard moves by changing
-- the table of its data source. Percentages are times 100, and ratios of the region's sums; a customer or job of two units
-- counts in both. Not here, because these figures have no such meaning: labor_efficiency, completed_job_count,
-- warranty_job_count, avg_sale_amount, created_at.
WITH sums AS (
  SELECT
    event_date,
    COALESCE(region, 'Unmapped') AS region,
    CAST(SUM(leads) AS INT64) AS lead_count,
    CAST(SUM(estimates) AS INT64) AS estimate_count,
    CAST(SUM(estimates_scheduled) AS INT64) AS estimates_scheduled,
    SUM(total_booked) AS total_booked,
    CAST(SUM(closed) AS INT64) AS closed,
    CAST(SUM(opportunities) AS INT64) AS opportunities,
    SUM(dollars_produced) AS dollars_produced,
    SUM(gross_margin) AS gross_margin,
    SUM(gross_margin_base) AS gross_margin_base,
    SUM(warranty_cost) AS warranty_cost,
    SUM(warranty_base) AS warranty_base,
    SUM(dollars_collected) AS dollars_collected,
    SUM(outstanding_ar) AS outstanding_ar,
    SUM(future_bookings) AS future_bookings
  FROM st_mart_v2.kpi_daily_by_bu
  GROUP BY event_date, region
),

final AS (
  SELECT
    event_date,
    region,
    lead_count,
    estimate_count,
    estimates_scheduled,
    total_booked,
    CAST(SAFE_DIVIDE(CAST(100 * closed AS NUMERIC), opportunities) AS NUMERIC) AS close_rate_percent,
    dollars_produced,
    CAST(SAFE_DIVIDE(CAST(100 * gross_margin AS NUMERIC), gross_margin_base) AS NUMERIC) AS gpm_percent,
    CAST(SAFE_DIVIDE(CAST(100 * warranty_cost AS NUMERIC), warranty_base) AS NUMERIC) AS warranty_percent,
    dollars_collected,
    outstanding_ar,
    future_bookings
  FROM sums
)

SELECT * FROM final
