"""Records in the exact shape of the ServiceTitan v2 API, one function per resource that a tenant keeps writing.

The first parameter of most is the company, whose settings a record names.
Instants are integers (seconds since 1970, UTC), days are integers (days since 1970), money is integer cents: what a
generator computes with. The functions turn them into the texts and numbers of the published OpenAPI description,
where invoices and payments carry money as strings and everything else as numbers. Fields that no KPI reads are
filled from the record's id, so that the nullable ones are null in some records and set in others.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date, timedelta
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from sandbox.organization import Company

Record = dict[str, Any]

DAY = 86_400
HOUR = 3600
EPOCH = date(1970, 1, 1)
NO_INSTANT = "0001-01-01T00:00:00Z"  # when a record was created that came with an import
# The API gives up to seven fractional digits, as many as it needs; the last one breaks whoever rounds to microseconds.
FRACTIONS = ("Z", ".5Z", ".25Z", ".123Z", ".4567Z", ".02Z", ".98765Z", ".000001Z", ".1234567Z", ".7Z", ".9999999Z")


# What an invoice item is booked to: some are deposits, which are no income.
ACCOUNTS = (
    {"id": 4000, "name": "Sales", "number": "4000", "type": "Income", "detailType": None},
    {"id": 2400, "name": "Deposits", "number": "2400", "type": "Other Current Liability", "detailType": None},
)


class Party(NamedTuple):
    """A customer and the place to work at; `imported`: from the system before, without the day it was created."""

    customer_id: int
    name: str
    location_id: int
    street: str
    city: str
    zip: str
    commercial: bool
    imported: bool = False


class Unit(NamedTuple):
    """A business unit and where the owner's rollup file puts it; units of one `crew` do what any of them sold."""

    id: int
    name: str
    rollup: str
    region: str
    division: str
    segment: str
    active: bool = True
    crew: str = ""


class JobType(NamedTuple):
    """A job type; `share` is how often it is booked among its kind."""

    id: int
    name: str
    share: float
    active: bool = True


class Stamp(NamedTuple):
    """When a record was written and last touched."""

    created: int
    modified: int


class Visit(NamedTuple):
    """An appointment."""

    start: int
    status: str
    active: bool = True


class Offer(NamedTuple):
    """An estimate given to the customer; `bumped`: its sale moved `modifiedOn`."""

    created: int
    cents: int
    status: str = "Open"
    sold: int | None = None
    active: bool = True
    change_order: bool = False
    bumped: bool = True


class JobRef(NamedTuple):
    """What money is spent on or earned with: a job (`id`, `number`, `type_name`) or, without one, a unit's trade."""

    party: Party
    unit: Unit
    invoice_id: int
    invoice_number: str
    id: int | None = None
    number: str | None = None
    type_name: str | None = None
    booking_id: int | None = None
    call_id: int | None = None
    membership_id: int | None = None
    imported: bool = False


class Line(NamedTuple):
    """An invoice item: its kind, what the customer pays and what it costs us, in cents."""

    kind: str
    price: int
    cost: int = 0


@dataclass(slots=True)
class Bill:
    """An invoice; `paid` grows while active payments are applied. `day` is its calendar date."""

    id: int
    number: str
    lines: list[Line]
    day: int | None
    created: int
    tax: int = 0
    active: bool = True
    adjustment_to: int | None = None
    paid: int = 0

    @property
    def subtotal(self) -> int:
        return sum(line.price for line in self.lines)

    @property
    def total(self) -> int:
        return self.subtotal + self.tax


class Application(NamedTuple):
    """A part of a payment that settles an invoice."""

    id: int
    invoice_id: int
    invoice_number: str
    cents: int
    on: int


@functools.cache
def _format_day(day: int) -> str:
    return (EPOCH + timedelta(days=day)).isoformat()


