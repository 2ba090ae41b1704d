-- Grain: one row per entity; value: rows whose key is empty or stands there more than once.
-- Source: st_raw_v2.all_records, which is every entity of lib/stkpi/servicetitan/entities.py; of those that grow, the rows
-- from before first_day, because the suites look at the newer ones.
-- Purpose: a record that is there twice counts twice.
WITH records AS (
  SELECT entity, _key
  FROM st_raw_v2.all_records
  WHERE day IS NULL OR day < @first_day
),

final AS (
  SELECT
    entity AS item,
    COUNT(*) - COUNT(DISTINCT _key) AS value,
    CONCAT(
      CAST(COUNT(*) AS STRING), ' rows, ', CAST(COUNT(*) - COUNT(DISTINCT _key) AS STRING), ' without a key of their own'
    ) AS detail
  FROM records
  GROUP BY entity
)

SELECT * FROM final
