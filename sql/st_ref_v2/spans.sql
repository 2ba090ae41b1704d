-- Grain: one row per root: a job with all that belongs to it, or an estimate, invoice or payment without a job.
-- Source: records. An application of a payment belongs to its invoice, and with it to the invoice's job.
-- Purpose: from when to when a root's records were created, and on which days they count. No row of a dimension or fact
-- depends on records of two roots, so that a root can be computed anew from the records created since its first one.
-- Partition: TIMESTAMP_TRUNC(last_created, MONTH)
-- Cluster: root
-- Replaces: last_created >= @replaced_from
WITH records AS (
  SELECT * FROM st_ref_v2.records WHERE created_on >= @created_from OR created_on IS NULL
),

invoices AS (
  SELECT invoice_id, job_id FROM records WHERE entity = 'invoices'
),

rooted AS (
  SELECT
    CASE
      WHEN COALESCE(records.job_id, invoices.job_id) IS NOT NULL
        THEN CONCAT('jobs ', CAST(COALESCE(records.job_id, invoices.job_id) AS STRING))
      WHEN records.invoice_id IS NOT NULL THEN CONCAT('invoices ', CAST(records.invoice_id AS STRING))
      ELSE CONCAT(records.entity, ' ', records.record_key)
    END AS root,
    records.created_on,
    records.first_day,
    records.last_day
  FROM records
  LEFT JOIN invoices ON records.invoice_id = invoices.invoice_id
),

final AS (
  SELECT
    root,
    MIN(first_day) AS first_day,
    MAX(last_day) AS last_day,
    MIN(created_on) AS first_created,
    -- A record without a creation date is read each time, so what it belongs to must be, too.
    MAX(COALESCE(created_on, TIMESTAMP '9999-12-31 00:00:00+00')) AS last_created
  FROM rooted
  GROUP BY root
)

SELECT * FROM final WHERE last_created >= @replaced_from
