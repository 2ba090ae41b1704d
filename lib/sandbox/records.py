"""Records in the exact shape of the ServiceTitan v2 API, one function per resource that a tenant keeps writing.

Instants are integers (seconds since 1970, UTC), days are integers (days since 1970), money is integer cents: what a
generator computes with. The functions turn them into the texts and numbers of the published OpenAPI description,
where invoices and payments carry money as strings and everything else as numbers. Fields that no KPI reads are
filled from the record's id, so that the nullable ones are null in some records and set in others.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from datetime import date, timedelta
from typing import Any, NamedTuple

Record = dict[str, Any]

DAY = 86_400
EPOCH = date(1970, 1, 1)
# The API gives up to seven fractional digits, as many as it needs; the last one breaks whoever rounds to microseconds.
FRACTIONS = ("Z", ".5Z", ".25Z", ".123Z", ".4567Z", ".02Z", ".98765Z", ".000001Z", ".1234567Z", ".7Z", ".9999999Z")


class Party(NamedTuple):
    """A customer and the place to paint."""

    customer_id: int
    name: str
    location_id: int
    street: str
    city: str
    zip: str
    commercial: bool


class Unit(NamedTuple):
    """A business unit and where the owner's rollup file puts it."""

    id: int
    name: str
    rollup: str
    region: str
    division: str
    segment: str
    active: bool = True


class JobType(NamedTuple):
    """A job type; `share` is how often it is booked among its kind."""

    id: int
    name: str
    share: float
    active: bool = True


class Line(NamedTuple):
    """An invoice item: its kind, what the customer pays and what it costs us, in cents."""

    kind: str
    price: int
    cost: int


class Application(NamedTuple):
    """A part of a payment that settles an invoice."""

    id: int
    invoice_id: int
    cents: int
    on: int


@functools.cache
def _day_text(day: int) -> str:
    return (EPOCH + timedelta(days=day)).isoformat()


def instant(moment: int) -> str:
    """An instant as the API writes it; equal moments give equal texts, so ties stay ties."""
    day, second = divmod(moment, DAY)
    minute, second = divmod(second, 60)
    hour, minute = divmod(minute, 60)
    return f"{_day_text(day)}T{hour:02}:{minute:02}:{second:02}{FRACTIONS[moment % 11]}"


def calendar(day: int) -> str:
    """A calendar date as the API writes it: midnight Z, which is not an instant and must not be shifted."""
    return _day_text(day) + "T00:00:00Z"


def money(cents: int) -> str:
    """Cents as the string of invoices and payments."""
    return f"{cents / 100:.2f}"


def _named(id_: int, name: str) -> Record:
    return {"id": id_, "name": name}


def _street(party: Party) -> Record:
    return {
        "street": party.street,
        "unit": None if party.customer_id % 5 else "B",
        "city": party.city,
        "state": "AZ",
        "zip": party.zip,
        "country": "USA",
    }


def _place(party: Party) -> Record:
    return _street(party) | {"latitude": None, "longitude": None}


def customer(party: Party, created: int, modified: int, active: bool = True, merged_to: int | None = None) -> Record:
    """A crm customer."""
    id_ = party.customer_id
    return {
        "id": id_,
        "active": active,
        "name": party.name,
        "type": "Commercial" if party.commercial else "Residential",
        "address": _place(party),
        "customFields": [{"typeId": 91, "name": "Referral", "value": None}] if id_ % 7 == 0 else [],
        "balance": 0.0,
        "taxExempt": False,
        "tagTypeIds": [301] if id_ % 11 == 0 else [],
        "doNotMail": id_ % 17 == 0,
        "doNotService": False,
        "nationalAccount": False,
        "createdOn": instant(created),
        "createdById": 501 + id_ % 4,
        "modifiedOn": instant(modified),
        "mergedToId": merged_to,
        "paymentTermId": None,
        "creditLimit": None,
        "creditLimitBalance": None,
        "externalData": [],
    }


