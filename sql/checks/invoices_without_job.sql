-- Grain: one row for the invoices from first_day on and one for the older; value: the share that has no job.
-- Source: raw_invoices.
-- Purpose: counter sales have no job; many more without one are links that were lost, and their money counts for nobody.
WITH invoices AS (
  SELECT
    IF(DATE(createdOn, @time_zone) >= @first_day, 'recent invoices', 'older invoices') AS item,
    jobId
  FROM st_raw_v2.raw_invoices
  WHERE COALESCE(active, TRUE)
),

final AS (
  SELECT
    item,
    CAST(SAFE_DIVIDE(COUNTIF(COALESCE(jobId, 0) = 0), COUNT(*)) AS NUMERIC) AS value,
    CONCAT(CAST(COUNTIF(COALESCE(jobId, 0) = 0) AS STRING), ' of ', CAST(COUNT(*) AS STRING), ' have no job') AS detail
  FROM invoices
  GROUP BY item
)

SELECT * FROM final
