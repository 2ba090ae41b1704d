-- Grain: one row per movement of an invoice: what was invoiced (+ total), what was applied to it (- applied amount).
-- Source: dim_invoices, dim_payment_applications. ServiceTitan's report: AR Report.
-- Purpose: Outstanding A/R of a day = the sum of amount up to that day, without the locations whose movements in the unit
-- net to less than $10 on it. event_date is the invoice's calendar date, or the day of the application. Active invoices
-- of Production units; an application to any other invoice is no movement.
-- Partition: DATE_TRUNC(event_date, MONTH)
-- Cluster: business_unit, job_id
-- Replaces: event_date >= @changed_from AND root_created >= @created_from
WITH invoices AS (
  SELECT * FROM st_ref_v2.dim_invoices WHERE root_created >= @created_from AND division = 'Production'
),

applications AS (
  SELECT * FROM st_ref_v2.dim_payment_applications WHERE root_created >= @created_from
),

movements AS (
  SELECT
    invoice_id,
    NULL AS payment_id,
    NULL AS application_id,
    'invoiced' AS movement,
    invoice_date AS event_date,
    total AS amount
  FROM invoices
  UNION ALL
  SELECT
    invoice_id,
    payment_id,
    application_id,
    'applied' AS movement,
    applied_date AS event_date,
    -amount AS amount
  FROM applications
),

final AS (
  SELECT
    movements.event_date,
    invoices.business_unit,
    invoices.unit_name,
    invoices.region,
    invoices.segment,
    invoices.customer_id,
    invoices.location_id,
    movements.invoice_id,
    invoices.invoice_number,
    movements.payment_id,
    movements.application_id,
    invoices.job_id,
    invoices.job_number,
    movements.movement,
    movements.amount,
    invoices.root_created
  FROM movements
  INNER JOIN invoices ON movements.invoice_id = invoices.invoice_id
  WHERE movements.event_date IS NOT NULL
)

SELECT * FROM final WHERE event_date >= @changed_from
