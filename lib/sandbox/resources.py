"""The resources of the tenant: where each is served and what each of its list parameters means.

One table declares it all: the store keeps a column for every field that a parameter compares, and the server
answers from those columns. The parameters are those of ServiceTitan's published description (v2).
"""

from dataclasses import dataclass
from typing import Literal

Kind = Literal["date", "int", "text", "bool", "number"]
Test = Literal["from", "before", "until", "is", "among", "has", "since", "ended", "contains", "compared", "lasts"]


@dataclass(frozen=True)
class Filter:
    """What one query parameter asks: the field at `path` (dots lead into objects) holds against its value.

    `from` >=, `before` <, `until` <=, `is` =, `among` any of a comma-separated list, `has` a list field with any of
    them, `since` and `ended` a list field with a day from it on or before it, `contains` a part of a text, `compared`
    as the filter's own `Comparer` says, `lasts` a duration (`00:01:30`) of so many seconds or more. Texts ignore case,
    null never matches. With `via` = (resource, key, own field) the test is on another resource's rows, joined by key.
    """

    path: str
    kind: Kind
    test: Test
    via: tuple[str, str, str] | None = None

    @property
    def has_column(self) -> bool:
        return self.test in ("is", "among") or (self.kind == "date" and self.test not in ("since", "ended"))


@dataclass(frozen=True)
class Resource:
    """A list endpoint (`path` is its module, version and name), its parameters and whether it has an export twin.

    `active` names the parameter without which only active rows are listed, if there is one; the record says whether it
    is at `active_path`, and its id is at `id_path`. `export_flags` are
    the flags that the records of the export have and those of the list lack. `sort` and `order_by` are the fields that
    the description names for these parameters; where it names none, do not count on any.
    """

    path: str
    filters: dict[str, Filter]
    active: Literal["active", "activeState"] | None = "active"
    active_path: str = "active"
    id_path: str = "id"
    export: bool = True
    export_flags: tuple[str, ...] = ()
    join_keys: tuple[str, ...] = ()
    sort: tuple[str, ...] = ()
    order_by: tuple[str, ...] = ()

    @property
    def list_path(self) -> str:
        """The path of the list, with `{tenant}`."""
        module, version, name = self.path.split("/", 2)
        return f"/{module}/{version}/tenant/{{tenant}}/{name}"

    @property
    def export_path(self) -> str:
        """The path of the export twin, all of which are v2."""
        module, _, name = self.path.split("/", 2)
        return f"/{module}/v2/tenant/{{tenant}}/export/{name.removesuffix('/paginated')}"

    @property
    def columns(self) -> dict[str, Kind]:
        """Return the paths of the fields to keep as columns, with their kinds."""
        own = [f for f in self.filters.values() if f.has_column and not f.via]
        always = {self.id_path: "int"} | dict.fromkeys(self.join_keys, "int")
        always |= {self.active_path: "bool"} if self.active else {}
        return always | {f.path: f.kind for f in own}


def _match_value(kind: Kind, **paths: str) -> dict[str, Filter]:
    return {name: Filter(path, kind, "is") for name, path in paths.items()}


def _match_any(kind: Kind, **paths: str) -> dict[str, Filter]:
    return {name: Filter(path, kind, "among") for name, path in paths.items()}


def _match_list(kind: Kind, **paths: str) -> dict[str, Filter]:
    return {name: Filter(path, kind, "has") for name, path in paths.items()}


def _match_part(**paths: str) -> dict[str, Filter]:
    return {name: Filter(path, "text", "contains") for name, path in paths.items()}


def _match_period(path: str, first: str, end: str) -> dict[str, Filter]:
    return {first: Filter(path, "date", "from"), end: Filter(path, "date", "before")}


def _match_total(path: str) -> dict[str, Filter]:
    return {"totalGreater": Filter(path, "number", "from"), "totalLess": Filter(path, "number", "until")}


_SORT = ("id", "modifiedOn", "createdOn")
_IDS = _match_any("int", ids="id")


