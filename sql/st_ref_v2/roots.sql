-- Grain: one row per root: a job with all that belongs to it, or an estimate, invoice, payment or credit memo without a
-- job.
-- Source: records.
-- Purpose: when the first record of a root was created (9999 where none tells), and the first day on which one counts.
-- No row of a dimension or fact depends on records of two roots: a root is computed anew from what was created since
-- its first record. Therefore an increment computes roots whole, and their rows carry root_created = first_created.
-- Partition: TIMESTAMP_TRUNC(first_created, MONTH)
-- Cluster: kind, id
-- Replaces: first_created >= @created_from
-- Unbounded: what is new may belong to a root of any age, which the table itself tells; only ids are read.
WITH records AS (
  SELECT * FROM st_ref_v2.records WHERE created_on >= @created_from OR created_on IS NULL
),

-- Of these only some records are read here, and none has changed.
older AS (
  SELECT kind, id FROM st_ref_v2.roots WHERE first_created < @created_from
),

rooted AS (
  SELECT
    CASE WHEN job_id IS NOT NULL THEN 'jobs' WHEN invoice_id IS NOT NULL THEN 'invoices' ELSE entity END AS kind,
    COALESCE(job_id, invoice_id, SAFE_CAST(record_key AS INT64)) AS id,
    created_on,
    first_day
  FROM records
),

final AS (
  SELECT
    rooted.kind,
    rooted.id,
    MIN(rooted.first_day) AS first_day,
    COALESCE(MIN(rooted.created_on), TIMESTAMP '9999-12-31 00:00:00+00') AS first_created
  FROM rooted
  LEFT JOIN older ON rooted.kind = older.kind AND rooted.id = older.id
  WHERE older.id IS NULL
  GROUP BY rooted.kind, rooted.id
)

SELECT * FROM final
