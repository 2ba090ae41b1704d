-- Grain: one row per entity that was ever read; value: its records in quarantine.
-- Source: ingestion_logs, quarantine.
-- Purpose: what could not be loaded is missing in the figures until it is.
WITH entities AS (
  SELECT DISTINCT entity FROM st_logs_v2.ingestion_logs
  UNION DISTINCT
  SELECT entity FROM st_logs_v2.quarantine
),

held AS (
  SELECT
    entity,
    COUNT(*) AS records,
    MIN(CONCAT(COALESCE(key, 'a record without an id'), ' (', reason, ')')) AS example
  FROM st_logs_v2.quarantine
  GROUP BY entity
),

final AS (
  SELECT
    entities.entity AS item,
    COALESCE(held.records, 0) AS value,
    CONCAT(
      CAST(COALESCE(held.records, 0) AS STRING),
      ' records in quarantine',
      COALESCE(CONCAT(', such as ', held.example), '')
    ) AS detail
  FROM entities
  LEFT JOIN held ON entities.entity = held.entity
)

SELECT * FROM final
