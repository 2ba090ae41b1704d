-- Grain: one row per ServiceTitan business unit, active or not.
-- Source: raw_business_units; the company's business_units.csv, matched by exact name.
-- Purpose: the rolled-up name, region, division (Sales, Production, Both) and segment (RES, COMM) of every unit. A unit
-- that the CSV lacks keeps its own name and is flagged by is_mapped; a unit without a division counts as Both.
-- Unbounded: every unit is needed; there are some dozens.
WITH units AS (
  SELECT * FROM st_raw_v2.raw_business_units
),

mapping AS (
  SELECT *
  FROM st_ref_v2.business_unit_rollup
  -- A name that was entered twice must not double the unit's money.
  QUALIFY ROW_NUMBER() OVER (PARTITION BY business_unit ORDER BY `rollup`, region, division, segment) = 1
),

final AS (
  SELECT
    units.id AS business_unit_id,
    units.name AS unit_name,
    COALESCE(NULLIF(mapping.`rollup`, ''), units.name, CONCAT('Unit ', CAST(units.id AS STRING))) AS business_unit,
    NULLIF(mapping.region, '') AS region,
    COALESCE(NULLIF(TRIM(mapping.division), ''), 'Both') AS division,
    NULLIF(mapping.segment, '') AS segment,
    mapping.business_unit IS NOT NULL AS is_mapped,
    COALESCE(units.active, TRUE) AS is_active
  FROM units
  LEFT JOIN mapping ON TRIM(units.name) = mapping.business_unit
)

SELECT * FROM final
