-- Grain: one row per invoice, created from @start to before @end, that lacks its job, its job's number or its unit.
-- Source: raw_invoices, raw_jobs (read whole: a number names one job only if no other job of any year has it).
-- Purpose: the job that the best evidence names. The first kind of evidence that names a job decides: the invoice's own
-- record; ServiceTitan's invoiceId of the job; the job number; the reference number, where a whole word of it is the
-- number of a job of the same customer. Where that evidence names several jobs, job_id stays NULL and candidate_jobs
-- lists them. A record that says "job": null is evidence, too: that invoice has no job.
WITH newest AS (
  SELECT *
  FROM st_raw_v2.raw_invoices
  WHERE createdOn >= @start AND createdOn < @end
  -- An old row without a key can stand beside the row that the ingest has written since.
  QUALIFY ROW_NUMBER() OVER (PARTITION BY id ORDER BY IF(_key IS NULL, 1, 0), modifiedOn DESC) = 1
),

invoices AS (
  SELECT
    id AS invoice_id,
    createdOn AS created_on,
    referenceNumber AS reference_number,
    customerId AS customer_id,
    jobId AS old_job_id,
    jobNumber AS old_job_number,
    businessUnitId AS old_business_unit_id,
    -- 0 is how some exports write that there is no job.
    COALESCE(
      NULLIF(jobId, 0),
      NULLIF(SAFE_CAST(COALESCE(JSON_VALUE(_record, '$.job.id'), JSON_VALUE(_record, '$.jobId')) AS INT64), 0)
    ) AS own_job_id,
    COALESCE(
      jobNumber,
      JSON_VALUE(_record, '$.job.number'),
      JSON_VALUE(_record, '$.jobNumber'),
      JSON_VALUE(_record, '$.job.jobNumber')
    ) AS own_job_number,
    COALESCE(
      businessUnitId,
      SAFE_CAST(
        COALESCE(JSON_VALUE(_record, '$.businessUnit.id'), JSON_VALUE(_record, '$.businessUnitId')) AS INT64
      )
    ) AS own_business_unit_id,
    COALESCE(LOWER(JSON_TYPE(JSON_QUERY(_record, '$.job'))) = 'null', FALSE) AS says_no_job
  FROM newest
  WHERE COALESCE(jobId, 0) = 0 OR jobNumber IS NULL OR businessUnitId IS NULL
),

jobs AS (
  SELECT
    id AS job_id,
    jobNumber AS job_number,
    invoiceId AS invoice_id,
    customerId AS customer_id,
    businessUnitId AS business_unit_id
  FROM st_raw_v2.raw_jobs
),

unlinked AS (
  SELECT * FROM invoices WHERE own_job_id IS NULL AND NOT says_no_job
),

words AS (
  SELECT invoice_id, customer_id, word
  FROM unlinked
  CROSS JOIN UNNEST(REGEXP_EXTRACT_ALL(reference_number, r'[0-9A-Za-z]+')) AS word
),

evidence AS (
  SELECT invoice_id, 1 AS place, 'record' AS method, own_job_id AS job_id
  FROM invoices
  WHERE own_job_id IS NOT NULL
  UNION ALL
  SELECT unlinked.invoice_id, 2 AS place, 'invoice_id' AS method, jobs.job_id
  FROM unlinked
  INNER JOIN jobs ON unlinked.invoice_id = jobs.invoice_id
  UNION ALL
  SELECT unlinked.invoice_id, 3 AS place, 'job_number' AS method, jobs.job_id
  FROM unlinked
  INNER JOIN jobs ON unlinked.own_job_number = jobs.job_number
  UNION ALL
  SELECT words.invoice_id, 4 AS place, 'reference' AS method, jobs.job_id
  FROM words
  INNER JOIN jobs
    ON
      words.word = jobs.job_number
      AND COALESCE(words.customer_id, jobs.customer_id, 0) = COALESCE(jobs.customer_id, words.customer_id, 0)
),

best AS (
  SELECT
    invoice_id,
    method,
    COUNT(DISTINCT job_id) AS jobs,
    MIN(job_id) AS job_id,
    STRING_AGG(DISTINCT CAST(job_id AS STRING), ', ' ORDER BY CAST(job_id AS STRING)) AS candidate_jobs
  FROM evidence
  GROUP BY invoice_id, place, method
  QUALIFY ROW_NUMBER() OVER (PARTITION BY invoice_id ORDER BY place) = 1
),

links AS (
  SELECT
    invoices.*,
    CASE
      WHEN best.jobs > 1 THEN 'ambiguous'
      WHEN best.jobs = 1 THEN best.method
      WHEN invoices.says_no_job THEN 'no job'
      ELSE 'no evidence'
    END AS method,
    IF(best.jobs = 1, best.job_id, NULL) AS job_id,
    IF(best.jobs > 1, best.candidate_jobs, NULL) AS candidate_jobs
  FROM invoices
  LEFT JOIN best ON invoices.invoice_id = best.invoice_id
),

final AS (
  SELECT
    links.invoice_id,
    links.created_on,
    links.reference_number,
    links.method,
    links.candidate_jobs,
    links.job_id,
    IF(links.job_id IS NULL, NULL, COALESCE(links.own_job_number, jobs.job_number)) AS job_number,
    -- Where the invoice's own unit is lost, its job's: the one that the KPIs count an invoice with a job under.
    COALESCE(links.own_business_unit_id, jobs.business_unit_id) AS business_unit_id,
    links.old_job_id,
    links.old_job_number,
    links.old_business_unit_id
  FROM links
  LEFT JOIN jobs ON links.job_id = jobs.job_id
)

SELECT
  *,
  COALESCE(job_id, old_job_id) IS DISTINCT FROM old_job_id
    OR COALESCE(job_number, old_job_number) IS DISTINCT FROM old_job_number
    OR COALESCE(business_unit_id, old_business_unit_id) IS DISTINCT FROM old_business_unit_id AS changes
FROM final
