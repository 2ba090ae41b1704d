-- Grain: one row per entity; value: records that say they were modified more than a day after they were read.
-- Source: st_raw_v2.all_records, which is every entity of lib/stkpi/servicetitan/entities.py.
-- Purpose: such a mark is wrong. The ingest does not believe it, but somebody's clock or import is at fault.
WITH records AS (
  SELECT entity, _key, modifiedOn > TIMESTAMP_ADD(_ingested_at, INTERVAL 1 DAY) AS is_ahead
  FROM st_raw_v2.all_records
),

final AS (
  SELECT
    entity AS item,
    COUNTIF(is_ahead) AS value,
    CONCAT(
      CAST(COUNTIF(is_ahead) AS STRING),
      ' are modified in the future',
      COALESCE(CONCAT(', such as ', MIN(IF(is_ahead, _key, NULL))), '')
    ) AS detail
  FROM records
  GROUP BY entity
)

SELECT * FROM final
