-- Grain: one row: how much changed since the last build, and from where on the marts are to be computed anew.
-- Source: st_stage_v2.records (as the raw tables are now, created since @oldest) beside records (as the last build saw
-- them), roots; raw_customers, created since @oldest_customer, beside dim_customers.
-- Purpose: created_from, the creation of the first record of the roots that changed; changed_from, the Monday of the
-- first day on which one of them counts or counted. NULL where nothing that has such a date changed.
-- Unbounded: what changed may belong to a job of any age; ids, dates and the names of customers are read, no record.
WITH fresh AS (
  SELECT * FROM st_stage_v2.records
),

stored AS (
  SELECT * FROM st_ref_v2.records WHERE created_on >= @oldest OR created_on IS NULL
),

-- New, changed, moved to another job, or gone: before and after.
changed AS (
  (SELECT * FROM fresh EXCEPT DISTINCT SELECT * FROM stored)
  UNION ALL
  (SELECT * FROM stored EXCEPT DISTINCT SELECT * FROM fresh)
),

read_customers AS (
  SELECT id, name, mergedToId, COALESCE(active, TRUE) AS is_active
  FROM st_raw_v2.raw_customers
  WHERE createdOn >= @oldest_customer OR createdOn IS NULL
),

-- A customer is new, or has another name, merger or activity.
compared AS (
  SELECT
    COALESCE(known.customer_id, now.id) AS customer_id,
    COALESCE(known.root_customer_id, now.id) AS root_id,
    now.id IS NOT NULL
    AND (
      known.customer_id IS NULL
      OR now.name IS DISTINCT FROM known.customer_name
      OR now.mergedToId IS DISTINCT FROM known.merged_to_id
      OR now.is_active != known.is_active
    ) AS differs
  FROM st_ref_v2.dim_customers AS known
  FULL JOIN read_customers AS now ON known.customer_id = now.id
),

-- Who was merged into a customer that is merged further has another root, too.
customers AS (
  SELECT customer_id
  FROM compared
  QUALIFY differs OR LOGICAL_OR(differs AND customer_id = root_id) OVER (PARTITION BY root_id)
),

touched AS (
  SELECT 'jobs' AS kind, job_id AS id FROM changed WHERE job_id IS NOT NULL
  UNION DISTINCT
  SELECT 'invoices' AS kind, invoice_id AS id FROM changed WHERE invoice_id IS NOT NULL
  UNION DISTINCT
  SELECT entity AS kind, SAFE_CAST(record_key AS INT64) AS id FROM changed
  UNION DISTINCT
  SELECT 'jobs' AS kind, jobs.job_id AS id
  FROM st_ref_v2.dim_jobs AS jobs
  INNER JOIN customers ON jobs.customer_id = customers.customer_id
),

dates AS (
  SELECT roots.first_day, roots.first_created
  FROM st_ref_v2.roots AS roots
  INNER JOIN touched ON roots.kind = touched.kind AND roots.id = touched.id
  UNION ALL
  SELECT first_day, created_on AS first_created FROM changed
),

final AS (
  SELECT
    (SELECT COUNT(DISTINCT CONCAT(entity, ' ', record_key)) FROM changed) AS records,
    (SELECT COUNT(*) FROM touched WHERE kind = 'jobs') AS jobs,
    (SELECT COUNT(*) FROM customers) AS customers,
    CAST(DATE_TRUNC(MIN(first_day), WEEK(MONDAY)) AS DATE) AS changed_from,
    MIN(first_created) AS created_from
  FROM dates
)

SELECT * FROM final
