-- Grain: one row per rolled-up business unit with invoices; value: dollars that A/R is off.
-- Source: fact_receivables, dim_invoices, raw_credit_memos.
-- Purpose: what was invoiced less what was applied, before locations below $10 are cut, must equal the active invoices'
-- own balances on the newest day. An invoice without a date counts on no day, and by the default definition no credit
-- memo does: where they are the reason, they are named.
-- Unbounded: a credit memo of any age may be applied to an invoice.
WITH movements AS (
  SELECT business_unit, SUM(amount) AS outstanding
  FROM st_mart_v2.fact_receivables
  GROUP BY business_unit
),

balances AS (
  SELECT business_unit, SUM(balance) AS balance
  FROM st_ref_v2.dim_invoices
  WHERE division IN ('Production', 'Both') AND is_active
  GROUP BY business_unit
),

undated AS (
  SELECT business_unit, SUM(balance) AS balance, MIN(invoice_number) AS invoice_number
  FROM st_ref_v2.dim_invoices
  WHERE division IN ('Production', 'Both') AND is_active AND invoice_date IS NULL AND balance != 0
  GROUP BY business_unit
),

credits AS (
  SELECT
    invoices.business_unit,
    SUM(SAFE_CAST(REPLACE(JSON_VALUE(application, '$.appliedAmount'), ',', '') AS NUMERIC)) AS amount
  FROM st_raw_v2.raw_credit_memos AS memos
  CROSS JOIN UNNEST(JSON_QUERY_ARRAY(memos.appliedTo)) AS application
  INNER JOIN st_ref_v2.dim_invoices AS invoices
    ON SAFE_CAST(JSON_VALUE(application, '$.appliedTo') AS INT64) = invoices.invoice_id
  WHERE COALESCE(memos.active, TRUE) AND invoices.is_active
  GROUP BY invoices.business_unit
),

final AS (
  SELECT
    balances.business_unit AS item,
    ABS(COALESCE(movements.outstanding, 0) - balances.balance) AS value,
    CONCAT(
      'movements $',
      CAST(CAST(ROUND(COALESCE(movements.outstanding, 0)) AS INT64) AS STRING),
      ', balances $',
      CAST(CAST(ROUND(balances.balance) AS INT64) AS STRING),
      COALESCE(
        CONCAT(
          ', of which $',
          CAST(CAST(ROUND(undated.balance) AS INT64) AS STRING),
          ' on invoices without a date, such as ',
          undated.invoice_number
        ),
        ''
      ),
      COALESCE(
        CONCAT(
          ', and $',
          CAST(CAST(ROUND(credits.amount) AS INT64) AS STRING),
          ' of credit memos lower the balances'
        ),
        ''
      )
    ) AS detail
  FROM balances
  LEFT JOIN movements ON balances.business_unit = movements.business_unit
  LEFT JOIN undated ON balances.business_unit = undated.business_unit
  LEFT JOIN credits ON balances.business_unit = credits.business_unit
)

SELECT * FROM final
