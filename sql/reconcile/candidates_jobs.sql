-- Grain: one row per job, and one per appointment, estimate and invoice, each with what is known of its job.
-- Source: dim_jobs and the raw tables, in which nothing is left out yet.
-- Purpose: what a KPI about jobs could have counted. The definition finder puts conditions and a measure on these rows;
-- expectations/definitions.yaml lists them. `own_…` is of the record itself, `job_…` of its job, else of the record.
WITH jobs AS (
  SELECT
    jobs.*,
    raw.noCharge AS is_no_charge_flag,
    raw.warrantyId IS NOT NULL AS has_warranty_id,
    types.is_warranty AS is_warranty_type,
    types.is_active AS type_is_active,
    raw_types.soldThreshold AS sold_threshold,
    customers.root_customer_id,
    customers.is_active AS customer_is_active
  FROM st_ref_v2.dim_jobs AS jobs
  INNER JOIN st_raw_v2.raw_jobs AS raw ON jobs.job_id = raw.id
  LEFT JOIN st_ref_v2.dim_job_types AS types ON jobs.job_type_id = types.job_type_id
  LEFT JOIN st_raw_v2.raw_job_types AS raw_types ON jobs.job_type_id = raw_types.id
  LEFT JOIN st_ref_v2.dim_customers AS customers ON jobs.customer_id = customers.customer_id
),

appointments AS (
  SELECT * FROM st_raw_v2.raw_appointments
),

units AS (
  SELECT * FROM st_ref_v2.dim_business_units
),

estimates_of_jobs AS (
  SELECT
    job_id,
    COUNT(*) AS estimates,
    COUNTIF(is_sold) AS sold_estimates,
    SUM(IF(is_sold, subtotal, 0)) AS sold_subtotal,
    MIN(IF(is_sold, sold_on, NULL)) AS first_sold_on,
    MAX(IF(is_sold, sold_on, NULL)) AS last_sold_on
  FROM st_ref_v2.dim_estimates
  GROUP BY job_id
),

invoices_of_jobs AS (
  SELECT
    job_id,
    SUM(subtotal) AS subtotal,
    SUM(IF(adjustment_to_id IS NULL, subtotal, 0)) AS subtotal_before_adjustments,
    SUM(total) AS total,
    SUM(materials) AS materials,
    MIN(invoice_date) AS first_invoice_date
  FROM st_ref_v2.dim_invoices
  GROUP BY job_id
),

labor_of_jobs AS (
  SELECT jobId AS job_id, SUM(amount) AS labor, SUM(amountAdjustment) AS labor_adjustments
  FROM st_raw_v2.raw_payroll
  GROUP BY job_id
),

purchase_orders_of_jobs AS (
  SELECT
    jobId AS job_id,
    SUM(IF(COALESCE(status, '') != 'Canceled', total, 0)) AS purchase_orders,
    SUM(total) AS purchase_orders_with_canceled
  FROM st_raw_v2.raw_purchase_orders
  GROUP BY job_id
),

returns_of_jobs AS (
  SELECT jobId AS job_id, SUM(returnAmount) AS returns
  FROM st_raw_v2.raw_returns
  WHERE COALESCE(active, TRUE)
  GROUP BY job_id
),

records AS (
  SELECT
    'job' AS entity,
    jobs.job_id AS own_id,
    jobs.job_id,
    jobs.customer_id,
    jobs.location_id,
    jobs.business_unit_id,
    jobs.job_status AS own_status,
    TRUE AS own_is_active,
    jobs.created_on AS own_created_on,
    COALESCE(appointments.start, jobs.completed_on, jobs.created_on) AS start_on,
    estimates_of_jobs.first_sold_on AS sold_on,
    invoices_of_jobs.first_invoice_date AS invoice_date,
    COALESCE(invoices_of_jobs.subtotal, 0) AS subtotal,
    COALESCE(invoices_of_jobs.subtotal_before_adjustments, 0) AS subtotal_before_adjustments,
    COALESCE(invoices_of_jobs.total, 0) AS total
  FROM jobs
  LEFT JOIN appointments ON jobs.first_appointment_id = appointments.id
  LEFT JOIN estimates_of_jobs ON jobs.job_id = estimates_of_jobs.job_id
  LEFT JOIN invoices_of_jobs ON jobs.job_id = invoices_of_jobs.job_id
  UNION ALL
  SELECT
    'appointment' AS entity,
    id AS own_id,
    jobId AS job_id,
    customerId AS customer_id,
    NULL AS location_id,
    NULL AS business_unit_id,
    status AS own_status,
    COALESCE(active, TRUE) AS own_is_active,
    createdOn AS own_created_on,
    start AS start_on,
    NULL AS sold_on,
    NULL AS invoice_date,
    0 AS subtotal,
    0 AS subtotal_before_adjustments,
    0 AS total
  FROM appointments
  UNION ALL
  SELECT
    'estimate' AS entity,
    id AS own_id,
    jobId AS job_id,
    customerId AS customer_id,
    locationId AS location_id,
    businessUnitId AS business_unit_id,
    status AS own_status,
    COALESCE(active, TRUE) AS own_is_active,
    createdOn AS own_created_on,
    NULL AS start_on,
    soldOn AS sold_on,
    NULL AS invoice_date,
    COALESCE(subtotal, 0) AS subtotal,
    COALESCE(IF(isChangeOrder, 0, subtotal), 0) AS subtotal_before_adjustments,
    COALESCE(subtotal, 0) + COALESCE(tax, 0) AS total
  FROM st_raw_v2.raw_estimates
  UNION ALL
  SELECT
    'invoice' AS entity,
    id AS own_id,
    jobId AS job_id,
    customerId AS customer_id,
    locationId AS location_id,
    businessUnitId AS business_unit_id,
    syncStatus AS own_status,
    COALESCE(active, TRUE) AS own_is_active,
    createdOn AS own_created_on,
    NULL AS start_on,
    NULL AS sold_on,
    invoiceDate AS invoice_date,
    COALESCE(subTotal, 0) AS subtotal,
    COALESCE(IF(adjustmentToId IS NULL, subTotal, 0), 0) AS subtotal_before_adjustments,
    COALESCE(total, 0) AS total
  FROM st_raw_v2.raw_invoices
),

