-- Grain: one row per key of st_stage_v2.reconcile_keys that is the number of an invoice, active or not.
-- Source: raw_invoices, dim_jobs, dim_business_units, fact_receivables, bounded by the keys.
-- Purpose: what Outstanding A/R asks of an invoice on @as_of, each predicate on its own.
WITH invoices AS (
  SELECT
    keys.key,
    raw.id AS record_id,
    raw.customerId AS customer_id,
    raw.locationId AS location_id,
    raw.adjustmentToId IS NOT NULL AS is_adjustment,
    COALESCE(raw.active, TRUE) AS is_active,
    IF(jobs.job_id IS NULL, raw.businessUnitId, jobs.business_unit_id) AS business_unit_id,
    jobs.job_type_name,
    jobs.job_status,
    raw.modifiedOn AS modified_on,
    raw.invoiceDate AS invoiced_date,
    raw.createdOn AS created_on,
    jobs.start_date
  FROM st_stage_v2.reconcile_keys AS keys
  INNER JOIN st_raw_v2.raw_invoices AS raw ON keys.key = COALESCE(raw.referenceNumber, CAST(raw.id AS STRING))
  LEFT JOIN st_ref_v2.dim_jobs AS jobs ON raw.jobId = jobs.job_id
  WHERE TRUE
  QUALIFY ROW_NUMBER() OVER (PARTITION BY keys.key ORDER BY IF(raw.active, 0, 1), raw.id) = 1
),

movements AS (
  SELECT * FROM st_mart_v2.fact_receivables WHERE event_date <= @as_of
),

balances AS (
  SELECT invoice_id, SUM(amount) AS balance
  FROM movements
  WHERE invoice_id IN (SELECT record_id FROM invoices)
  GROUP BY invoice_id
),

locations AS (
  SELECT business_unit, COALESCE(location_id, -1) AS location_id, SUM(amount) AS balance
  FROM movements
  GROUP BY 1, 2
),

final AS (
  SELECT
    invoices.key,
    -- what it is
    invoices.record_id,
    invoices.customer_id,
    customers.customer_name,
    customers.root_customer_id,
    units.unit_name,
    units.segment,
    invoices.job_type_name,
    invoices.job_status,
    invoices.modified_on,
    -- predicates; one that rests on another holds where the other does not
    invoices.is_active,
    COALESCE(units.division = @division, FALSE) AS in_division,
    COALESCE(units.division != @division, TRUE)
    OR COALESCE(units.business_unit IN (SELECT business_unit FROM st_stage_v2.reconcile_units), FALSE) AS in_unit,
    balances.balance IS NULL OR balances.balance != 0 AS has_balance,
    COALESCE(balances.balance, 0) = 0 OR locations.balance >= 10 AS is_large,
    -- traits
    invoices.is_adjustment,
    -- dates
    invoices.invoiced_date,
    DATE(invoices.created_on, @time_zone) AS created_date,
    DATE(invoices.created_on) AS created_utc,
    invoices.start_date
  FROM invoices
  LEFT JOIN st_ref_v2.dim_business_units AS units ON invoices.business_unit_id = units.business_unit_id
  LEFT JOIN st_ref_v2.dim_customers AS customers ON invoices.customer_id = customers.customer_id
  LEFT JOIN balances ON invoices.record_id = balances.invoice_id
  LEFT JOIN locations
    ON units.business_unit = locations.business_unit AND COALESCE(invoices.location_id, -1) = locations.location_id
)

SELECT * FROM final
