-- Grain: one row per customer, active or not, merged or not.
-- Source: raw_customers.
-- Purpose: the customer's name, and root_customer_id: the customer into whom it was merged at the end of the chain.
-- KPIs count the raw id; the root is for people who look a customer up.
-- Cluster: customer_id
-- Unbounded: a chain of merges may end at a customer of any age; four narrow columns are read.
WITH RECURSIVE customers AS (
  SELECT
    id,
    name,
    mergedToId AS merged_to_id,
    COALESCE(active, TRUE) AS is_active
  FROM st_raw_v2.raw_customers
),

-- Only merged customers walk the chain. The walk ends after 100 links, so that a circle in the data ends as well.
chain AS (
  SELECT merged.id, target.id AS root_id, target.merged_to_id AS next_id, 1 AS links
  FROM customers AS merged
  INNER JOIN customers AS target ON merged.merged_to_id = target.id
  UNION ALL
  SELECT chain.id, target.id AS root_id, target.merged_to_id AS next_id, chain.links + 1 AS links
  FROM chain
  INNER JOIN customers AS target ON chain.next_id = target.id
  WHERE chain.links < 100
),

roots AS (
  SELECT id, root_id
  FROM chain
  QUALIFY ROW_NUMBER() OVER (PARTITION BY id ORDER BY links DESC) = 1
),

final AS (
  SELECT
    customers.id AS customer_id,
    customers.name AS customer_name,
    customers.merged_to_id,
    COALESCE(roots.root_id, customers.id) AS root_customer_id,
    roots.root_id IS NOT NULL AS is_merged,
    COALESCE(LOWER(customers.name) LIKE '%test%', FALSE) AS is_test,
    customers.is_active
  FROM customers
  LEFT JOIN roots ON customers.id = roots.id
)

SELECT * FROM final