def location(party: Party, created: int, modified: int, active: bool = True) -> Record:
    """A crm location."""
    id_ = party.location_id
    return {
        "id": id_,
        "customerId": party.customer_id,
        "active": active,
        "name": party.name,
        "address": _place(party),
        "customFields": [],
        "createdOn": instant(created),
        "createdById": 501 + id_ % 4,
        "modifiedOn": instant(modified),
        "mergedToId": None,
        "zoneId": None if id_ % 3 else 81,
        "taxExempt": False,
        "tagTypeIds": [],
        "externalData": [],
        "taxZoneId": None,
    }


def job(
    id_: int,
    party: Party,
    unit: Unit,
    job_type: JobType,
    created: int,
    modified: int,
    status: str,
    completed: int | None,
    appointment_ids: Sequence[int],
    invoice_id: int,
    estimate_ids: Sequence[int],
    cents: int,
    no_charge: bool = False,
    warranty_id: int | None = None,
    from_estimate: int | None = None,
) -> Record:
    """A jpm job. Without appointments the ids of the first and last one are 0."""
    return {
        "id": id_,
        "jobNumber": str(id_),
        "projectId": None if id_ % 6 else id_ + 5_000_000,
        "customerId": party.customer_id,
        "locationId": party.location_id,
        "jobStatus": status,
        "completedOn": None if completed is None else instant(completed),
        "businessUnitId": unit.id,
        "jobTypeId": job_type.id,
        "priority": ("Normal", "Normal", "High", "Low", "Urgent")[id_ % 5],
        "campaignId": 201 + id_ % 6,
        "appointmentCount": len(appointment_ids),
        "firstAppointmentId": appointment_ids[0] if appointment_ids else 0,
        "lastAppointmentId": appointment_ids[-1] if appointment_ids else 0,
        "recallForId": warranty_id,
        "warrantyId": warranty_id,
        "jobGeneratedLeadSource": None if id_ % 13 else {"jobId": None, "employeeId": 501},
        "noCharge": no_charge,
        "notificationsEnabled": True,
        "createdOn": instant(created),
        "createdById": 501 + id_ % 4,
        "modifiedOn": instant(modified),
        "tagTypeIds": [301 + id_ % 4] if id_ % 4 == 0 else [],
        "leadCallId": None if id_ % 2 else id_ + 7_000_000,
        "partnerLeadCallId": None,
        "bookingId": None,
        "soldById": None if id_ % 3 else 401 + id_ % 24,
        "customerPo": "" if id_ % 10 else f"PO-{id_ % 997}",
        "invoiceId": invoice_id,
        "membershipId": None,
        "total": None if id_ % 29 == 0 else cents / 100,
        "createdFromEstimateId": from_estimate,
        "estimateIds": list(estimate_ids),
        "summary": None if id_ % 8 == 0 else f"{job_type.name}<br/>Gate code on file",
        "customFields": [{"typeId": 71, "name": "Gallons", "value": str(id_ % 40)}] if id_ % 5 == 0 else [],
        "externalData": [],
    }


def appointment(
    id_: int,
    job_id: int,
    party: Party,
    ordinal: int,
    start: int,
    hours: int,
    status: str,
    created: int,
    modified: int,
    active: bool = True,
) -> Record:
    """A jpm appointment, the `ordinal`-th of its job."""
    return {
        "id": id_,
        "jobId": job_id,
        "appointmentNumber": f"{job_id}-{ordinal}",
        "start": instant(start),
        "end": instant(start + hours * 3600),
        "arrivalWindowStart": instant(start) if id_ % 4 else None,
        "arrivalWindowEnd": instant(start + 7200) if id_ % 4 else None,
        "status": status,
        "specialInstructions": None if id_ % 9 else "Dog in the yard\nCall ahead",
        "createdOn": instant(created),
        "modifiedOn": instant(modified),
        "customerId": party.customer_id,
        "unused": status == "Canceled" and id_ % 2 == 0,
        "createdById": 501 + id_ % 4,
        "isConfirmed": status != "Scheduled",
        "active": active,
    }


