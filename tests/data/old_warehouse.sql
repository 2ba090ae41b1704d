-- The warehouse of an older pipeline, as it is beside ours: its tables, views, labels and descriptions, and a few rows.
-- Money is FLOAT64, most ids of purchase orders, returns and adjustments are hashes, and no row has what our ingest adds.
CREATE SCHEMA st_raw_v2 OPTIONS (description="Raw rows", labels=[("team", "ops")]);
CREATE SCHEMA st_ref_v2;
CREATE SCHEMA st_mart_v2 OPTIONS (labels=[("made_by", "pipeline")]);
CREATE SCHEMA st_logs_v2;

CREATE TABLE st_raw_v2.raw_jobs (
  id INT64 NOT NULL, jobNumber STRING, projectId INT64, customerId INT64, locationId INT64, jobStatus STRING,
  completedOn TIMESTAMP, businessUnitId INT64, jobTypeId INT64, priority STRING, campaignId INT64, summary STRING,
  customFields JSON, createdOn TIMESTAMP, createdById INT64, modifiedOn TIMESTAMP, tagTypeIds JSON, leadCallId INT64,
  bookingId INT64, soldById INT64, _ingested_at TIMESTAMP NOT NULL, _ingestion_source STRING NOT NULL
)
PARTITION BY DATE(modifiedOn)
CLUSTER BY businessUnitId, jobStatus
OPTIONS (description="Jobs", labels=[("team", "ops")]);

CREATE TABLE st_raw_v2.raw_invoices (
  id INT64 NOT NULL, syncStatus STRING, summary STRING, referenceNumber STRING OPTIONS (description="As typed"),
  invoiceDate TIMESTAMP, dueDate TIMESTAMP, subTotal FLOAT64, salesTax FLOAT64, total FLOAT64, balance FLOAT64,
  invoiceTypeId INT64, jobId INT64, projectId INT64, businessUnitId INT64, locationId INT64, customerId INT64,
  depositedOn TIMESTAMP, createdOn TIMESTAMP, modifiedOn TIMESTAMP, adjustmentToId INT64, status STRING,
  employeeId INT64, commissionEligibilityDate TIMESTAMP, items JSON, customFields JSON,
  _ingested_at TIMESTAMP NOT NULL, _ingestion_source STRING NOT NULL
)
PARTITION BY DATE(modifiedOn)
CLUSTER BY businessUnitId, jobId, status;

CREATE TABLE st_raw_v2.raw_locations (
  id INT64 NOT NULL, customerId INT64, active BOOL, name STRING, address JSON, taxZoneId INT64, zoneId INT64,
  createdOn TIMESTAMP, modifiedOn TIMESTAMP, customFields JSON, _ingested_at TIMESTAMP NOT NULL,
  _ingestion_source STRING NOT NULL
)
PARTITION BY DATE(modifiedOn)
CLUSTER BY customerId, active;

CREATE TABLE st_raw_v2.raw_payroll (
  id INT64 NOT NULL, payrollId INT64, employeeId INT64, employeeType STRING, businessUnitName STRING, date TIMESTAMP,
  activity STRING, amount FLOAT64, jobId INT64, jobNumber STRING, sourceEntityId INT64, createdOn TIMESTAMP,
  modifiedOn TIMESTAMP, _ingested_at TIMESTAMP NOT NULL, _ingestion_source STRING NOT NULL
);

CREATE TABLE st_raw_v2.raw_purchase_orders (
  id INT64 NOT NULL, purchaseOrderId INT64, number STRING, status STRING, vendorId INT64, jobId INT64, date TIMESTAMP,
  total FLOAT64, createdOn TIMESTAMP, modifiedOn TIMESTAMP, _ingested_at TIMESTAMP NOT NULL,
  _ingestion_source STRING NOT NULL
);

CREATE TABLE st_raw_v2.raw_payroll_adjustments (
  id INT64 NOT NULL, adjustment_id INT64, employeeId INT64, postedOn TIMESTAMP, amount FLOAT64, invoiceId INT64,
  createdOn TIMESTAMP, modifiedOn TIMESTAMP, _ingested_at TIMESTAMP NOT NULL, _ingestion_source STRING NOT NULL
);