final AS (
  SELECT
    -- ids
    records.entity,
    records.own_id,
    jobs.job_id,
    COALESCE(jobs.customer_id, records.customer_id) AS customer_id,
    COALESCE(jobs.root_customer_id, records.customer_id) AS root_customer_id,
    COALESCE(jobs.location_id, records.location_id) AS location_id,
    -- names
    jobs.customer_name,
    COALESCE(jobs.business_unit, IF(jobs.job_id IS NULL, own_units.business_unit, NULL)) AS job_business_unit,
    COALESCE(jobs.unit_name, IF(jobs.job_id IS NULL, own_units.unit_name, NULL)) AS job_unit_name,
    own_units.business_unit AS own_business_unit,
    own_units.unit_name AS own_unit_name,
    COALESCE(jobs.division, IF(jobs.job_id IS NULL, own_units.division, NULL)) AS division,
    COALESCE(jobs.segment, IF(jobs.job_id IS NULL, own_units.segment, NULL)) AS segment,
    jobs.job_type_name,
    jobs.job_status,
    records.own_status,
    -- flags
    records.own_is_active,
    COALESCE(jobs.type_is_active, FALSE) AS type_is_active,
    COALESCE(jobs.customer_is_active, TRUE) AS customer_is_active,
    COALESCE(jobs.is_excluded_from_production, FALSE) AS is_excluded_from_production,
    COALESCE(jobs.is_warranty_type, FALSE) AS is_warranty_type,
    COALESCE(jobs.has_warranty_id, FALSE) AS has_warranty_id,
    COALESCE(jobs.is_no_charge_flag, FALSE) AS is_no_charge_flag,
    -- measures
    COALESCE(estimates_of_jobs.estimates, 0) AS estimates,
    COALESCE(estimates_of_jobs.sold_estimates, 0) AS sold_estimates,
    COALESCE(estimates_of_jobs.sold_subtotal, 0) AS sold_subtotal,
    COALESCE(jobs.sold_threshold, 0) AS sold_threshold,
    COALESCE(invoices_of_jobs.subtotal, 0) AS invoiced,
    records.subtotal,
    records.subtotal_before_adjustments,
    records.total,
    COALESCE(labor_of_jobs.labor, 0) AS labor,
    COALESCE(labor_of_jobs.labor_adjustments, 0) AS labor_adjustments,
    COALESCE(invoices_of_jobs.materials, 0) AS materials,
    COALESCE(purchase_orders_of_jobs.purchase_orders, 0) AS purchase_orders,
    COALESCE(purchase_orders_of_jobs.purchase_orders_with_canceled, 0) AS purchase_orders_with_canceled,
    COALESCE(returns_of_jobs.returns, 0) AS returns,
    -- dates
    jobs.created_date AS job_created_date,
    records.invoice_date,
    -- instants
    jobs.created_on AS job_created_on,
    records.own_created_on,
    jobs.completed_on,
    records.start_on,
    records.sold_on,
    estimates_of_jobs.last_sold_on,
    COALESCE(estimates_of_jobs.first_sold_on, jobs.completed_on) AS opportunity_on
  FROM records
  LEFT JOIN jobs ON records.job_id = jobs.job_id
  LEFT JOIN units AS own_units ON COALESCE(records.business_unit_id, jobs.business_unit_id) = own_units.business_unit_id
  LEFT JOIN estimates_of_jobs ON jobs.job_id = estimates_of_jobs.job_id
  LEFT JOIN invoices_of_jobs ON jobs.job_id = invoices_of_jobs.job_id
  LEFT JOIN labor_of_jobs ON jobs.job_id = labor_of_jobs.job_id
  LEFT JOIN purchase_orders_of_jobs ON jobs.job_id = purchase_orders_of_jobs.job_id
  LEFT JOIN returns_of_jobs ON jobs.job_id = returns_of_jobs.job_id
)

SELECT * FROM final
