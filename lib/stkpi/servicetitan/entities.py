"""The registry: what ServiceTitan holds, where it is read, and how a record becomes a typed row.

One `Entity` per raw table. Everything else derives from it: the requests of the ingest, the DDL of the raw table, the
GoogleSQL projection that types a landed record, the drift report, the keys of the MERGE. The source of the paths,
filters and fields is ServiceTitan's published v2 API description (2026-03).
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Literal

from stkpi.errors import UserError

Type = Literal["INT64", "STRING", "NUMERIC", "FLOAT64", "BOOL", "TIMESTAMP", "DATE", "JSON"]


@dataclass(frozen=True)
class Field:
    """A typed column of a raw table.

    `paths` are tried in order inside the record: ServiceTitan nests what older exports had flat (`job.id`, `jobId`).
    DATE is for calendar dates, which arrive as midnight UTC and must not be shifted; instants are TIMESTAMP.
    """

    name: str
    type: Type
    paths: tuple[str, ...] = ()

    @property
    def sources(self) -> tuple[str, ...]:
        """The JSON paths of the value, `$.` left out."""
        return self.paths or (self.name,)


@dataclass(frozen=True)
class Entity:
    """One kind of record: where it is listed, which filters select it, and its columns.

    name: the entity as people type it, and `raw_<name>` its table
    path: list endpoint below the API's base, `{tenant}` to be filled in
    everything: the parameters without which the list hides inactive records
    window: the pair of filters (start inclusive, end) that cuts the history into windows
    incremental: how a nightly run finds what changed
        feed      the export feed, from the stored continuation token
        modified  the list by modifiedOnOrAfter (where the feed describes the record differently from the list)
        slices    the calendar slices of the last `lookback`, replaced as a whole, because rows have no usable key
        whole     the whole list, because it is small
    also: further list filters that find changes which do not bump modifiedOn
    lookback: how far behind the watermark an incremental run starts
    known: top-level fields that stay in the record only; what is in neither `fields` nor `known` is drift
    """

    name: str
    path: str
    fields: tuple[Field, ...]
    everything: tuple[tuple[str, str], ...] = ()
    window: tuple[str, str] = ("createdOnOrAfter", "createdBefore")
    incremental: Literal["feed", "modified", "slices", "whole"] = "feed"
    also: tuple[str, ...] = ()
    lookback: timedelta = timedelta(days=1)
    known: tuple[str, ...] = ()

    @property
    def table(self) -> str:
        """The raw table, with its dataset."""
        return f"st_raw_v2.raw_{self.name}"

    @property
    def feed_path(self) -> str:
        """The export twin of the list endpoint."""
        head, _, tail = self.path.rpartition("/")
        return f"{head}/export/{tail}"

    @property
    def known_names(self) -> frozenset[str]:
        """Every top-level field name that is expected in a record."""
        typed = {source.partition(".")[0] for field in self.fields for source in field.sources}
        return frozenset(typed | set(self.known))

    def drift(self, names: set[str]) -> tuple[str, ...]:
        """The names that the registry does not know, sorted. They are kept in the record column."""
        return tuple(sorted(names - self.known_names))


# Load metadata of every raw table. `_key` is the id as text, or a digest and an ordinal for rows without one; `_hash`
# is the SHA-256 of the record with sorted keys, so that an unchanged record is recognised on either engine.
METADATA: tuple[Field, ...] = (
    Field("_key", "STRING"),
    Field("_hash", "STRING"),
    Field("_record", "JSON"),
    Field("_run_id", "STRING"),
    Field("_ingested_at", "TIMESTAMP"),
    Field("_source", "STRING"),
)
# The columns of a landing file: one line per fetched record, in the order of reading. `refused` says why, where the
# record itself could not be loaded: what stands for it has only what identifies it.
LANDING: tuple[Field, ...] = (
    Field("seq", "INT64"),
    Field("digest", "STRING"),
    Field("record", "JSON"),
    Field("refused", "STRING"),
)


def _columns(kind: Type) -> Any:
    return lambda names: tuple(Field(name, kind) for name in names.split())


_ints, _strings, _money = _columns("INT64"), _columns("STRING"), _columns("NUMERIC")
_bools, _instants, _dates, _json = _columns("BOOL"), _columns("TIMESTAMP"), _columns("DATE"), _columns("JSON")
_CREATED = _instants("createdOn modifiedOn")
_ANY = (("active", "Any"),)
_ALL = (("activeState", "All"),)


def _entity(name: str, module: str, resource: str, *fields: tuple[Field, ...], known: str = "", **rest: Any) -> Entity:
    path = f"{module}/v2/tenant/{{tenant}}/{resource}"
    return Entity(name, path, tuple(f for group in fields for f in group), known=tuple(known.split()), **rest)


_HISTORY = (
    _entity(
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
        # The export feed adds `active`, which the list lacks: read from both, one job would have two contents.
        incremental="modified",
        known="active jobGeneratedLeadSource notificationsEnabled partnerLeadCallId customFields externalData",
    ),
    _entity(
        "appointments",
        "jpm",
        "appointments",
        _ints("id jobId customerId createdById"),
        _strings("appointmentNumber status"),
        _bools("active unused isConfirmed"),
        _instants("start end arrivalWindowStart arrivalWindowEnd"),
        _CREATED,
        everything=_ANY,
        known="specialInstructions",
    ),
    _entity(
        "invoices",
        "accounting",
        "invoices",
        _ints("id adjustmentToId projectId membershipId"),
        (
            Field("jobId", "INT64", ("job.id", "jobId")),
            # The published shape is job.number; the old pipeline looked for job.jobNumber and found NULL.
            Field("jobNumber", "STRING", ("job.number", "jobNumber", "job.jobNumber")),
            Field("businessUnitId", "INT64", ("businessUnit.id", "businessUnitId")),
            Field("businessUnitName", "STRING", ("businessUnit.name", "businessUnitName")),
            Field("customerId", "INT64", ("customer.id", "customerId")),
            Field("locationId", "INT64", ("location.id", "locationId")),
            Field("batchId", "INT64", ("batch.id", "batchId")),
        ),
        _strings("referenceNumber syncStatus termName reviewStatus sentStatus invoiceConfiguration"),
        (Field("invoiceType", "STRING", ("invoiceType.name",)),),
        _bools("active"),
        _money("subTotal salesTax total balance discountTotal"),
        _dates("invoiceDate dueDate"),
        _instants("depositedOn paidOn"),
        _CREATED,
        _json("items"),
        everything=_ALL,
        known="budgetCodeId salesTaxCode taxZoneId customerAddress locationAddress createdBy royalty employeeInfo"
        " commissionEligibilityDate assignedTo summary customFields importId exportId materialSkuId",
    ),
    _entity(
        "estimates",
        "sales",
        "estimates",
        _ints("id jobId projectId locationId customerId soldBy businessUnitId"),
        _strings("name jobNumber reviewStatus businessUnitName"),
        (Field("status", "STRING", ("status.name",)), Field("statusValue", "STRING", ("status.value",))),
        _bools("active isRecommended isChangeOrder"),
        _money("subtotal tax"),
        _instants("soldOn"),
        _CREATED,
        _json("items"),
        everything=_ANY,
        also=("soldAfter",),
        known="summary externalLinks budgetCodeId proposalTagName",
    ),
    _entity(
        "payments",
        "accounting",
        "payments",
        _ints("id refundedPaymentId"),
        (
            Field("customerId", "INT64", ("customer.id", "customerId")),
            Field("businessUnitId", "INT64", ("businessUnit.id", "businessUnitId")),
            Field("businessUnitName", "STRING", ("businessUnit.name", "businessUnitName")),
        ),
        _strings("referenceNumber type typeId syncStatus checkNumber memo"),
        _bools("active"),
        _money("total unappliedAmount"),
        _dates("date"),
        _CREATED,
        _json("appliedTo"),
        everything=_ALL,
        known="authCode batch createdBy customFields deposit generalLedgerAccount",
    ),
    _entity(
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
        # Operators saw gross pay items appear for about 45 days after the day they belong to.
        lookback=timedelta(days=45),
        known="active customerName locationName locationAddress locationZip zoneName taxZoneName laborTypeCode"
        " budgetCodeId isPrevailingWageJob",
    ),
    _entity(
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
    _entity(
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
    _entity(
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
    _entity(
        "purchase_orders",
        "inventory",
        "purchase-orders",
        _ints("id invoiceId jobId projectId typeId vendorId technicianId businessUnitId inventoryLocationId batchId"),
        _strings("number status vendorDocumentNumber"),
        _money("total tax shipping"),
        _instants("date requiredOn sentOn receivedOn"),
        _CREATED,
        _json("items"),
        known="shipTo budgetCodeId summary customFields",
    ),
    _entity(
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
        known="budgetCodeId memo batch canceledById canceledReason customFields externalData",
    ),
)

_REFERENCES = (
    _entity(
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
        " tenant externalData",
    ),
    _entity(
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
        " isSmartDispatched",
    ),
    _entity(
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
        # `appoitmentId` is spelt so in the API.
        known="roleIds zoneIds email phoneNumber loginName home licenseType customFields aadUserId jobFilter"
        " permissions accountLocked currentValue firstName lastName jobId mobilePhone outboundCallerId payrollProfileId"
        " appoitmentId shiftStart shiftEnd startDate skills positions location bio memo",
    ),
    _entity(
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
    _entity(
        "activity_codes",
        "payroll",
        "activity-codes",
        _ints("id"),
        _strings("name code earningCategory"),
        _bools("active"),
        _CREATED,
        everything=_ANY,
        incremental="whole",
    ),
    _entity(
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
    _entity(
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


def select(names: str) -> tuple[Entity, ...]:
    """The entities of a comma-separated list, or of "all", in the registry's order.

    Raises UserError for a name that is not an entity.
    """
    if names.strip().lower() in ("", "all"):
        return tuple(ENTITIES.values())
    wanted = {name.strip() for name in names.split(",") if name.strip()}
    if unknown := sorted(wanted - ENTITIES.keys()):
        raise UserError(f"There is no entity called {', '.join(unknown)}. Choose from: {', '.join(ENTITIES)}.")
    return tuple(entity for entity in ENTITIES.values() if entity.name in wanted)


# --- the GoogleSQL that derives from the registry -------------------------------------------------------------------


def _extracted(field: Field) -> str:
    if field.type == "JSON":
        return f"JSON_QUERY(record, '$.{field.sources[0]}')"
    values = [f"JSON_VALUE(record, '$.{source}')" for source in field.sources]
    value = values[0] if len(values) == 1 else f"COALESCE({', '.join(values)})"
    return value if field.type == "STRING" else f"NULLIF({value}, '')"


def _typed(field: Field) -> str:
    text = f"`{field.name}`"
    match field.type:
        case "STRING" | "JSON":
            return text
        case "NUMERIC":  # money may arrive as "1,234.50"
            return f"SAFE_CAST(REPLACE({text}, ',', '') AS NUMERIC)"
        case "TIMESTAMP":  # ServiceTitan sends up to 7 fractional digits, a TIMESTAMP holds 6
            return f"SAFE_CAST(REGEXP_REPLACE({text}, r'(\\.[0-9]{{6}})[0-9]+', r'\\1') AS TIMESTAMP)"
        case "DATE":
            return f"SAFE_CAST(SUBSTR({text}, 1, 10) AS DATE)"
        case _:
            return f"SAFE_CAST({text} AS {field.type})"


def projection_sql(entity: Entity, landing: str) -> str:
    """SELECT that types the landed records of table `landing` (columns of LANDING).

    Yields the entity's columns, `_key`, `_hash`, `_record`, `_seq` and `_reject`: NULL, or the reason why the row must
    go to quarantine (no key, or a value that does not have the type of its column).
    """
    text_fields = [f for f in entity.fields if f.type not in ("STRING", "JSON")]
    extracted = ",\n    ".join(f"{_extracted(f)} AS `{f.name}`" for f in entity.fields)
    typed = ",\n    ".join(f"{_typed(f)} AS `{f.name}`" for f in entity.fields)
    if entity.incremental == "slices":
        # Neither id nor any pair of fields is a key here: equal rows are told apart by their ordinal.
        ordinal = "CAST(ROW_NUMBER() OVER (PARTITION BY digest ORDER BY seq) AS STRING)"
        key = f"COALESCE(`id`, CONCAT(digest, '-', {ordinal}))"
    else:
        key = "`id`"
    reasons = "\n      ".join(
        f"WHEN `{f.name}` IS NOT NULL AND {_typed(f)} IS NULL"
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
