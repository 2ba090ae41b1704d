-- Grain: one row per row of a table of invoices that another program wrote (old_invoices stands for it).
-- Source: that table; raw_invoices for the record as ServiceTitan gives it now, by the invoice's id.
-- Purpose: its rows as invoice_links.sql reads invoices. What it says itself is kept; its job and unit may be missing.
SELECT
  old.id,
  CAST(old.id AS STRING) AS _key,
  -- The day of a row without a date is not known: it is only looked at when all days are.
  COALESCE(old.createdOn, current_rows.createdOn, TIMESTAMP '2000-01-02 00:00:00+00') AS createdOn,
  old.modifiedOn,
  old.referenceNumber,
  old.jobId,
  old.jobNumber,
  old.businessUnitId,
  COALESCE(old.customerId, current_rows.customerId) AS customerId,
  current_rows._record
FROM old_invoices AS old
LEFT JOIN st_raw_v2.raw_invoices AS current_rows ON old.id = current_rows.id
