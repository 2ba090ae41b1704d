-- Grain: one row per item of an invoice, active or not.
-- Source: the items of raw_invoices.
-- Purpose: what an item adds to its invoice and costs, its own unit, which may be another than the invoice's, and whether
-- it is booked to an income account: a deposit is not. Without an account it is.
-- Partition: TIMESTAMP_TRUNC(root_created, MONTH)
-- Cluster: invoice_id
-- Replaces: root_created >= @created_from
WITH invoices AS (
  SELECT id, jobId, items
  FROM st_raw_v2.raw_invoices
  WHERE createdOn >= @created_from OR createdOn IS NULL
),

roots AS (
  SELECT * FROM st_ref_v2.roots WHERE first_created >= @created_from
),

final AS (
  SELECT
    -- ids
    invoices.id AS invoice_id,
    SAFE_CAST(JSON_VALUE(item, '$.id') AS INT64) AS item_id,
    SAFE_CAST(JSON_VALUE(item, '$.businessUnit.id') AS INT64) AS own_business_unit_id,
    -- names
    JSON_VALUE(item, '$.skuName') AS item_name,
    JSON_VALUE(item, '$.type') AS item_type,
    -- flags
    COALESCE(LOWER(JSON_VALUE(item, '$.generalLedgerAccount.type')) LIKE '%income%', TRUE) AS is_income,
    -- measures
    COALESCE(SAFE_CAST(REPLACE(JSON_VALUE(item, '$.total'), ',', '') AS NUMERIC), 0) AS amount,
    COALESCE(SAFE_CAST(REPLACE(JSON_VALUE(item, '$.totalCost'), ',', '') AS NUMERIC), 0) AS cost,
    -- instants
    roots.first_created AS root_created
  FROM invoices
  CROSS JOIN UNNEST(JSON_QUERY_ARRAY(invoices.items)) AS item
  INNER JOIN roots
    ON
      roots.kind = IF(invoices.jobId IS NULL, 'invoices', 'jobs')
      AND roots.id = COALESCE(invoices.jobId, invoices.id)
)

SELECT * FROM final