def estimate(
    id_: int,
    party: Party,
    unit: Unit | None,
    job_id: int | None,
    created: int,
    modified: int,
    status: str,
    sold: int | None,
    cents: int,
    active: bool = True,
    change_order: bool = False,
) -> Record:
    """A sales estimate; it has `subtotal` and `tax` and no total."""
    written = instant(created)
    return {
        "id": id_,
        "jobId": job_id,
        "projectId": None,
        "locationId": party.location_id,
        "customerId": party.customer_id,
        "name": None if id_ % 19 == 0 else ("Good", "Better", "Best")[id_ % 3],
        "jobNumber": None if job_id is None else str(job_id),
        "status": {"value": {"Open": 0, "Sold": 1, "Dismissed": 2}[status], "name": status},
        "reviewStatus": ("None", "None", "Approved", "NeedsApproval")[id_ % 4],
        "summary": None,
        "createdOn": written,
        "modifiedOn": instant(modified),
        "soldOn": None if sold is None else instant(sold),
        "soldBy": None if sold is None else 401 + id_ % 24,
        "active": active,
        "items": None if id_ % 7 == 0 else [],
        "externalLinks": [],
        "subtotal": cents / 100,
        "tax": round(cents * 0.02) / 100,
        "businessUnitId": unit and unit.id,
        "businessUnitName": unit and unit.name,
        "isRecommended": id_ % 3 == 2,  # noqa: PLR2004 (every third)
        "budgetCodeId": None,
        "isChangeOrder": change_order,
        "proposalTagName": None,
    }


def _invoice_item(id_: int, order: int, line: Line, unit: Unit, written: str) -> Record:
    return {
        "id": id_,
        "quantity": "1.00",
        "cost": money(line.cost),
        "totalCost": money(line.cost),
        "budgetCodeId": None,
        "inventoryLocationId": None,
        "inventoryLocation": None,
        "price": money(line.price),
        "type": line.kind,
        "skuName": line.kind.upper(),
        "skuId": 801 + order,
        "total": money(line.price),
        "inventory": line.kind == "Material",
        "taxable": line.kind != "Service",
        "isChargeable": True,
        "generalLedgerAccount": None,
        "costOfSaleAccount": None,
        "assetAccount": None,
        "membershipTypeId": 0,
        "itemGroup": None,
        "displayName": None,
        "soldHours": None,
        "createdOn": written,
        "modifiedOn": written,
        "serviceDate": None,
        "order": order,
        "businessUnit": _named(unit.id, unit.name),
        "createdById": None,
        "displayInAmount": None,
        "importId": None,
        "exportId": None,
        "inventoryStatus": None,
        "addOn": False,
        "memberPrice": None,
        "technicianId": None,
        "installedEquipmentId": None,
        "estimateItemId": None,
    }


def invoice(
    id_: int,
    party: Party,
    unit: Unit,
    job_ref: tuple[int, str] | None,
    day: int | None,
    created: int,
    modified: int | None,
    lines: Sequence[Line],
    tax: int,
    paid: int,
    active: bool = True,
    adjustment_to: int | None = None,
    item_unit: Unit | None = None,
) -> Record:
    """An accounting invoice; `job_ref` is (job id, job type name), `paid` what active payments applied, in cents.

    The balance is the total less `paid`. Items carry a business unit of their own (`item_unit`).
    """
    subtotal = sum(line.price for line in lines)
    written = instant(created)
    address = _street(party)
    return {
        "id": id_,
        "syncStatus": ("Pending", "Posted", "Exported", None)[id_ % 4],
        "budgetCodeId": None,
        "referenceNumber": str(id_),
        "invoiceDate": None if day is None else calendar(day),
        "dueDate": None if day is None or id_ % 12 == 0 else calendar(day + 30),
        "subTotal": money(subtotal),
        "salesTax": money(tax),
        "salesTaxCode": {"id": 61, "name": "AZ", "taxRate": 0.02} if tax else None,
        "taxZoneId": None,
        "total": money(subtotal + tax),
        "balance": money(subtotal + tax - paid),
        "invoiceType": None,
        "customer": _named(party.customer_id, party.name),
        "customerAddress": address if id_ % 10 else None,
        "location": _named(party.location_id, party.name),
        "locationAddress": address,
        "businessUnit": _named(unit.id, unit.name),
        "termName": "Due Upon Receipt",
        "createdBy": "office",
        "batch": None if id_ % 4 else {"id": 9001, "number": "9001", "name": "Weekly batch"},
        "depositedOn": None,
        "createdOn": written,
        "modifiedOn": None if modified is None else instant(modified),
        "adjustmentToId": adjustment_to,
        "job": job_ref and {"id": job_ref[0], "number": str(job_ref[0]), "type": job_ref[1]},
        "projectId": None,
        "royalty": {"status": "Pending", "date": None, "sentOn": None, "memo": None},
        "employeeInfo": None,
        "commissionEligibilityDate": None,
        "sentStatus": ("NotSent", "Sent", "Opened")[id_ % 3],
        "reviewStatus": ("NeedsReview", "Reviewed", "Invoiced")[id_ % 3],
        "assignedTo": None,
        "summary": None,
        "items": [
            _invoice_item(id_ * 10 + order, order, line, item_unit or unit, written) for order, line in enumerate(lines)
        ]
        or (None if id_ % 2 else []),
        "customFields": None,
        "active": active,
        "discountTotal": "0.00",
        "importId": None,
        "exportId": None,
        "materialSkuId": None,
        "membershipId": None,
        "paidOn": None,
        "invoiceConfiguration": "JobInvoice" if job_ref else "CounterSales",
    }


