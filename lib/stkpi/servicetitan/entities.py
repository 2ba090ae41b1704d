"""The registry: what ServiceTitan holds, where to read it, and how a record becomes a typed row.

One `Entity` per raw table. Everything else derives from it: the requests of the ingest, the DDL of the raw table, the
GoogleSQL that types a landed record, the drift report, the keys of the MERGE. Paths, filters and fields are those of
ServiceTitan's published v2 API description (2026-03).
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Literal

LATE = timedelta(days=4)  # a change may become visible so long after its modifiedOn
Type = Literal["INT64", "STRING", "NUMERIC", "FLOAT64", "BOOL", "TIMESTAMP", "DATE", "JSON"]


@dataclass(frozen=True)
class Field:
    """A typed column of a raw table.

    `paths` are tried in order inside the record: ServiceTitan nests what older exports had flat (`job.id`, `jobId`).
    DATE is for calendar dates, which arrive as midnight UTC and must not be shifted to a zone; TIMESTAMP for instants.
    needed: the object that holds the value always has it: a record whose object lacks it cannot be used
    elements: of a JSON column that is a list, the fields that each of its elements must have
    """

    name: str
    type: Type
    paths: tuple[str, ...] = ()
    needed: bool = False
    elements: tuple[Field, ...] = ()

    @property
    def sources(self) -> tuple[str, ...]:
        """The JSON paths of the value, without `$.`."""
        return self.paths or (self.name,)


@dataclass(frozen=True)
class Entity:
    """One kind of record: the endpoint that lists it, the filters that select it, and its columns.

    name: the entity as people type it; its table is `raw_<name>`
    path: the list endpoint below the base URL of the API, with `{tenant}` to fill in
    everything: the parameters that make the list include inactive records
    window: the pair of filters (start inclusive, end) that cuts the history into windows
    incremental: how a nightly run finds what changed
        feed      the export feed, from a day before the watermark
        modified  the list by modifiedOnOrAfter, where there is no feed
        slices    the calendar slices of the last `lookback`, replaced as a whole, because rows have no usable key
        whole     the whole list, because it is small
    also: more list filters, for changes that do not update modifiedOn
    lookback: how far behind the watermark an incremental run starts: what was dated up to so long before it became
        visible arrives
    feed_only: fields that only the feed has; they are left out, or one record would have two hashes
    known: top-level fields that stay in the record only; a field in neither `fields` nor `known` is drift
    keyless: whether rows may come without an id: their key is a digest of the row, and an ordinal among equal ones
    is_feed: whether `path` is an export feed itself, which no list stands beside
    may_be_empty: whether there are companies that have no such records at all
    optional: whether a night goes on, and the figures are built without them, where the API application may not read
        them; every such night says so
    """

    name: str
    path: str
    fields: tuple[Field, ...]
    everything: tuple[tuple[str, str], ...] = ()
    window: tuple[str, str] = ("createdOnOrAfter", "createdBefore")
    incremental: Literal["feed", "modified", "slices", "whole"] = "feed"
    also: tuple[str, ...] = ()
    lookback: timedelta = LATE
    feed_only: tuple[str, ...] = ()
    known: tuple[str, ...] = ()
    keyless: bool = False
    is_feed: bool = False
    may_be_empty: bool = False
    optional: bool = False

    @property
    def identifier(self) -> str:
        """Its name as a part of the names of tables and files."""
        return re.sub(r"\W", "_", self.name)

    @property
    def table(self) -> str:
        """The raw table, with its dataset."""
        return f"st_raw_v2.raw_{self.identifier}"

    @property
    def resource(self) -> str:
        """What the endpoint lists, as ServiceTitan calls it."""
        return self.path.partition("{tenant}/")[2].removesuffix("/paginated")

    @property
    def grows(self) -> bool:
        """Whether records are added day by day; the other entities are short lists, read whole every time."""
        return self.incremental != "whole"

    @property
    def day_column(self) -> str:
        """The column that says which day a record belongs to: `date` (a calendar date) or `createdOn` (an instant)."""
        return "date" if self.incremental == "slices" else "createdOn"

    @property
    def feed_path(self) -> str:
        """The export feed: the twin of the list, or the endpoint itself."""
        return self.path if self.is_feed else self.path.replace("{tenant}/", "{tenant}/export/")

    def find_place(self, column: str) -> str:
        """Return where in the record the value of a column is, without `$.`; the name itself where it is no column."""
        return next((field.sources[0] for field in self.fields if field.name == column), column)

    @property
    def known_names(self) -> frozenset[str]:
        """The top-level field names that a record may have."""
        typed = {source.partition(".")[0] for field in self.fields for source in field.sources}
        return frozenset(typed | set(self.known))

    def find_drift(self, names: set[str]) -> tuple[str, ...]:
        """Return the field names that the registry does not know, sorted. Their values stay in the record column."""
        return tuple(sorted(names - self.known_names))

    def find_missing(self, names: set[str]) -> tuple[str, ...]:
        """Return the columns that are NULL in all records that have only these top-level fields, sorted."""
        heads = {field.name: {source.partition(".")[0] for source in field.sources} for field in self.fields}
        return tuple(sorted(column for column, sources in heads.items() if not sources & names))


# Load metadata of every raw table. `_key` is the id as text, or a digest and an ordinal for rows without one; `_hash`
# is the SHA-256 of the record with sorted keys, so that either engine recognizes an unchanged record.
METADATA: tuple[Field, ...] = (
    Field("_key", "STRING"),
    Field("_hash", "STRING"),
    Field("_record", "JSON"),
    Field("_run_id", "STRING"),
    Field("_ingested_at", "TIMESTAMP"),
    Field("_source", "STRING"),
)
# The columns of a landing file: one line per fetched record, in the order of reading. `refused` is the reason why a
# record could not be loaded; its line then holds only the fields that identify it.
LANDING: tuple[Field, ...] = (
    Field("seq", "INT64"),
    Field("digest", "STRING"),
    Field("record", "JSON"),
    Field("refused", "STRING"),
)


def _make_columns(kind: Type) -> Callable[[str], tuple[Field, ...]]:
    return lambda names: tuple(Field(name, kind) for name in names.split())


_ints, _strings, _money = _make_columns("INT64"), _make_columns("STRING"), _make_columns("NUMERIC")
_bools, _instants, _dates = _make_columns("BOOL"), _make_columns("TIMESTAMP"), _make_columns("DATE")
_json = _make_columns("JSON")
_CREATED = _instants("createdOn modifiedOn")
_ANY = (("active", "Any"),)
_ALL = (("activeState", "All"),)


def _make_entity(
    name: str, module: str, resource: str, *fields: tuple[Field, ...], known: str = "", **rest: Any
) -> Entity:
    path = f"{module}/v2/tenant/{{tenant}}/{resource}"
    return Entity(name, path, tuple(f for group in fields for f in group), known=tuple(known.split()), **rest)


_HISTORY = (
    _make_entity(
        "jobs",
        "jpm",
        "jobs",
        _ints(
            "id projectId customerId locationId businessUnitId jobTypeId campaignId appointmentCount firstAppointmentId"
            " lastAppointmentId recallForId warrantyId createdById leadCallId bookingId soldById invoiceId membershipId"
            " createdFromEstimateId"
        ),
        _strings("jobNumber jobStatus priority customerPo summary"),
        _bools("noCharge"),
        _money("total"),
        _instants("completedOn"),
        _CREATED,
        _json("tagTypeIds estimateIds"),
        feed_only=("active",),
        known="active jobGeneratedLeadSource notificationsEnabled partnerLeadCallId customFields externalData"
        " equipmentIds isAutoDispatched summaryOfWork",
    ),
    _make_entity(
        "appointments",
        "jpm",
        "appointments",
        _ints("id jobId customerId createdById"),
        _strings("appointmentNumber status"),
        _bools("active unused isConfirmed"),
        _instants("start end arrivalWindowStart arrivalWindowEnd"),
        _CREATED,
        everything=_ANY,
        known="specialInstructions appointmentSummaries",
    ),
    _make_entity(
        "invoices",
        "accounting",
        "invoices",
        _ints("id adjustmentToId projectId membershipId"),
        (
            Field("jobId", "INT64", ("job.id", "jobId"), needed=True),
            # The published field is job.number; the old pipeline looked for job.jobNumber and found NULL.
            Field("jobNumber", "STRING", ("job.number", "jobNumber", "job.jobNumber")),
            Field("businessUnitId", "INT64", ("businessUnit.id", "businessUnitId"), needed=True),
            Field("businessUnitName", "STRING", ("businessUnit.name", "businessUnitName")),
            Field("customerId", "INT64", ("customer.id", "customerId"), needed=True),
            Field("locationId", "INT64", ("location.id", "locationId"), needed=True),
            Field("batchId", "INT64", ("batch.id", "batchId")),
        ),
        _strings("referenceNumber syncStatus termName reviewStatus sentStatus invoiceConfiguration"),
        (Field("invoiceType", "STRING", ("invoiceType.name",)),),
        _bools("active"),
        _money("subTotal salesTax total balance discountTotal"),
        _dates("invoiceDate dueDate"),
        _instants("depositedOn paidOn"),
        _CREATED,
        (Field("items", "JSON", elements=(*_strings("type"), *_money("totalCost"))),),
        everything=_ALL,
        known="budgetCodeId salesTaxCode taxZoneId customerAddress locationAddress createdBy royalty employeeInfo"
        " commissionEligibilityDate assignedTo summary customFields importId exportId materialSkuId",
    ),
    _make_entity(
        "estimates",
        "sales",
        "estimates",
        _ints("id jobId projectId locationId customerId soldBy businessUnitId"),
        _strings("name jobNumber reviewStatus businessUnitName"),
        (Field("status", "STRING", ("status.name",), needed=True), Field("statusValue", "STRING", ("status.value",))),
        _bools("active isRecommended isChangeOrder"),
        _money("subtotal tax"),
        _instants("soldOn"),
        _CREATED,
        _json("items"),
        everything=_ANY,
        also=("soldAfter",),
        known="summary externalLinks budgetCodeId proposalTagName requireDepositOnSignature depositAmount"
        " depositPercent",
    ),
    _make_entity(
        "payments",
        "accounting",
        "payments",
        _ints("id refundedPaymentId"),
        (
            Field("customerId", "INT64", ("customer.id", "customerId"), needed=True),
            Field("businessUnitId", "INT64", ("businessUnit.id", "businessUnitId"), needed=True),
            Field("businessUnitName", "STRING", ("businessUnit.name", "businessUnitName")),
        ),
        _strings("referenceNumber type typeId syncStatus checkNumber memo"),
        _bools("active"),
        _money("total unappliedAmount"),
        _dates("date"),
        _CREATED,
        (
            Field(
                "appliedTo",
                "JSON",
                elements=(*_ints("appliedTo"), *_money("appliedAmount"), *_instants("appliedOn")),
            ),
        ),
        everything=_ALL,
        known="authCode batch createdBy customFields deposit generalLedgerAccount",
    ),
    _make_entity(
        "payroll",
        "payroll",
        "gross-pay-items",
        _ints(
            "id employeeId payrollId activityCodeId sourceEntityId jobId projectId invoiceId invoiceItemId customerId"
            " locationId laborTypeId"
        ),
        _strings(
            "employeeType businessUnitName payoutBusinessUnitName employeePayrollId activity activityCode"
            " grossPayItemType paidTimeType jobNumber jobTypeName projectNumber invoiceNumber memo"
        ),
        _money("amount amountAdjustment paidDurationHours"),
        _dates("date"),
        _instants("startedOn endedOn"),
        _CREATED,
        window=("dateOnOrAfter", "dateOnOrBefore"),
        incremental="slices",
        keyless=True,
        # Operators saw gross pay items appear until about 45 days after their date.
        lookback=timedelta(days=45),
        feed_only=("active",),
        known="active customerName locationName locationAddress locationZip zoneName taxZoneName laborTypeCode"
        " budgetCodeId isPrevailingWageJob",
    ),
    _make_entity(
        "payroll_adjustments",
        "payroll",
        "payroll-adjustments",
        _ints("id employeeId activityCodeId invoiceId"),
        _strings("employeeType memo type"),
        _bools("active"),
        _money("amount hours rate quantity"),
        _instants("postedOn"),
        _CREATED,
        everything=_ANY,
    ),
    _make_entity(
        "customers",
        "crm",
        "customers",
        _ints("id mergedToId createdById paymentTermId"),
        _strings("name type"),
        _bools("active taxExempt doNotMail doNotService nationalAccount"),
        _money("balance creditLimit creditLimitBalance"),
        _CREATED,
        _json("tagTypeIds"),
        everything=_ANY,
        known="address customFields externalData",
    ),
    _make_entity(
        "locations",
        "crm",
        "locations",
        _ints("id customerId mergedToId zoneId taxZoneId createdById"),
        _strings("name"),
        _bools("active taxExempt"),
        _CREATED,
        _json("tagTypeIds"),
        everything=_ANY,
        known="address customFields externalData",
    ),
    _make_entity(
        "purchase_orders",
        "inventory",
        "purchase-orders",
        _ints("id invoiceId jobId projectId typeId vendorId technicianId businessUnitId inventoryLocationId batchId"),
        _strings("number status vendorDocumentNumber"),
        _money("total tax shipping"),
        _instants("date requiredOn sentOn receivedOn"),
        _CREATED,
        _json("items"),
        known="shipTo budgetCodeId summary customFields createdById",
    ),
    _make_entity(
        "returns",
        "inventory",
        "returns",
        _ints("id vendorId purchaseOrderId jobId projectId businessUnitId inventoryLocationId createdById batchId"),
        _strings("number referenceNumber status syncStatus"),
        _bools("active"),
        _money("returnAmount taxAmount shippingAmount"),
        _instants("returnDate returnedOn creditReceivedOn dateCanceled"),
        _CREATED,
        _json("items"),
        everything=_ANY,
        known="budgetCodeId memo batch canceledById canceledReason customFields externalData returnTypeId",
    ),
    _make_entity(
        "vendor_bills",
        "accounting",
        # Without /paginated, the answer is a bare array, which says neither how many rows there are nor whether more.
        "inventory-bills/paginated",
        _ints("id purchaseOrderId jobId"),
        (
            Field("businessUnitId", "INT64", ("businessUnit.id",)),
            Field("vendorId", "INT64", ("vendor.id",)),
        ),
        _strings("jobNumber referenceNumber vendorNumber syncStatus"),
        _money("billAmount taxAmount shippingAmount otherAmount"),
        _instants("billDate dueDate postDate dateReconciled"),
        _CREATED,
        _json("items"),
        # As with jobs, the export feed adds `active`.
        incremental="modified",
        known="active batch budgetCodeId createdBy customFields landedCostMethod shipTo shipToDescription summary"
        " taxZone termName",
        may_be_empty=True,
        optional=True,
    ),
    _make_entity(
        "credit_memos",
        "accounting",
        "credit-memos",
        _ints("id"),
        (
            Field("customerId", "INT64", ("customer.id",), needed=True),
            Field("locationId", "INT64", ("location.id",), needed=True),
            Field("businessUnitId", "INT64", ("businessUnit.id",), needed=True),
        ),
        _strings("referenceNumber syncStatus"),
        _bools("active"),
        _money("subTotal salesTax total balance"),
        _dates("date"),
        _CREATED,
        (
            Field(
                "appliedTo", "JSON", elements=(*_ints("appliedTo"), *_money("appliedAmount"), *_instants("appliedOn"))
            ),
        ),
        everything=_ANY,
        incremental="modified",  # they have no export feed
        known="salesTaxCode customerAddress locationAddress batch customFields createdBy modifiedBy description"
        " importId exportId",
        may_be_empty=True,
        optional=True,
    ),
)

_REFERENCES = (
    _make_entity(
        "business_units",
        "settings",
        "business-units",
        _ints("id"),
        _strings("name officialName accountCode quickbooksClass"),
        (Field("division", "STRING", ("division.name",)), Field("trade", "STRING", ("trade.name",))),
        _bools("active"),
        _CREATED,
        everything=_ANY,
        incremental="whole",
        known="email currency phoneNumber invoiceHeader invoiceMessage defaultTaxRate authorizationParagraph"
        " acknowledgementParagraph address materialSku franchiseId conceptCode corporateContractNumber tagTypeIds"
        " certifiedSentriconSpecialistCode"
        " tenant externalData",
    ),
    _make_entity(
        "job_types",
        "jpm",
        "job-types",
        _ints("id duration"),
        _strings("name priority class"),
        _bools("active noCharge"),
        _money("soldThreshold"),
        _CREATED,
        _json("businessUnitIds"),
        everything=_ANY,
        incremental="whole",
        known="skills tagTypeIds summary enforceRecurringServiceEventSelection invoiceSignaturesRequired externalData"
        " isSmartDispatched customFieldTypeIds defaultEstimateSoldAction",
    ),
    _make_entity(
        "technicians",
        "settings",
        "technicians",
        _ints("id userId businessUnitId mainZoneId"),
        _strings("name team status payrollId"),
        _bools("active isManagedTech"),
        _money("dailyGoal burdenRate commissionRate hourlyRate soldByRate"),
        _CREATED,
        everything=_ANY,
        incremental="whole",
        # The API spells it `appoitmentId`.
        known="roleIds zoneIds email phoneNumber loginName home licenseType customFields aadUserId jobFilter"
        " permissions accountLocked currentValue firstName lastName jobId mobilePhone outboundCallerId payrollProfileId"
        " appoitmentId shiftStart shiftEnd startDate skills positions location bio memo",
    ),
    _make_entity(
        "employees",
        "settings",
        "employees",
        _ints("id userId managerId businessUnitId"),
        _strings("name role"),
        _bools("active"),
        _money("hourlyRate"),
        _instants("startDate terminationDate"),
        _CREATED,
        everything=_ANY,
        incremental="whole",
        known="firstName lastName roleIds email phoneNumber loginName aadUserId accountLocked home agentId"
        " overtimeProfileId customFields permissions",
    ),
    _make_entity(
        "activity_codes",
        "payroll",
        "activity-codes",
        _ints("id"),
        _strings("name code earningCategory"),
        _bools("active"),
        _CREATED,
        everything=_ANY,
        incremental="whole",
        known="isDiscretionary",
    ),
    _make_entity(
        "tag_types",
        "settings",
        "tag-types",
        _ints("id"),
        _strings("name color code importance"),
        _bools("active isConversionOpportunity allowToUseOnTimesheetActivity isVisibleOnDispatchBoard"),
        _CREATED,
        everything=_ANY,
        incremental="whole",
    ),
    _make_entity(
        "campaigns",
        "marketing",
        "campaigns",
        _ints("id"),
        _strings("name source otherSource businessUnit medium otherMedium"),
        (Field("category", "STRING", ("category.name",)),),
        _bools("active isDefaultCampaign"),
        _CREATED,
        everything=_ANY,
        incremental="whole",
        known="campaignPhoneNumbers",
    ),
)

ENTITIES: dict[str, Entity] = {entity.name: entity for entity in _REFERENCES + _HISTORY}


# --- the GoogleSQL that derives from the registry -------------------------------------------------------------------

ALL_RECORDS = "st_raw_v2.all_records"
GROUPED = r"^[+-]?[0-9]{1,3}(,[0-9]{3})+(\.[0-9]*)?$"  # a number with commas between its thousands


def with_all_records(sql: str) -> str:
    """Fill in the logical table st_raw_v2.all_records: one row per record of every entity in the registry.

    Its columns are entity, _key, day (by @time_zone, payroll by the day worked; NULL for the lists that are read
    whole), modifiedOn and _ingested_at. BigQuery reads only the columns that the statement uses.
    """
    branches = []
    for entity in ENTITIES.values():
        day = "date" if entity.day_column == "date" else f"DATE({entity.day_column}, @time_zone)"
        day = day if entity.grows else "CAST(NULL AS DATE)"
        branches.append(
            f"  SELECT '{entity.name}' AS entity, _key, {day} AS day, modifiedOn, _ingested_at FROM {entity.table}"
        )
    union = "\n  UNION ALL\n".join(branches)
    return sql.replace(f"FROM {ALL_RECORDS}", f"FROM (\n{union}\n)")


def _extraction_sql(field: Field) -> str:
    """Return the expression that reads a field from the record, as text (JSON as JSON)."""
    if field.type == "JSON":
        return f"JSON_QUERY(record, '$.{field.sources[0]}')"
    values = [f"JSON_VALUE(record, '$.{source}')" for source in field.sources]
    value = values[0] if len(values) == 1 else f"COALESCE({', '.join(values)})"
    if field.type == "INT64":  # an id may come as 7.0
        value = f"REGEXP_REPLACE({value}, r'^(-?[0-9]+)\\.0+$', r'\\1')"
    return value if field.type == "STRING" else f"NULLIF({value}, '')"


def moment_sql(text: str) -> str:
    """Return the expression for the instant that a text means; NULL for what is no date of this world (1990 to 2100).

    An import writes year 1 where it knows none; of that, BigQuery cannot take the day in a zone.
    """
    return f"IF(SUBSTR({text}, 1, 4) BETWEEN '1990' AND '2100', {_cast_moment_sql(text)}, NULL)"


def _cast_moment_sql(text: str) -> str:
    """Cast a text to a TIMESTAMP, which holds 6 of the up to 7 fractional digits that ServiceTitan sends."""
    return f"SAFE_CAST(REGEXP_REPLACE({text}, r'(\\.[0-9]{{6}})[0-9]+', r'\\1') AS TIMESTAMP)"


def _value_sql(field: Field) -> str:
    """Return the expression for the value of a column: that of the cast, but NULL for what is no date of this world."""
    text = f"`{field.name}`"
    if field.type == "TIMESTAMP":
        return moment_sql(text)
    if field.type == "DATE":
        return f"IF(SUBSTR({text}, 1, 4) BETWEEN '1990' AND '2100', {_cast_sql(field)}, NULL)"
    return _cast_sql(field)


def _cast_sql(field: Field) -> str:
    """Return the expression that casts the extracted text to the type of the column; NULL if it does not fit."""
    text = f"`{field.name}`"
    match field.type:
        case "STRING" | "JSON":
            return text
        case "NUMERIC":
            return f"SAFE_CAST({plain_number_sql(text)} AS NUMERIC)"
        case "TIMESTAMP":
            return _cast_moment_sql(text)
        case "DATE":
            return f"SAFE_CAST(SUBSTR({text}, 1, 10) AS DATE)"
        case _:
            return f"SAFE_CAST({text} AS {field.type})"


def plain_number_sql(text: str) -> str:
    """Return the expression for a number's text without the commas between its thousands: 1234.50 for 1,234.50.

    Where commas stand anywhere else ("1.234,50", "1,2,3") they stay, and the cast of the text fails.
    """
    return f"IF(REGEXP_CONTAINS({text}, r'{GROUPED}'), REPLACE({text}, ',', ''), {text})"


def projection_sql(entity: Entity, landing: str) -> str:
    """Return the SELECT that types the landed records of table `landing` (columns of LANDING).

    Its columns: those of the entity, `_key`, `_hash`, `_record`, `_seq` and `_reject`, which is NULL or the reason why
    the row must go to quarantine (no key, or a value that does not have the type of its column).
    """
    text_fields = [f for f in entity.fields if f.type not in ("STRING", "JSON")]
    extracted = ",\n    ".join(f"{_extraction_sql(f)} AS `{f.name}`" for f in entity.fields)
    typed = ",\n    ".join(f"{_value_sql(f)} AS `{f.name}`" for f in entity.fields)
    key = "`id`"
    if entity.keyless:
        # Neither the id nor any pair of fields is a key here: the ordinal distinguishes equal rows.
        ordinal = "CAST(ROW_NUMBER() OVER (PARTITION BY digest ORDER BY seq) AS STRING)"
        key = f"CONCAT(digest, '-', {ordinal})"
        if any(field.name == "id" for field in entity.fields):
            key = f"COALESCE(NULLIF(`id`, '0'), {key})"
    reasons = "\n      ".join(
        f"WHEN `{f.name}` IS NOT NULL AND {_cast_sql(f)} IS NULL"
        f" THEN CONCAT('{f.name} is not {f.type}: ', SUBSTR(`{f.name}`, 1, 40))"
        for f in text_fields
    )
    return (
        f"WITH extracted AS (\n  SELECT\n    seq,\n    digest,\n    record,\n    refused,\n    {extracted}\n"
        f"  FROM {landing}\n)\n"
        f"SELECT\n    {typed},\n    {key} AS _key,\n    digest AS _hash,\n    record AS _record,\n    seq AS _seq,\n"
        f"    CASE\n      WHEN refused IS NOT NULL THEN refused\n      WHEN {key} IS NULL THEN 'id is missing'\n"
        f"      {reasons}\n    END AS _reject\nFROM extracted"
    )


def typing_sql(entity: Entity, batch: str) -> str:
    """Return the SELECT that types a batch of records whose values are columns already (see `landing.make_table`).

    It gives what `projection_sql` gives, at a tenth of the cost; but where a record has a value that it cannot type, or
    no id, `_reject` is an empty text: that record needs a second look, by `projection_sql`. For DuckDB, which takes a
    moment with 7 fractional digits.
    """
    cast = {f.name: _simple_cast_sql(f) for f in entity.fields if f.type in ("NUMERIC", "TIMESTAMP", "DATE")}
    typed = ",\n  ".join(map(_typed_sql, entity.fields))
    casts = "".join(f",\n    {expression} AS `_cast_{name}`" for name, expression in cast.items())
    key = "CAST(id AS STRING)"
    if entity.keyless:
        key = "CONCAT(_digest, '-', CAST(_ordinal AS STRING))"
        if any(field.name == "id" for field in entity.fields):
            key = f"COALESCE(NULLIF(CAST(id AS STRING), '0'), {key})"
    odd = ["NOT _fits", f"{key} IS NULL", *(f"(`{name}` IS NOT NULL AND `_cast_{name}` IS NULL)" for name in cast)]
    return (
        f"WITH cast_values AS (\n  SELECT\n    *{casts}\n  FROM {batch}\n)\n"
        f"SELECT\n  {typed},\n  {key} AS _key,\n  _digest AS _hash,\n  PARSE_JSON(_text) AS _record,\n  _seq,\n"
        f"  COALESCE(_refused, IF({' OR '.join(odd)}, '', NULL)) AS _reject\nFROM cast_values"
    )


def _simple_cast_sql(field: Field) -> str:
    """Return the cast of a text as it is usually written; NULL for one that needs a second look."""
    text = f"SUBSTR(`{field.name}`, 1, 10)" if field.type == "DATE" else f"`{field.name}`"
    return f"SAFE_CAST({text} AS {field.type})"


def _typed_sql(field: Field) -> str:
    """Return the column of `typing_sql` for a field."""
    match field.type:
        case "TIMESTAMP" | "DATE":
            value = f"IF(SUBSTR(`{field.name}`, 1, 4) BETWEEN '1990' AND '2100', `_cast_{field.name}`, NULL)"
        case "NUMERIC":
            value = f"`_cast_{field.name}`"
        case "JSON":
            value = f"PARSE_JSON(`{field.name}`)"
        case _:
            return f"`{field.name}`"
    return f"{value} AS `{field.name}`"
