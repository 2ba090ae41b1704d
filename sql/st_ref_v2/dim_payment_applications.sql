-- Grain: one row per application of an active payment to an invoice, known or not.
-- Source: the appliedTo list of raw_payments.
-- Purpose: which payment paid which invoice, how much and when. paid_date is the payment's calendar date, applied_date
-- the day of the application in the tenant's time zone.
-- Partition: TIMESTAMP_TRUNC(created_on, MONTH)
-- Cluster: invoice_id, payment_id
-- Replaces: created_on >= @replaced_from OR created_on IS NULL
WITH payments AS (
  SELECT *
  FROM st_raw_v2.raw_payments
  WHERE (createdOn >= @replaced_from OR createdOn IS NULL) AND COALESCE(active, TRUE)
),

applications AS (
  SELECT
    payments.id AS payment_id,
    payments.customerId AS customer_id,
    payments.businessUnitId AS business_unit_id,
    payments.date AS paid_date,
    payments.createdOn AS created_on,
    SAFE_CAST(JSON_VALUE(application, '$.appliedId') AS INT64) AS application_id,
    SAFE_CAST(JSON_VALUE(application, '$.appliedTo') AS INT64) AS invoice_id,
    SAFE_CAST(REPLACE(JSON_VALUE(application, '$.appliedAmount'), ',', '') AS NUMERIC) AS amount,
    -- A TIMESTAMP holds six of ServiceTitan's seven fractional digits.
    SAFE_CAST(
      REGEXP_REPLACE(JSON_VALUE(application, '$.appliedOn'), r'(\.[0-9]{6})[0-9]+', r'\1') AS TIMESTAMP
    ) AS applied_on
  FROM payments
  CROSS JOIN UNNEST(JSON_QUERY_ARRAY(payments.appliedTo)) AS application
),

final AS (
  SELECT
    payment_id,
    application_id,
    invoice_id,
    customer_id,
    business_unit_id,
    COALESCE(amount, 0) AS amount,
    paid_date,
    DATE(applied_on, @time_zone) AS applied_date,
    created_on
  FROM applications
)

SELECT * FROM final