def payment(
    id_: int,
    party: Party,
    unit: Unit,
    day: int,
    created: int,
    modified: int,
    applications: Sequence[Application],
    unapplied: int,
    active: bool = True,
    refund_of: int | None = None,
) -> Record:
    """An accounting payment; its total is what is applied plus `unapplied` (cents)."""
    return {
        "active": active,
        "appliedTo": [
            {
                "appliedAmount": money(part.cents),
                "appliedBy": "office",
                "appliedId": part.id,
                "appliedOn": instant(part.on),
                "appliedTo": part.invoice_id,
                "appliedToReferenceNumber": str(part.invoice_id),
            }
            for part in applications
        ]
        or (None if id_ % 2 else []),
        "authCode": None,
        "batch": None,
        "businessUnit": _named(unit.id, unit.name),
        "checkNumber": str(id_ % 10_000) if id_ % 3 == 0 else None,
        "createdBy": "office",
        "createdOn": instant(created),
        "customer": _named(party.customer_id, party.name),
        "customFields": None if id_ % 2 else [],
        "date": calendar(day),
        "deposit": None,
        "generalLedgerAccount": None,
        "id": id_,
        "memo": None,
        "modifiedOn": instant(modified),
        "referenceNumber": str(id_),
        "refundedPaymentId": refund_of,
        "syncStatus": "Exported",
        "total": money(sum(part.cents for part in applications) + unapplied),
        "type": ("Check", "Credit Card", "ACH/EFT")[id_ % 3],
        "typeId": str(11 + id_ % 3),
        "unappliedAmount": money(unapplied),
    }


def gross_pay_item(
    id_: int | None,
    source_id: int,
    employee: int,
    unit_name: str,
    day: int,
    created: int,
    modified: int,
    kind: str,
    cents: int,
    hours: float | None,
    job_id: int = 0,
    job_type: str | None = None,
    party: Party | None = None,
    invoice_id: int | None = None,
) -> Record:
    """A payroll gross pay item. `id_` may be None, units are names, `job_id` 0 is pay without a job."""
    start = day * DAY + 14 * 3600
    return {
        "id": id_,
        "employeeId": employee,
        "employeeType": "Technician",
        "businessUnitName": unit_name,
        "payrollId": 60_000 + day // 7 * 100 + employee % 100,
        "employeePayrollId": None,
        "date": calendar(day),
        "activity": "Painting" if job_id else "Shop",
        "activityCodeId": 101 if job_id else 102,
        "activityCode": "PAINT" if job_id else "SHOP",
        "amount": cents / 100,
        "amountAdjustment": 0.0,
        "payoutBusinessUnitName": unit_name,
        "grossPayItemType": kind,
        "startedOn": None if hours is None else instant(start),
        "endedOn": None if hours is None else instant(start + round(hours * 3600)),
        "paidDurationHours": hours,
        "paidTimeType": None if hours is None else "Regular",
        "sourceEntityId": source_id,
        "jobId": job_id,
        "jobNumber": str(job_id) if job_id else None,
        "jobTypeName": job_type,
        "projectNumber": None,
        "projectId": None,
        "invoiceId": invoice_id,
        "invoiceNumber": invoice_id and str(invoice_id),
        "invoiceItemId": None,
        "customerId": party and party.customer_id,
        "customerName": party and party.name,
        "locationId": party and party.location_id,
        "locationName": party and party.name,
        "locationAddress": party and party.street,
        "locationZip": party and party.zip,
        "zoneName": None,
        "taxZoneName": None,
        "laborTypeId": None,
        "laborTypeCode": None,
        "budgetCodeId": None,
        "isPrevailingWageJob": False,
        "memo": None,
        "createdOn": instant(created),
        "modifiedOn": instant(modified),
    }


