-- Grain: one row per sold estimate, change orders included.
-- Source: dim_estimates. ServiceTitan's report: Daily WBR, column Total Sales.
-- Purpose: Total Booked = SUM(amount) by event_date, the day of the sale in the tenant's time zone. Estimates of Sales
-- units whose status is Sold, whatever the type of the job.
-- Partition: DATE_TRUNC(event_date, MONTH)
-- Cluster: business_unit, job_id
-- Replaces: event_date >= @changed_from AND root_created >= @created_from
WITH estimates AS (
  SELECT * FROM st_ref_v2.dim_estimates WHERE root_created >= @created_from
),

final AS (
  SELECT
    sold_date AS event_date,
    business_unit,
    unit_name,
    region,
    segment,
    customer_id,
    job_id,
    job_number,
    estimate_id,
    estimate_name,
    job_type_name,
    subtotal AS amount,
    sold_on,
    root_created
  FROM estimates
  WHERE
    division = 'Sales'
    AND is_sold
    AND sold_date IS NOT NULL
)

SELECT * FROM final WHERE event_date >= @changed_from
