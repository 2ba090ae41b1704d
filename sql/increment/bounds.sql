-- Grain: one row: how much changed since the last build, and from where on the marts are to be computed anew.
-- Source: st_stage_v2.records (as the raw tables are now, created since @oldest) beside records (as the last build saw
-- them), spans; raw_customers beside dim_customers; raw_invoices for the job of an invoice.
-- Purpose: changed_from, the Monday of the first day on which a root that changed counts or counted; replaced_from, the
-- creation of the first record of these roots; created_from, that of the first record of any root of which a replaced
-- row may be made. NULL where nothing that has such a date changed.
-- Unbounded: what changed may belong to a job of any age; keys, dates and the names of customers are read, no record.
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

customers AS (
  SELECT customers.id AS customer_id
  FROM st_raw_v2.raw_customers AS customers
  LEFT JOIN st_ref_v2.dim_customers AS known ON customers.id = known.customer_id
  WHERE known.customer_id IS NULL OR customers.name IS DISTINCT FROM known.customer_name
),

roots AS (
  SELECT CONCAT('jobs ', CAST(job_id AS STRING)) AS root FROM changed WHERE job_id IS NOT NULL
  UNION DISTINCT
  SELECT CONCAT('invoices ', CAST(invoice_id AS STRING)) AS root FROM changed WHERE invoice_id IS NOT NULL
  UNION DISTINCT
  SELECT CONCAT('jobs ', CAST(invoices.jobId AS STRING)) AS root
  FROM changed
  INNER JOIN st_raw_v2.raw_invoices AS invoices ON changed.invoice_id = invoices.id
  WHERE invoices.jobId IS NOT NULL
  UNION DISTINCT
  SELECT CONCAT(entity, ' ', record_key) AS root FROM changed
  UNION DISTINCT
  SELECT CONCAT('jobs ', CAST(jobs.job_id AS STRING)) AS root
  FROM st_ref_v2.dim_jobs AS jobs
  INNER JOIN customers ON jobs.customer_id = customers.customer_id
),

touched AS (
  SELECT spans.* FROM st_ref_v2.spans AS spans INNER JOIN roots ON spans.root = roots.root
),

dirty AS (
  SELECT
    MIN(first_day) AS first_day,
    MIN(first_created) AS replaced_from
  FROM (
    SELECT first_day, first_created FROM touched
    UNION ALL
    SELECT first_day, created_on AS first_created FROM changed
  ) AS dates
),

counted AS (
  SELECT
    (SELECT COUNT(DISTINCT CONCAT(entity, ' ', record_key)) FROM changed) AS records,
    (SELECT COUNT(*) FROM roots WHERE root LIKE 'jobs %') AS jobs,
    (SELECT COUNT(*) FROM customers) AS customers
),

reached AS (
  SELECT MIN(spans.first_created) AS first_created
  FROM st_ref_v2.spans AS spans
  CROSS JOIN dirty
  WHERE
    spans.last_day >= DATE_TRUNC(dirty.first_day, WEEK(MONDAY))
    OR spans.last_created >= dirty.replaced_from
),

final AS (
  SELECT
    counted.records,
    counted.jobs,
    counted.customers,
    CAST(DATE_TRUNC(dirty.first_day, WEEK(MONDAY)) AS DATE) AS changed_from,
    dirty.replaced_from,
    COALESCE(LEAST(dirty.replaced_from, reached.first_created), dirty.replaced_from, reached.first_created)
      AS created_from
  FROM counted
  CROSS JOIN dirty
  CROSS JOIN reached
)

SELECT * FROM final