CREATE TABLE st_raw_v2.raw_collections (
  id STRING NOT NULL, business_unit STRING, payment_date TIMESTAMP, amount FLOAT64, job_id INT64,
  _ingested_at TIMESTAMP NOT NULL, _ingestion_source STRING NOT NULL, raw JSON
);

CREATE TABLE st_ref_v2.dim_business_units (
  id INT64 NOT NULL, name STRING, active BOOL, officialName STRING, address JSON, timezone STRING,
  _ingested_at TIMESTAMP NOT NULL, _ingestion_source STRING NOT NULL
)
CLUSTER BY active, name;

CREATE TABLE st_ref_v2.dim_job_types (
  id INT64 NOT NULL, name STRING NOT NULL, active BOOL, createdOn TIMESTAMP, modifiedOn TIMESTAMP,
  _ingested_at TIMESTAMP NOT NULL, _ingestion_source STRING NOT NULL
);

CREATE TABLE st_logs_v2.ingestion_logs (
  entity_type STRING NOT NULL, run_id STRING NOT NULL, start_time TIMESTAMP NOT NULL, end_time TIMESTAMP,
  status STRING NOT NULL, records_fetched INT64, error_message STRING, metadata JSON
)
PARTITION BY DATE(start_time)
CLUSTER BY entity_type, status;

CREATE TABLE st_logs_v2.sync_state (
  entity_type STRING NOT NULL, last_sync_time TIMESTAMP NOT NULL, last_sync_status STRING, updated_at TIMESTAMP NOT NULL
);

INSERT INTO st_raw_v2.raw_jobs (id, jobNumber, jobStatus, createdOn, modifiedOn, _ingested_at, _ingestion_source)
VALUES
  (1, '1001', 'Completed', TIMESTAMP '2025-08-01 12:00:00+00', TIMESTAMP '2025-08-02 12:00:00+00', TIMESTAMP '2025-08-02 13:00:00+00', 'servicetitan_v2'),
  (2, '1002', 'Scheduled', TIMESTAMP '2025-08-01 12:00:00+00', TIMESTAMP '2025-08-02 12:00:00+00', TIMESTAMP '2025-08-02 13:00:00+00', 'servicetitan_v2');
INSERT INTO st_raw_v2.raw_purchase_orders (id, purchaseOrderId, number, total, createdOn, _ingested_at, _ingestion_source)
VALUES (8123456789, 99000001, 'PO-1', 12.5, TIMESTAMP '2024-08-01 12:00:00+00', TIMESTAMP '2025-08-02 13:00:00+00', 'servicetitan_v2');
INSERT INTO st_ref_v2.dim_business_units (id, name, active, _ingested_at, _ingestion_source)
VALUES (7, 'Phoenix - Sales', TRUE, TIMESTAMP '2025-08-02 13:00:00+00', 'servicetitan_v2');
INSERT INTO st_logs_v2.ingestion_logs (entity_type, run_id, start_time, status, records_fetched)
VALUES ('jobs', 'r1', TIMESTAMP '2025-08-02 13:00:00+00', 'success', 2);

CREATE VIEW st_mart_v2.leads_daily_bu OPTIONS (description="For Looker Studio") AS
SELECT DATE(createdOn) AS event_date, businessUnitId AS business_unit, COUNT(*) AS lead_count
FROM st_raw_v2.raw_jobs
GROUP BY event_date, business_unit;

CREATE VIEW st_mart_v2.regional_kpis OPTIONS (labels=[("dashboard", "owner")]) AS
SELECT event_date, 'Phoenix' AS region, lead_count, 0 AS estimate_count, 0.0 AS total_booked
FROM st_mart_v2.leads_daily_bu;

CREATE VIEW st_mart_v2.kpi_weekly_by_bu AS
SELECT business_unit AS bu_rollup, event_date AS week_start, lead_count AS leads FROM st_mart_v2.leads_daily_bu;

CREATE TABLE st_mart_v2.daily_kpis AS SELECT * FROM st_mart_v2.leads_daily_bu;
