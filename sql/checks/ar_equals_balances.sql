-- Grain: one row per rolled-up business unit with invoices; value: dollars that A/R is off.
-- Source: fact_receivables, dim_invoices.
-- Purpose: what was invoiced less what was applied, before locations below $10 are cut, must equal the active invoices'
-- own balances on the newest day. An invoice without a date counts on no day; where its balance is the reason, it is
-- named.
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
      )
    ) AS detail
  FROM balances
  LEFT JOIN movements ON balances.business_unit = movements.business_unit
  LEFT JOIN undated ON balances.business_unit = undated.business_unit
)

SELECT * FROM final
