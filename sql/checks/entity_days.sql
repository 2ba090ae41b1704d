-- Grain: one row per entity and day, from the entity's first record to as_of, also where nothing happened.
-- Source: st_raw_v2.all_records, which is every entity of lib/stkpi/servicetitan/entities.py; by creation day (payroll by
-- the day that was worked).
-- Purpose: what coverage, volume and the age of the newest record are judged by. A day without rows is a row.
WITH records AS (
  SELECT entity, day
  FROM st_raw_v2.all_records
  WHERE day IS NOT NULL
),

counts AS (
  SELECT entity, day, COUNT(*) AS records
  FROM records
  GROUP BY entity, day
),

starts AS (
  SELECT entity, MIN(day) AS first_day
  FROM records
  GROUP BY entity
),

calendar AS (
  SELECT starts.entity, day
  FROM starts
  CROSS JOIN UNNEST(GENERATE_DATE_ARRAY(DATE '2000-01-01', @as_of)) AS day
  WHERE day >= starts.first_day
),

final AS (
  SELECT calendar.entity, calendar.day, COALESCE(counts.records, 0) AS records
  FROM calendar
  LEFT JOIN counts ON calendar.entity = counts.entity AND calendar.day = counts.day
)

SELECT * FROM final