def payroll_adjustment(
    id_: int, employee: int, posted: int, cents: int, invoice_id: int | None, active: bool = True
) -> Record:
    """A payroll adjustment. Its amount is also in a gross pay item: never add both."""
    return {
        "id": id_,
        "employeeType": "Technician",
        "employeeId": employee,
        "postedOn": instant(posted),
        "amount": cents / 100,
        "memo": "Spiff" if id_ % 2 else None,
        "activityCodeId": 103,
        "invoiceId": invoice_id,
        "hours": None,
        "rate": None,
        "quantity": None,
        "type": ("Direct", "AddOn", "CommissionBased")[id_ % 3],
        "createdOn": instant(posted),
        "modifiedOn": instant(posted),
        "active": active,
    }


def purchase_order(
    id_: int,
    party: Party | None,
    unit: Unit,
    job_id: int | None,
    created: int,
    modified: int,
    status: str,
    goods: int,
    tax: int,
    shipping: int,
) -> Record:
    """An inventory purchase order; `total` is goods, tax and shipping together (cents)."""
    written = instant(created)
    return {
        "id": id_,
        "number": str(id_),
        "invoiceId": None,
        "jobId": job_id,
        "projectId": None,
        "status": status,
        "typeId": 41,
        "vendorId": 31 + id_ % 3,
        "technicianId": 401 + id_ % 24 if id_ % 2 else None,
        "shipTo": _street(party) if party else dict.fromkeys(("street", "unit", "city", "state", "zip", "country")),
        "businessUnitId": unit.id,
        "inventoryLocationId": None,
        "batchId": None,
        "budgetCodeId": None,
        "vendorDocumentNumber": "",
        "date": written,
        "requiredOn": None if id_ % 3 else instant(created + 2 * DAY),
        "sentOn": None if status == "Pending" else written,
        "receivedOn": instant(modified) if status == "Received" else None,
        "createdOn": written,
        "modifiedOn": instant(modified),
        "total": (goods + tax + shipping) / 100,
        "tax": tax / 100,
        "shipping": shipping / 100,
        "summary": "",
        "items": [],
        "customFields": [],
    }


def vendor_return(
    id_: int, order_id: int | None, job_id: int | None, unit: Unit, created: int, cents: int, status: str
) -> Record:
    """An inventory return; it has `returnAmount` (tax and shipping included) and no total. A canceled one is inactive."""
    written = instant(created)
    return {
        "id": id_,
        "active": status != "Canceled",
        "number": str(id_),
        "referenceNumber": "",
        "status": status,
        "vendorId": 31 + id_ % 3,
        "purchaseOrderId": order_id,
        "jobId": job_id,
        "projectId": None,
        "budgetCodeId": None,
        "businessUnitId": unit.id,
        "inventoryLocationId": None,
        "createdById": None,
        "memo": "",
        "returnAmount": cents / 100,
        "taxAmount": 0.0,
        "shippingAmount": 0.0,
        "returnDate": written,
        "returnedOn": None if status in ("Pending", "Canceled") else written,
        "creditReceivedOn": written if status == "CreditReceived" else None,
        "createdOn": written,
        "modifiedOn": written,
        "batchId": None,
        "batch": None,
        "syncStatus": "Pending",
        "canceledById": None,
        "canceledReason": "Accidental" if status == "Canceled" else None,
        "dateCanceled": written if status == "Canceled" else None,
        "items": [],
        "customFields": [],
        "externalData": [],
    }
