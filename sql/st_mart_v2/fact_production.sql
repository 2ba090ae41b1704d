-- Grain: one row per production job, in any status, with or without an invoice.
-- Source: dim_jobs, dim_invoices, raw_payroll, raw_purchase_orders, raw_returns. ServiceTitan's report: FOREMAN Job Cost.
-- Purpose: by event_date, the day the job starts: $ Produced = SUM(produced), GPM = (produced - labor) / produced, the
-- same with full_cost, Warranty % = SUM(IF(is_warranty, full_cost, 0)) / produced; Future Bookings = SUM(produced) of
-- the jobs that are not Canceled and start within the next year. Jobs of Production units; the types that
-- sql/job_type_rules.csv excludes are left out. A job's costs are all its costs, whenever they were paid.
-- Partition: DATE_TRUNC(event_date, MONTH)
-- Cluster: business_unit, job_id
-- Replaces: event_date >= @changed_from AND root_created >= @created_from
WITH jobs AS (
  SELECT *
  FROM st_ref_v2.dim_jobs
  WHERE
    root_created >= @created_from
    AND division = 'Production'
    AND NOT is_excluded_from_production
    AND start_date IS NOT NULL
),

invoices AS (
  SELECT job_id, SUM(subtotal) AS produced, SUM(materials) AS materials
  FROM st_ref_v2.dim_invoices
  WHERE root_created >= @created_from
  GROUP BY job_id
),

-- Payroll adjustments are among the gross pay items: adding them from their own list would count them twice.
labor AS (
  SELECT jobId AS job_id, SUM(amount) AS labor
  FROM st_raw_v2.raw_payroll
  WHERE createdOn >= @created_from OR createdOn IS NULL
  GROUP BY job_id
),

purchase_orders AS (
  SELECT jobId AS job_id, SUM(total) AS purchase_orders
  FROM st_raw_v2.raw_purchase_orders
  WHERE (createdOn >= @created_from OR createdOn IS NULL) AND COALESCE(status, '') != 'Canceled'
  GROUP BY job_id
),

returns AS (
  SELECT jobId AS job_id, SUM(returnAmount) AS returns
  FROM st_raw_v2.raw_returns
  WHERE (createdOn >= @created_from OR createdOn IS NULL) AND COALESCE(active, TRUE)
  GROUP BY job_id
),

costs AS (
  SELECT
    jobs.*,
    COALESCE(invoices.produced, 0) AS produced,
    COALESCE(labor.labor, 0) AS labor,
    COALESCE(purchase_orders.purchase_orders, 0) AS purchase_orders,
    COALESCE(invoices.materials, 0) AS materials,
    COALESCE(returns.returns, 0) AS returns
  FROM jobs
  LEFT JOIN invoices ON jobs.job_id = invoices.job_id
  LEFT JOIN labor ON jobs.job_id = labor.job_id
  LEFT JOIN purchase_orders ON jobs.job_id = purchase_orders.job_id
  LEFT JOIN returns ON jobs.job_id = returns.job_id
),

final AS (
  SELECT
    start_date AS event_date,
    business_unit,
    unit_name,
    region,
    segment,
    customer_id,
    customer_name,
    job_id,
    job_number,
    job_type_name,
    job_status,
    is_warranty,
    created_date AS job_created_date,
    completed_date AS job_completed_date,
    produced,
    labor,
    purchase_orders,
    materials,
    returns,
    labor + purchase_orders + materials - returns AS full_cost,
    root_created
  FROM costs
)

SELECT * FROM final WHERE event_date >= @changed_from