def format_instant(moment: int) -> str:
    """Format an instant like the API; equal moments give equal texts, so ties stay ties."""
    day, second = divmod(moment, DAY)
    minute, second = divmod(second, 60)
    hour, minute = divmod(minute, 60)
    return f"{_format_day(day)}T{hour:02}:{minute:02}:{second:02}{FRACTIONS[moment % 11]}"


def format_calendar_day(day: int) -> str:
    """Format a calendar date like the API: midnight Z, which is not an instant and must not be shifted."""
    return _format_day(day) + "T00:00:00Z"


def format_money(cents: int) -> str:
    """Format cents like the strings of invoices and payments."""
    return f"{cents / 100:.2f}"


def _make_creation(company: Company, id_: int, created: int, *, imported: bool) -> Record:
    if imported:
        return {"createdOn": NO_INSTANT, "createdById": 0}
    return {"createdOn": format_instant(created), "createdById": company.pick_employee(id_)}


def _make_reference(id_: int, name: str) -> Record:
    return {"id": id_, "name": name}


def _make_street(company: Company, party: Party) -> Record:
    return {
        "street": party.street,
        "unit": None if party.customer_id % 5 else "B",
        "city": party.city,
        "state": company.state,
        "zip": party.zip,
        "country": "USA",
    }


def _make_address(company: Company, party: Party) -> Record:
    return _make_street(company, party) | {"latitude": None, "longitude": None}


def make_customer(company: Company, party: Party, stamp: Stamp, merged_to: int | None = None) -> Record:
    """Make a crm customer; a merged one is inactive."""
    id_ = party.customer_id
    return {
        "id": id_,
        "active": merged_to is None and id_ % 70 != 0,
        "name": party.name,
        "type": "Commercial" if party.commercial else "Residential",
        "address": _make_address(company, party),
        "customFields": [{"typeId": company.first_setting_id + 91, "name": "Referral", "value": None}]
        if id_ % 7 == 0
        else [],
        "balance": 0.0,
        "taxExempt": False,
        "tagTypeIds": [company.first_setting_id + 301] if id_ % 11 == 0 else [],
        "doNotMail": id_ % 17 == 0,
        "doNotService": False,
        "nationalAccount": False,
        **_make_creation(company, id_, stamp.created, imported=party.imported),
        "modifiedOn": format_instant(stamp.modified),
        "mergedToId": merged_to,
        "paymentTermId": None,
        "creditLimit": None,
        "creditLimitBalance": None,
        "externalData": [],
    }


def make_location(company: Company, party: Party, stamp: Stamp) -> Record:
    """Make a crm location."""
    id_ = party.location_id
    return {
        "id": id_,
        "customerId": party.customer_id,
        "active": id_ % 50 != 0,
        "name": party.name,
        "address": _make_address(company, party),
        "customFields": [],
        **_make_creation(company, id_, stamp.created, imported=party.imported),
        "modifiedOn": format_instant(stamp.modified),
        "mergedToId": None,
        "zoneId": None if id_ % 3 else 81,
        "taxExempt": False,
        "tagTypeIds": [],
        "externalData": [],
        "taxZoneId": None,
    }


def _make_custom_field(company: Company, id_: int) -> Record:
    return {"typeId": company.first_setting_id + 71, "name": company.custom_field, "value": str(id_ % 40)}


