-- Grain: one row per invoice, active or not, adjustments included.
-- Source: raw_invoices; dim_invoice_items; the job from dim_jobs; dim_business_units.
-- Purpose: an invoice's money, its unit (the job's, else its own), materials: what its Material and Equipment items
-- cost, and income: the subtotal without what is booked to other accounts. job_id is NULL where the invoice has no job,
-- or one that is unknown.
-- Partition: TIMESTAMP_TRUNC(root_created, MONTH)
-- Cluster: invoice_id, job_id
-- Replaces: root_created >= @created_from
WITH invoices AS (
  SELECT *
  FROM st_raw_v2.raw_invoices
  WHERE createdOn >= @created_from OR createdOn IS NULL
),

roots AS (
  SELECT * FROM st_ref_v2.roots WHERE first_created >= @created_from
),

jobs AS (
  SELECT * FROM st_ref_v2.dim_jobs WHERE root_created >= @created_from
),

units AS (
  SELECT * FROM st_ref_v2.dim_business_units
),

items AS (
  SELECT
    invoice_id,
    SUM(IF(item_type IN ('Material', 'Equipment'), cost, 0)) AS materials,
    SUM(IF(is_income, 0, amount)) AS not_income
  FROM st_ref_v2.dim_invoice_items
  WHERE root_created >= @created_from
  GROUP BY invoice_id
),

final AS (
  SELECT
    -- ids
    invoices.id AS invoice_id,
    invoices.referenceNumber AS invoice_number,
    NULLIF(invoices.adjustmentToId, 0) AS adjustment_to_id,
    jobs.job_id,
    jobs.job_number,
    invoices.customerId AS customer_id,
    invoices.locationId AS location_id,
    units.business_unit_id,
    invoices.businessUnitId AS own_business_unit_id,
    -- names
    units.unit_name,
    units.business_unit,
    units.region,
    units.division,
    units.segment,
    invoices.syncStatus AS sync_status,
    -- flags
    COALESCE(invoices.active, TRUE) AS is_active,
    -- measures
    COALESCE(invoices.subTotal, 0) AS subtotal,
    COALESCE(invoices.total, 0) AS total,
    COALESCE(invoices.balance, 0) AS balance,
    COALESCE(items.materials, 0) AS materials,
    COALESCE(invoices.subTotal, 0) - COALESCE(items.not_income, 0) AS income,
    -- dates
    invoices.invoiceDate AS invoice_date,
    DATE(invoices.createdOn, @time_zone) AS created_date,
    -- instants
    invoices.createdOn AS created_on,
    invoices.modifiedOn AS modified_on,
    roots.first_created AS root_created
  FROM invoices
  INNER JOIN roots
    ON
      roots.kind = IF(invoices.jobId IS NULL, 'invoices', 'jobs')
      AND roots.id = COALESCE(invoices.jobId, invoices.id)
  LEFT JOIN items ON invoices.id = items.invoice_id
  LEFT JOIN jobs ON invoices.jobId = jobs.job_id
  LEFT JOIN units ON IF(jobs.job_id IS NULL, invoices.businessUnitId, jobs.business_unit_id) = units.business_unit_id
)

SELECT * FROM final
