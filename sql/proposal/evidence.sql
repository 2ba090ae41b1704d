-- Grain: one row per business unit and job type that a job has.
-- Source: raw_jobs, raw_estimates, raw_invoices, raw_payroll.
-- Purpose: what the jobs of a unit and of a type are: estimates that somebody wrote, or work that is invoiced and paid.
-- Unbounded: it is asked only for names that the company's files lack; narrow columns are read.
WITH jobs AS (
  SELECT id, businessUnitId, jobTypeId FROM st_raw_v2.raw_jobs
),

estimates AS (
  SELECT DISTINCT jobId FROM st_raw_v2.raw_estimates WHERE COALESCE(active, TRUE)
),

invoices AS (
  SELECT DISTINCT jobId FROM st_raw_v2.raw_invoices WHERE COALESCE(active, TRUE) AND subTotal > 0
),

payroll AS (
  SELECT DISTINCT jobId FROM st_raw_v2.raw_payroll
),

final AS (
  SELECT
    jobs.businessUnitId AS business_unit_id,
    jobs.jobTypeId AS job_type_id,
    COUNT(*) AS total,
    COUNTIF(estimates.jobId IS NOT NULL) AS estimated,
    COUNTIF(invoices.jobId IS NOT NULL) AS invoiced,
    COUNTIF(invoices.jobId IS NOT NULL AND payroll.jobId IS NOT NULL) AS worked
  FROM jobs
  LEFT JOIN estimates ON jobs.id = estimates.jobId
  LEFT JOIN invoices ON jobs.id = invoices.jobId
  LEFT JOIN payroll ON jobs.id = payroll.jobId
  GROUP BY jobs.businessUnitId, jobs.jobTypeId
)

SELECT * FROM final