def _match_changes(prefix: str = "") -> dict[str, Filter]:
    return _match_period(f"{prefix}createdOn", "createdOnOrAfter", "createdBefore") | _match_period(
        f"{prefix}modifiedOn", "modifiedOnOrAfter", "modifiedBefore"
    )


_CHANGES = _match_changes()
# What is applied to invoices, and is batched: payments and credit memos.
_APPLIED = (
    _match_any("int", businessUnitIds="businessUnit.id")
    | _match_value("int", batchId="batch.id", batchNumber="batch.number")
    | _match_list("int", appliedToInvoiceIds="appliedTo.appliedTo")
    | _match_list("text", appliedToReferenceNumber="appliedTo.appliedToReferenceNumber")
)
_ADDRESS = {name: Filter(f"address.{name}", "text", "is") for name in ("street", "unit", "city", "state", "zip")} | {
    "country": Filter("address.country", "text", "is"),
    "latitude": Filter("address.latitude", "number", "is"),
    "longitude": Filter("address.longitude", "number", "is"),
}

_APPOINTMENTS = ("appointments", "jobId", "id")
_FIRST_APPOINTMENT = ("appointments", "id", "firstAppointmentId")

RESOURCES: dict[str, Resource] = {
    "jobs": Resource(
        "jpm/v2/jobs",
        _IDS
        | _CHANGES
        | _match_period("completedOn", "completedOnOrAfter", "completedBefore")
        | _match_value("text", number="jobNumber", jobStatus="jobStatus", priority="priority")
        | _match_value(
            "int", projectId="projectId", bookingId="bookingId", customerId="customerId", locationId="locationId"
        )
        | _match_value(
            "int", soldById="soldById", jobTypeId="jobTypeId", campaignId="campaignId", invoiceId="invoiceId"
        )
        | _match_value("int", businessUnitId="businessUnitId", createdFromEstimateId="createdFromEstimateId")
        | _match_list("int", estimateIds="estimateIds", tagTypeIds="tagTypeIds")
        | {
            "firstAppointmentStartsOnOrAfter": Filter("start", "date", "from", _FIRST_APPOINTMENT),
            "firstAppointmentStartsBefore": Filter("start", "date", "before", _FIRST_APPOINTMENT),
            "appointmentStartsOnOrAfter": Filter("start", "date", "from", _APPOINTMENTS),
            "appointmentStartsBefore": Filter("start", "date", "before", _APPOINTMENTS),
            "appointmentStatus": Filter("status", "text", "is", _APPOINTMENTS),
            "hasUnusedAppointments": Filter("unused", "bool", "is", _APPOINTMENTS),
            # No record says who was assigned to an appointment: the technicians paid for the job were.
            "technicianId": Filter("employeeId", "int", "is", ("payroll", "jobId", "id")),
        },
        active=None,
        export_flags=("active",),
        join_keys=("firstAppointmentId",),
        sort=_SORT,
    ),
    "appointments": Resource(
        "jpm/v2/appointments",
        _IDS
        | _CHANGES
        | _match_period("start", "startsOnOrAfter", "startsBefore")
        | _match_value("int", jobId="jobId", customerId="customerId")
        | _match_value("text", number="appointmentNumber", status="status")
        | _match_value("bool", unused="unused")
        | {
            "projectId": Filter("projectId", "int", "is", ("jobs", "id", "jobId")),
            "technicianId": Filter("employeeId", "int", "is", ("payroll", "jobId", "jobId")),
        },
        sort=_SORT,
    ),
    "job_types": Resource(
        "jpm/v2/job-types",
        _IDS
        | _CHANGES
        | _match_part(name="name")
        | _match_value("text", priority="priority")
        | {"minDuration": Filter("duration", "int", "from"), "maxDuration": Filter("duration", "int", "until")},
        export=False,
        order_by=_SORT,
    ),
    "invoices": Resource(
        "accounting/v2/invoices",
        _IDS
        | _CHANGES
        | _match_period("invoiceDate", "invoicedOnOrAfter", "invoicedOnBefore")
        | _match_period("dueDate", "dueDateOnOrAfter", "dueDateBefore")
        | _match_any("text", statuses="syncStatus", reviewStatuses="reviewStatus")
        | _match_any("text", invoiceConfigurations="invoiceConfiguration")
        | _match_any("int", assignedToIds="assignedTo.id")
        | _match_value("int", batchId="batch.id", batchNumber="batch.number", jobId="job.id", customerId="customer.id")
        | _match_value("int", businessUnitId="businessUnit.id", adjustmentToId="adjustmentToId")
        | _match_value("text", jobNumber="job.number", number="referenceNumber")
        | _match_total("total")
        | {"balanceFilter.Balance": Filter("balance", "number", "compared")},
        active="activeState",
    ),
    "payments": Resource(
        "accounting/v2/payments",
        _IDS
        | _CHANGES
        | _match_period("date", "paidOnAfter", "paidOnBefore")
        | _match_any("text", statuses="syncStatus")
        | _match_any("int", depositIds="deposit.id")
        | _match_value("int", customerId="customer.id")
        | _APPLIED
        | _match_total("total"),
        active="activeState",
    ),
    "credit_memos": Resource(
        "accounting/v2/credit-memos",
        _IDS
        | _CHANGES
        | _match_period("date", "dateOnOrAfter", "dateBefore")
        | _APPLIED
        | {
            "appliedOnOrAfter": Filter("appliedTo.appliedOn", "date", "since"),
            "appliedBefore": Filter("appliedTo.appliedOn", "date", "ended"),
            "totalFilter.Amount": Filter("total", "number", "compared"),
            "balanceFilter.Amount": Filter("balance", "number", "compared"),
        },
        export=False,
    ),
    "estimates": Resource(
        "sales/v2/estimates",
        _IDS
        | _CHANGES
        | _match_period("soldOn", "soldAfter", "soldBefore")
        | _match_value("int", jobId="jobId", projectId="projectId", locationId="locationId")
        | _match_value("int", soldById="soldBy", soldByEmployeeId="soldBy")
        | _match_value("text", jobNumber="jobNumber", status="status.name")
        | _match_total("subtotal"),
        order_by=_SORT,
    ),
    "payroll": Resource(
        "payroll/v2/gross-pay-items",
        _CHANGES
        # Operators saw `dateOnOrBefore` leave out the rows of the day itself: an exclusive end at midnight.
        | _match_period("date", "dateOnOrAfter", "dateOnOrBefore")
        | _match_value("text", employeeType="employeeType")
        | _match_value("int", employeeId="employeeId")
        | _match_any("int", payrollIds="payrollId")
        | {"modifiedOnOrBefore": Filter("modifiedOn", "date", "until")},
        active=None,
        export_flags=("active",),
        join_keys=("jobId",),
    ),
    "activity_codes": Resource("payroll/v2/activity-codes", _CHANGES, export_flags=("isDiscretionary",)),
    "payroll_adjustments": Resource(
        "payroll/v2/payroll-adjustments",
        _CHANGES
        | _match_any("int", employeeIds="employeeId")
        | {
            "postedOnOrAfter": Filter("postedOn", "date", "from"),
            "postedOnOrBefore": Filter("postedOn", "date", "until"),
        },
    ),
    "customers": Resource("crm/v2/customers", _IDS | _CHANGES | _match_part(name="name") | _ADDRESS, sort=_SORT),
    "locations": Resource(
        "crm/v2/locations",
        _IDS | _CHANGES | _match_part(name="name") | _match_value("int", customerId="customerId") | _ADDRESS,
        sort=_SORT,
    ),
    "campaigns": Resource(
        "marketing/v2/campaigns",
        _IDS | _CHANGES | _match_part(name="name") | _match_list("text", campaignPhoneNumber="campaignPhoneNumbers"),
        export=False,
        sort=(*_SORT, "name"),
    ),
    "bookings": Resource(
        "crm/v2/bookings",
        _IDS | _CHANGES | _match_value("text", externalId="externalId"),
        active=None,
        export_flags=("active",),
        sort=_SORT,
    ),
    "memberships": Resource(
        "memberships/v2/memberships",
        _IDS
        | _CHANGES
        | _match_any("int", customerIds="customerId")
        | _match_value("text", status="status", billingFrequency="billingFrequency")
        | _match_value("int", duration="duration"),
    ),
    "purchase_orders": Resource(
        "inventory/v2/purchase-orders",
        _IDS
        | _CHANGES
        | _match_period("date", "dateOnOrAfter", "dateBefore")
        | _match_period("sentOn", "sentOnOrAfter", "sentBefore")
        | _match_value("text", status="status", number="number")
        | _match_value("int", jobId="jobId", technicianId="technicianId", projectId="projectId")
        | _match_any("int", jobIds="jobId"),
        active=None,
        sort=_SORT,
    ),
    "returns": Resource(
        "inventory/v2/returns",
        _IDS
        | _CHANGES
        | _match_period("returnDate", "returnDateOnOrAfter", "returnDateBefore")
        | _match_value("text", number="number", referenceNumber="referenceNumber")
        | _match_value("int", jobId="jobId", purchaseOrderId="purchaseOrderId", batchId="batchId")
        | _match_any("int", vendorIds="vendorId", businessUnitIds="businessUnitId")
        | _match_any("int", inventoryLocationIds="inventoryLocationId")
        | _match_any("text", syncStatuses="syncStatus"),
        sort=_SORT,
    ),
    "vendor_bills": Resource(
        "accounting/v2/inventory-bills/paginated",
        _IDS
        | _CHANGES
        | _match_period("billDate", "dateFrom", "dateTo")
        | _match_period("dateReconciled", "dateReconciledOnOrAfter", "dateReconciledBefore")
        | _match_value("int", batchId="batch.id", batchNumber="batch.number")
        | _match_value("text", billNumber="referenceNumber", jobNumber="jobNumber")
        | _match_any("int", businessUnitIds="businessUnit.id")
        | _match_any("text", syncStatuses="syncStatus")
        | {
            "minCost": Filter("billAmount", "number", "from"),
            "maxCost": Filter("billAmount", "number", "until"),
            "purchaseOrderNumber": Filter("number", "text", "is", ("purchase_orders", "id", "purchaseOrderId")),
        },
        active=None,
        export_flags=("active",),
        join_keys=("purchaseOrderId",),
    ),
    # A row is of the job that a call led to (id 0 where there is none), with the call in `leadCall`.
    "calls": Resource(
        "telecom/v3/calls",
        _match_any("int", ids="leadCall.id")
        | _match_changes("leadCall.")
        | _match_value("int", campaignId="leadCall.campaign.id", agentId="leadCall.agent.id")
        | _match_value("int", agentExternalId="leadCall.agent.externalId")
        | _match_value("text", phoneNumberCalled="leadCall.to", callerPhoneNumber="leadCall.from", sid="leadCall.sid")
        | _match_value("text", agentName="leadCall.agent.name")
        | _match_list("text", tag="leadCall.tags.typeName")
        | {
            "createdAfter": Filter("leadCall.createdOn", "date", "from"),
            "modifiedAfter": Filter("leadCall.modifiedOn", "date", "from"),
            "minDuration": Filter("leadCall.duration", "int", "lasts"),
        },
        active_path="leadCall.active",
        id_path="leadCall.id",
        sort=tuple(f"leadCall.{name}" for name in _SORT),
    ),
    "business_units": Resource("settings/v2/business-units", _IDS | _CHANGES | _match_part(name="name")),
    "technicians": Resource(
        "settings/v2/technicians", _IDS | _CHANGES | _match_part(name="name") | _match_any("int", userIds="userId")
    ),
    "tag_types": Resource("settings/v2/tag-types", _CHANGES),
    "employees": Resource(
        "settings/v2/employees",
        _IDS
        | _CHANGES
        | _match_part(name="name")
        | _match_any("int", userIds="userId")
        | _match_value("text", email="email"),
    ),
}