def make_job(
    company: Company,
    ref: JobRef,
    job_type: JobType,
    stamp: Stamp,
    *,
    status: str,
    completed: int | None,
    appointment_ids: Sequence[int],
    estimate_ids: Sequence[int],
    cents: int,
    no_charge: bool,
    warranty_id: int | None = None,
    from_estimate: int | None = None,
) -> Record:
    """Make a jpm job. Without appointments the ids of the first and last one are 0."""
    id_, party = ref.id, ref.party
    return {
        "id": id_,
        "jobNumber": ref.number,
        "projectId": None if id_ % 6 else id_ + 5_000_000,
        "customerId": party.customer_id,
        "locationId": party.location_id,
        "jobStatus": status,
        "completedOn": None if completed is None else format_instant(completed),
        "businessUnitId": ref.unit.id,
        "jobTypeId": job_type.id,
        "priority": ("Normal", "Normal", "High", "Low", "Urgent")[id_ % 5],
        "campaignId": company.first_setting_id + 201 + id_ % 6,
        "appointmentCount": len(appointment_ids),
        "firstAppointmentId": appointment_ids[0] if appointment_ids else 0,
        "lastAppointmentId": appointment_ids[-1] if appointment_ids else 0,
        "recallForId": warranty_id,
        "warrantyId": warranty_id,
        "jobGeneratedLeadSource": None if id_ % 13 else {"jobId": None, "employeeId": company.pick_employee(0)},
        "noCharge": no_charge,
        "notificationsEnabled": True,
        **_make_creation(company, id_, stamp.created, imported=ref.imported),
        "modifiedOn": format_instant(stamp.modified),
        "tagTypeIds": [company.first_setting_id + 301 + id_ % 4] if id_ % 4 == 0 else [],
        "leadCallId": ref.call_id,
        "partnerLeadCallId": None,
        "bookingId": ref.booking_id,
        "soldById": None if id_ % 3 else company.pick_technician(id_),
        "customerPo": "" if id_ % 10 else f"PO-{id_ % 997}",
        "invoiceId": ref.invoice_id,
        "membershipId": ref.membership_id,
        "total": None if id_ % 29 == 0 else cents / 100,
        "createdFromEstimateId": from_estimate,
        "estimateIds": list(estimate_ids),
        "summary": None if id_ % 8 == 0 else f"{job_type.name}<br/>Gate code on file",
        "customFields": [_make_custom_field(company, id_)] if id_ % 5 == 0 else [],
        "externalData": [],
    }


def make_booking(company: Company, id_: int, ref: JobRef, created: int, job_type: JobType | None = None) -> Record:
    """Make a crm booking; one that became no job was dismissed."""
    written = format_instant(created)
    return {
        "id": id_,
        "source": ("Website", "Chat", "Google")[id_ % 3],
        "createdOn": written,
        "name": ref.party.name,
        "address": _make_street(company, ref.party),
        "customerType": None if id_ % 5 == 0 else "Residential",
        "start": format_instant(created + DAY),
        "campaignId": None if id_ % 4 == 0 else company.first_setting_id + 201 + id_ % 6,
        "businessUnitId": ref.unit.id,
        "isFirstTimeClient": id_ % 2 == 0,
        "uploadedImages": None if id_ % 2 else [],
        "isSendConfirmationEmail": True,
        "status": "Converted" if ref.id else "Dismissed",
        "dismissingReasonId": None,
        "jobId": ref.id,
        "externalId": f"web-{id_}",
        "priority": "Normal",
        "jobTypeId": job_type and job_type.id,
        "bookingProviderId": company.first_setting_id + 601,
        "modifiedOn": written,
        "summary": None,
    }


