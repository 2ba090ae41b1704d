-- Grain: one row per entity that was ever read; value: records that it lost in ServiceTitan since a week before as_of.
-- Source: ingestion_logs, deleted.
-- Purpose: a deletion changes figures of the past; somebody should know of it.
WITH entities AS (
  SELECT DISTINCT entity FROM st_logs_v2.ingestion_logs
),

gone AS (
  SELECT
    entity,
    COUNT(*) AS records,
    MIN(key) AS first_key,
    MAX(key) AS last_key
  FROM st_logs_v2.deleted
  WHERE DATE(deleted_at, @time_zone) > DATE_SUB(@as_of, INTERVAL 7 DAY)
  GROUP BY entity
),

final AS (
  SELECT
    entities.entity AS item,
    COALESCE(gone.records, 0) AS value,
    CONCAT(
      CAST(COALESCE(gone.records, 0) AS STRING),
      ' were deleted in ServiceTitan',
      CASE
        WHEN gone.records = 1 THEN CONCAT(': ', gone.first_key)
        WHEN gone.records = 2 THEN CONCAT(': ', gone.first_key, ' and ', gone.last_key)
        WHEN gone.records > 2 THEN CONCAT(', such as ', gone.first_key, ' and ', gone.last_key)
        ELSE ''
      END
    ) AS detail
  FROM entities
  LEFT JOIN gone ON entities.entity = gone.entity
)

SELECT * FROM final