def make_membership(company: Company, id_: int, party: Party, unit: Unit, created: int) -> Record:
    """Make a membership of a year; one in five was canceled, and is inactive, after 90 days."""
    status, end = ("Canceled", created + 90 * DAY) if id_ % 5 == 0 else ("Active", created + 365 * DAY)
    return {
        "id": id_,
        "createdOn": format_instant(created),
        "createdById": company.pick_employee(id_),
        "modifiedOn": format_instant(created),
        "followUpOn": format_instant(end),
        "cancellationDate": format_instant(end) if status == "Canceled" else None,
        "from": format_calendar_day(created // DAY),
        "nextScheduledBillDate": None if status == "Canceled" else format_calendar_day(created // DAY + 30),
        "to": format_calendar_day(created // DAY + 365),
        "billingFrequency": ("Monthly", "Annual")[id_ % 2],
        "renewalBillingFrequency": None,
        "status": status,
        "followUpStatus": "NotAttempted",
        "active": status == "Active",
        "initialDeferredRevenue": 0.0,
        "duration": 12,
        "renewalDuration": 12,
        "businessUnitId": unit.id,
        "customerId": party.customer_id,
        "membershipTypeId": company.first_setting_id + 701,
        "activatedById": None,
        "activatedFromId": None,
        "billingTemplateId": None,
        "cancellationBalanceInvoiceId": None,
        "cancellationInvoiceId": None,
        "followUpCustomStatusId": None,
        "locationId": party.location_id,
        "paymentMethodId": None,
        "paymentTypeId": None,
        "recurringLocationId": None,
        "renewalMembershipTaskId": None,
        "renewedById": None,
        "soldById": company.pick_technician(id_),
        "customerPo": None,
        "importId": None,
        "memo": None,
        "customFields": [],
    }


def make_call(company: Company, id_: int, ref: JobRef, created: int, job_type: JobType | None = None) -> Record:
    """Make a telecom call: a row of the job that it led to, with the call in it; without a job, the row's id is 0."""
    party, written = ref.party, format_instant(created)
    kind = "Booked" if ref.id else ("Unbooked", "Excused", "Abandoned", "NotLead")[id_ % 4]
    return {
        "id": ref.id or 0,
        "jobNumber": ref.number,
        "projectId": 0,
        "businessUnit": _make_reference(ref.unit.id, ref.unit.name) if ref.id else None,
        "type": job_type and {"id": job_type.id, "name": job_type.name, "modifiedOn": written},
        "leadCall": {
            "createdOn": written,
            "active": id_ % 10 != 0,
            "id": id_,
            "receivedOn": written,
            "duration": f"00:{id_ % 9:02}:{id_ % 60:02}",
            "from": f"6025550{id_ % 1000:03}",
            "to": "6025559000",
            "direction": "Inbound",
            "callType": kind,
            "reason": None
            if ref.id
            else {"id": company.first_setting_id + 801, "name": "Price", "lead": True, "active": True},
            "recordingUrl": None,
            "voiceMailUrl": None,
            "createdBy": None,
            "customer": None if kind == "Abandoned" else _make_reference(party.customer_id, party.name),
            "campaign": None
            if id_ % 4 == 0
            else _make_reference(company.first_setting_id + 201 + id_ % 6, company.campaigns[id_ % 6]),
            "modifiedOn": written,
            "agent": None
            if kind == "Abandoned"
            else {"id": company.pick_employee(id_), "name": "Office", "externalId": None},
            "sid": f"CA{id_:016x}",
            "tags": [{"id": company.first_setting_id + 301, "typeName": "Call back"}] if id_ % 7 == 0 else [],
        },
    }


def export_call(record: Record) -> Record:
    """Return a call as the export gives it: flat, and with the job as a part of it."""
    call = record["leadCall"]
    same = (
        "id",
        "duration",
        "from",
        "to",
        "direction",
        "recordingUrl",
        "createdOn",
        "modifiedOn",
        "campaign",
        "active",
    )
    return {
        **{name: call[name] for name in same},
        "status": "Completed",
        "type": call["callType"],
        "voiceMailPath": call["voiceMailUrl"],
        "reason": call["reason"] and _make_reference(call["reason"]["id"], call["reason"]["name"]),
        "customer": call["customer"],
        "location": None,
        "job": {"id": record["id"], "number": record["jobNumber"]} if record["id"] else None,
        "agent": call["agent"] and _make_reference(call["agent"]["id"], call["agent"]["name"]),
        "createdBy": call["createdBy"],
        "excuseMemo": "",
        "tag": ", ".join(tag["typeName"] for tag in call["tags"]),
        "lead": None,
    }


def make_appointment(company: Company, id_: int, ref: JobRef, *, ordinal: int, visit: Visit, stamp: Stamp) -> Record:
    """Make a jpm appointment, the `ordinal`-th of its job."""
    start = visit.start
    return {
        "id": id_,
        "jobId": ref.id,
        "appointmentNumber": f"{ref.number}-{ordinal}",
        "start": format_instant(start),
        "end": format_instant(start + 7200),
        "arrivalWindowStart": format_instant(start) if id_ % 4 else None,
        "arrivalWindowEnd": format_instant(start + 7200) if id_ % 4 else None,
        "status": visit.status,
        "specialInstructions": None if id_ % 9 else "Dog in the yard\nCall ahead",
        "createdOn": format_instant(stamp.created),
        "modifiedOn": format_instant(stamp.modified),
        "customerId": ref.party.customer_id,
        "unused": visit.status == "Canceled" and id_ % 2 == 0,
        "createdById": company.pick_employee(id_),
        "isConfirmed": visit.status != "Scheduled",
        "active": visit.active,
    }


def make_estimate(
    company: Company, id_: int, offer: Offer, modified: int, *, party: Party, unit: Unit | None, job: JobRef | None
) -> Record:
    """Make a sales estimate; it has `subtotal` and `tax` and no total."""
    sold = offer.sold
    return {
        "id": id_,
        "jobId": job and job.id,
        "projectId": None,
        "locationId": party.location_id,
        "customerId": party.customer_id,
        "name": None if id_ % 19 == 0 else ("Good", "Better", "Best")[id_ % 3],
        "jobNumber": job and job.number,
        "status": {"value": {"Open": 0, "Sold": 1, "Dismissed": 2}[offer.status], "name": offer.status},
        "reviewStatus": ("None", "None", "Approved", "NeedsApproval")[id_ % 4],
        "summary": None,
        "createdOn": format_instant(offer.created),
        "modifiedOn": format_instant(modified),
        "soldOn": None if sold is None else format_instant(sold),
        "soldBy": None if sold is None else company.pick_technician(id_),
        "active": offer.active,
        "items": None if id_ % 7 == 0 else [],
        "externalLinks": [],
        "subtotal": offer.cents / 100,
        "tax": round(offer.cents * 0.02) / 100,
        "businessUnitId": unit and unit.id,
        "businessUnitName": unit and unit.name,
        "isRecommended": not id_ % 3,
        "budgetCodeId": None,
        "isChangeOrder": offer.change_order,
        "proposalTagName": None,
    }


def _make_invoice_item(company: Company, bill: Bill, order: int, unit: Unit, written: str) -> Record:
    line = bill.lines[order]
    return {
        "id": bill.id * 10 + order,
        "quantity": "1.0000000000000000000" if company.is_untidy else "1.00",
        "cost": f"{line.cost / 100 + 0.0012345678:.10f}"
        if company.is_untidy and line.cost
        else format_money(line.cost),
        "totalCost": format_money(line.cost),
        "budgetCodeId": None,
        "inventoryLocationId": None,
        "inventoryLocation": None,
        "price": format_money(line.price),
        "type": line.kind,
        "skuName": line.kind.upper(),
        "skuId": 801 + order,
        "total": format_money(line.price),
        "inventory": line.kind == "Material",
        "taxable": line.kind != "Service",
        "isChargeable": True,
        "generalLedgerAccount": None if bill.id % 5 == 0 else ACCOUNTS[order > 0 and bill.id % 4 == 0],
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
        "businessUnit": _make_reference(unit.id, unit.name),
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


def make_invoice(
    company: Company, bill: Bill, ref: JobRef, modified: int | None, *, unit: Unit, item_unit: Unit
) -> Record:
    """Make an accounting invoice, whose balance is the total less what was paid.

    `unit` is its own business unit, `item_unit` that of its items: neither has to be the job's.
    """
    id_, day, tax, party = bill.id, bill.day, bill.tax, ref.party
    written = NO_INSTANT if ref.imported else format_instant(bill.created)
    address = _make_street(company, party)
    invoice = {
        "id": id_,
        "syncStatus": ("Pending", "Posted", "Exported", None)[id_ % 4],
        "budgetCodeId": None,
        "referenceNumber": bill.number,
        "invoiceDate": None if day is None else format_calendar_day(day),
        "dueDate": None if day is None or id_ % 12 == 0 else format_calendar_day(day + 30),
        "subTotal": format_money(bill.subtotal),
        "salesTax": format_money(tax),
        "salesTaxCode": {"id": 61, "name": company.state, "taxRate": 0.02} if tax else None,
        "taxZoneId": None,
        "total": format_money(bill.total),
        "balance": format_money(bill.total - bill.paid),
        "invoiceType": None,
        "customer": _make_reference(party.customer_id, party.name),
        "customerAddress": address if id_ % 10 else None,
        "location": _make_reference(party.location_id, party.name),
        "locationAddress": address,
        "businessUnit": _make_reference(unit.id, unit.name),
        "termName": "Due Upon Receipt",
        "createdBy": "office",
        "batch": None if id_ % 4 else {"id": 9001, "number": "9001", "name": "Weekly batch"},
        "depositedOn": None,
        "createdOn": written,
        "modifiedOn": None if modified is None else format_instant(modified),
        "adjustmentToId": bill.adjustment_to,
        "job": ref.id and {"id": ref.id, "number": ref.number, "type": ref.type_name},
        "projectId": None,
        "royalty": {"status": "Pending", "date": None, "sentOn": None, "memo": None},
        "employeeInfo": None,
        "commissionEligibilityDate": None,
        "sentStatus": ("NotSent", "Sent", "Opened")[id_ % 3],
        "reviewStatus": ("NeedsReview", "Reviewed", "Invoiced")[id_ % 3],
        "assignedTo": None,
        "summary": None,
        "items": [_make_invoice_item(company, bill, order, item_unit, written) for order in range(len(bill.lines))]
        or (None if id_ % 2 else []),
        "customFields": None,
        "active": bill.active,
        "discountTotal": "0.00",
        "importId": None,
        "exportId": None,
        "materialSkuId": None,
        "membershipId": None,
        "paidOn": None,
        "invoiceConfiguration": "JobInvoice" if ref.id else "CounterSales",
    }
    if company.is_untidy and id_ % 33 == 0:
        del invoice["customer"], invoice["customerAddress"]
    return invoice


def make_payment(
    id_: int,
    party: Party,
    unit: Unit,
    day: int,
    stamp: Stamp,
    *,
    applications: Sequence[Application],
    unapplied: int = 0,
    active: bool = True,
    refund_of: int | None = None,
) -> Record:
    """Make an accounting payment; its total is what is applied plus `unapplied` (cents)."""
    return {
        "active": active,
        "appliedTo": [
            {
                "appliedAmount": format_money(part.cents),
                "appliedBy": "office",
                "appliedId": part.id,
                "appliedOn": format_instant(part.on),
                "appliedTo": part.invoice_id,
                "appliedToReferenceNumber": part.invoice_number,
            }
            for part in applications
        ]
        or (None if id_ % 2 else []),
        "authCode": None,
        "batch": None,
        "businessUnit": _make_reference(unit.id, unit.name),
        "checkNumber": str(id_ % 10_000) if id_ % 3 == 0 else None,
        "createdBy": "office",
        "createdOn": format_instant(stamp.created),
        "customer": _make_reference(party.customer_id, party.name),
        "customFields": None if id_ % 2 else [],
        "date": format_calendar_day(day),
        "deposit": None,
        "generalLedgerAccount": None,
        "id": id_,
        "memo": None,
        "modifiedOn": format_instant(stamp.modified),
        "referenceNumber": str(id_),
        "refundedPaymentId": refund_of,
        "syncStatus": "Exported",
        "total": format_money(sum(part.cents for part in applications) + unapplied),
        "type": ("Check", "Credit Card", "ACH/EFT")[id_ % 3],
        "typeId": str(11 + id_ % 3),
        "unappliedAmount": format_money(unapplied),
    }


def make_credit_memo(
    company: Company,
    id_: int,
    ref: JobRef,
    day: int,
    stamp: Stamp,
    *,
    applications: Sequence[Application],
    unapplied: int,
    active: bool,
) -> Record:
    """Make an accounting credit memo: its total is what is applied to invoices plus `unapplied` (cents).

    As published, its money is numbers, and its days are calendar dates without a time.
    """
    total = sum(part.cents for part in applications) + unapplied
    party, address = ref.party, _make_street(company, ref.party)
    return {
        "id": id_,
        "date": _format_day(day),
        "referenceNumber": f"CM-{id_}",
        "subTotal": total / 100,
        "salesTax": 0.0,
        "salesTaxCode": None,
        "total": total / 100,
        "balance": unapplied / 100,
        "appliedTo": [
            {
                "appliedId": part.id,
                "appliedTo": part.invoice_id,
                "appliedAmount": part.cents / 100,
                "appliedOn": _format_day(company.clock.to_local_day(part.on)),
                "appliedBy": "office",
                "appliedToReferenceNumber": part.invoice_number,
            }
            for part in applications
        ]
        or (None if id_ % 2 else []),
        "customer": _make_reference(party.customer_id, party.name),
        "customerAddress": address,
        "location": _make_reference(party.location_id, party.name) if id_ % 3 else None,
        "locationAddress": address if id_ % 3 else None,
        "businessUnit": _make_reference(ref.unit.id, ref.unit.name),
        "syncStatus": "Exported",
        "batch": None,
        "customFields": None,
        "createdOn": format_instant(stamp.created),
        "createdBy": "office",
        "modifiedOn": format_instant(stamp.modified),
        "modifiedBy": "office",
        "description": None,
        "active": active,
        "importId": None,
        "exportId": None,
    }


def make_gross_pay_item(
    company: Company,
    id_: int | None,
    employee: int,
    unit: Unit,
    day: int,
    *,
    stamp: Stamp,
    source_id: int,
    kind: str,
    cents: int,
    hours: float | None = None,
    ref: JobRef | None = None,
) -> Record:
    """Make a payroll gross pay item. `id_` may be None, units are names, `jobId` 0 is pay without a job."""
    job_id, party = (ref.id, ref.party) if ref else (0, None)
    start, (activity, code) = company.clock.make_moment(day, 7), company.activities[0 if job_id else 1]
    return {
        "id": id_,
        "employeeId": employee,
        "employeeType": "Technician",
        "businessUnitName": unit.name,
        "payrollId": 60_000 + day // 7 * 100 + employee % 100,
        "employeePayrollId": None,
        "date": format_calendar_day(day),
        "activity": activity,
        "activityCodeId": company.first_setting_id + (101 if job_id else 102),
        "activityCode": code,
        "amount": cents / 100,
        "amountAdjustment": 0.0,
        "payoutBusinessUnitName": unit.name,
        "grossPayItemType": kind,
        "startedOn": None if hours is None else format_instant(start),
        "endedOn": None if hours is None else format_instant(start + round(hours * 3600)),
        "paidDurationHours": hours,
        "paidTimeType": None if hours is None else "Regular",
        "sourceEntityId": source_id,
        "jobId": job_id,
        "jobNumber": ref and ref.number,
        "jobTypeName": ref and ref.type_name,
        "projectNumber": None,
        "projectId": None,
        "invoiceId": ref and ref.invoice_id,
        "invoiceNumber": ref and ref.invoice_number,
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
        "createdOn": format_instant(stamp.created),
        "modifiedOn": format_instant(stamp.modified),
    }


def make_payroll_adjustment(
    company: Company, id_: int, employee: int, posted: int, *, cents: int, invoice_id: int
) -> Record:
    """Make a payroll adjustment. Its amount is also in a gross pay item: never add both."""
    return {
        "id": id_,
        "employeeType": "Technician",
        "employeeId": employee,
        "postedOn": format_instant(posted),
        "amount": cents / 100,
        "memo": "Spiff" if id_ % 2 else None,
        "activityCodeId": company.first_setting_id + 103,
        "invoiceId": invoice_id,
        "hours": None,
        "rate": None,
        "quantity": None,
        "type": ("Direct", "AddOn", "CommissionBased")[id_ % 3],
        "createdOn": format_instant(posted),
        "modifiedOn": format_instant(posted),
        "active": id_ % 15 != 0,
    }


def make_purchase_order(
    company: Company, id_: int, ref: JobRef, stamp: Stamp, status: str, *, goods: int, tax: int, shipping: int
) -> Record:
    """Make an inventory purchase order; `total` is goods, tax and shipping together (cents)."""
    written = format_instant(stamp.created)
    return {
        "id": id_,
        "number": str(id_),
        "invoiceId": None,
        "jobId": ref.id,
        "projectId": None,
        "status": status,
        "typeId": 41,
        "vendorId": 31 + id_ % 3,
        "technicianId": company.pick_technician(id_) if id_ % 2 else None,
        "shipTo": _make_street(company, ref.party),
        "businessUnitId": ref.unit.id,
        "inventoryLocationId": None,
        "batchId": None,
        "budgetCodeId": None,
        "vendorDocumentNumber": "",
        "date": written,
        "requiredOn": None if id_ % 3 else format_instant(stamp.created + 2 * DAY),
        "sentOn": None if status == "Pending" else written,
        "receivedOn": format_instant(stamp.modified) if status == "Received" else None,
        "createdOn": written,
        "modifiedOn": format_instant(stamp.modified),
        "total": (goods + tax + shipping) / 100,
        "tax": tax / 100,
        "shipping": shipping / 100,
        "summary": "",
        "items": [],
        "customFields": [],
    }


def make_vendor_bill(
    id_: int, ref: JobRef, stamp: Stamp, *, goods: int, tax: int = 0, shipping: int = 0, order_id: int | None = None
) -> Record:
    """Make an accounting vendor bill, of a purchase order (`order_id`) or of none; its money is strings.

    `billAmount` is goods, tax and shipping together (cents).
    """
    written = format_instant(stamp.created)
    return {
        "id": id_,
        "purchaseOrderId": order_id,
        "syncStatus": ("Pending", "Posted", "Exported")[id_ % 3],
        "referenceNumber": f"B{id_}",
        "vendorNumber": None if id_ % 4 else f"V-{id_ % 1000}",
        "summary": None,
        "billDate": written,
        "billAmount": format_money(goods + tax + shipping),
        "taxAmount": format_money(tax),
        "shippingAmount": format_money(shipping),
        "landedCostMethod": "None",
        "otherAmount": "0.00",
        "createdBy": "office",
        "createdOn": written,
        "modifiedOn": format_instant(stamp.modified),
        "termName": "Net 30",
        "dueDate": format_instant(stamp.created + 30 * DAY),
        "shipToDescription": None,
        "postDate": None,
        "batch": None,
        "businessUnit": _make_reference(ref.unit.id, ref.unit.name),
        "taxZone": None,
        "vendor": _make_reference(31 + id_ % 3, "Supply"),
        "shipTo": None,
        "budgetCodeId": None,
        "items": [],
        "customFields": [],
        "jobId": ref.id,
        "jobNumber": ref.number,
        "dateReconciled": None,
    }


def make_vendor_return(id_: int, ref: JobRef, order_id: int, created: int, *, cents: int, status: str) -> Record:
    """Make an inventory return, with a `returnAmount` and no total; a canceled one is inactive."""
    written = format_instant(created)
    return {
        "id": id_,
        "active": status != "Canceled",
        "number": str(id_),
        "referenceNumber": "",
        "status": status,
        "vendorId": 31 + id_ % 3,
        "purchaseOrderId": order_id,
        "jobId": ref.id,
        "projectId": None,
        "budgetCodeId": None,
        "businessUnitId": ref.unit.id,
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
