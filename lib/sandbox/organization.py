"""The made-up company: its branches, job types and people, the same in every tenant."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import count

from sandbox.records import DAY, JobType, Record, Unit, format_instant

TECHNICIANS = range(401, 425)
FOUNDED = 1_580_000_000  # early 2020
_NAMES = ("Abo", "Brin", "Cato", "Dema", "Eska", "Fado", "Gwin", "Hale")

BRANCHES = {"Phoenix": 0.28, "Tucson": 0.20, "Mesa": 0.16, "Scottsdale": 0.14, "Flagstaff": 0.12, "Yuma": 0.10}
SALES_SHARE = 0.6
COMMERCIAL_SHARE = {"Phoenix": 0.12, "Tucson": 0.15}


def _list_units() -> Iterator[tuple[Unit, float]]:
    """Yield every business unit with its share of the jobs."""
    ids = count(1001)
    for region, weight in BRANCHES.items():
        commercial = COMMERCIAL_SHARE.get(region, 0)
        for division, share in (("Sales", SALES_SHARE), ("Production", 1 - SALES_SHARE)):
            rollup = f"{region}-{division}"
            part = weight * share
            yield Unit(next(ids), rollup, rollup, region, division, "RES"), part * (1 - commercial)
            if commercial:
                name = f"{region}-Comm-{division}"
                yield Unit(next(ids), name, rollup, region, division, "COMM"), part * commercial
            if region == "Phoenix":
                name = f"Z-DO NOT USE - West - {division}"
                yield Unit(next(ids), name, rollup, region, division, "RES", active=False), part * 0.2
    yield Unit(next(ids), "Color Studio", "Color Studio", "", "", ""), 0.01


UNIT_SHARES = dict(_list_units())
UNITS = tuple(UNIT_SHARES)
UNIT = {unit.name: unit for unit in UNITS}

_TYPES = count(2001)


def _make_types(*given: tuple[str, float, bool]) -> tuple[JobType, ...]:
    """Make job types of names, shares and whether each is active, with the next ids."""
    return tuple(JobType(next(_TYPES), name, share, active) for name, share, active in given)


ESTIMATE_TYPES = _make_types(
    ("Estimate - Interior", 0.34, True),
    ("ESTIMATE Exterior", 0.28, True),
    ("Commercial estimate", 0.08, True),
    ("Cabinet eStImAtE", 0.08, True),
    ("Re-Estimate", 0.04, True),
    ("Estimate - Legacy Phone", 0.06, False),
)
CONSULTING_TYPES = _make_types(
    ("Color Consultation", 0.06, True),
    ("Virtual Estimation", 0.03, True),
    ("Sales Follow-up", 0.02, True),
    ("Legacy Sales Visit", 0.01, False),
)
LEAD_TYPES = ESTIMATE_TYPES + CONSULTING_TYPES
PAINTING_TYPES = _make_types(
    ("Interior Paint", 0.45, True),
    ("Exterior Paint", 0.38, True),
    ("Cabinet Refinishing", 0.10, True),
    ("Deck Coating", 0.07, False),
)
SERVICE_TYPES = _make_types(
    ("PM Inspection", 0.16, True),
    ("Safety Inspection", 0.10, True),
    ("Window/Solar Washing", 0.14, True),
    ("Warranty", 0.16, True),
    ("Touchup", 0.14, True),
    ("Warranty Callback", 0.05, True),
    ("PM Inspection - Recheck", 0.05, True),
    ("Estimate - Touchup", 0.05, True),
    ("Drywall Repair", 0.15, False),
)
JOB_TYPES = LEAD_TYPES + PAINTING_TYPES + SERVICE_TYPES
FREE_WORK = {"Warranty", "Touchup", "Warranty Callback", "Estimate - Touchup"}


def _make_dates(id_: int) -> Record:
    return {"createdOn": format_instant(FOUNDED), "modifiedOn": format_instant(FOUNDED + id_ % 400 * DAY)}


def make_business_unit(unit: Unit) -> Record:
    """Make a settings business unit; ServiceTitan's own `division` is not the one of business_units.csv."""
    return {
        "id": unit.id,
        "active": unit.active,
        "name": unit.name,
        "officialName": None,
        "email": None,
        "currency": "USD",
        "phoneNumber": None,
        "invoiceHeader": "",
        "invoiceMessage": None,
        "defaultTaxRate": 0.02,
        "authorizationParagraph": None,
        "acknowledgementParagraph": None,
        "address": None,
        "materialSku": None,
        "quickbooksClass": None,
        "accountCode": None,
        "franchiseId": None,
        "conceptCode": None,
        "corporateContractNumber": None,
        "trade": {"id": 3, "name": "Painting"},
        "division": None,
        "tagTypeIds": [],
        "tenant": None,
        **_make_dates(unit.id),
        "externalData": [],
    }


def make_job_type(kind: JobType) -> Record:
    """Make a jpm job type."""
    return {
        "id": kind.id,
        "name": kind.name,
        "businessUnitIds": [],
        "skills": [],
        "tagTypeIds": [],
        "priority": "Normal",
        "duration": 7200,
        "soldThreshold": None if kind.id % 2 else 100.0,
        "class": "Painting",
        "summary": "",
        "noCharge": False,
        "enforceRecurringServiceEventSelection": None,
        "invoiceSignaturesRequired": False,
        **_make_dates(kind.id),
        "externalData": [],
        "active": kind.active,
        "isSmartDispatched": False,
    }


def make_technician(id_: int, unit: Unit) -> Record:
    """Make a settings technician. The field really is called `appoitmentId`."""
    first, last = _NAMES[id_ % 8], f"{_NAMES[id_ // 8 % 8]}lin"
    return {
        "id": id_,
        "userId": id_ + 1000,
        "name": f"{first} {last}",
        "roleIds": None,
        "businessUnitId": unit.id,
        "mainZoneId": None,
        "zoneIds": [],
        **_make_dates(id_),
        "email": None,
        "phoneNumber": None,
        "loginName": None,
        "home": None,
        "dailyGoal": 1500.0,
        "isManagedTech": True,
        "licenseType": "ManagedTech",
        "customFields": [],
        "active": id_ % 8 != 0,
        "aadUserId": None,
        "burdenRate": 0.0,
        "team": None,
        "jobFilter": None,
        "permissions": [],
        "accountLocked": None,
        "commissionRate": 0.0,
        "currentValue": None,
        "firstName": first,
        "lastName": last,
        "hourlyRate": 28.0,
        "jobId": None,
        "mobilePhone": None,
        "outboundCallerId": None,
        "payrollId": None,
        "payrollProfileId": None,
        "appoitmentId": None,
        "shiftStart": None,
        "shiftEnd": None,
        "soldByRate": 0.0,
        "startDate": None,
        "status": "Idle",
        "skills": [],
        "positions": ["Installer"],
        "location": None,
        "bio": None,
        "memo": None,
    }


def make_employee(id_: int) -> Record:
    """Make a settings employee."""
    return {
        "id": id_,
        "userId": id_ + 1000,
        "name": f"{_NAMES[id_ % 8]} Ofis",
        "firstName": _NAMES[id_ % 8],
        "lastName": "Ofis",
        "managerId": None,
        "role": "CSR",
        "roleIds": None,
        "businessUnitId": None,
        **_make_dates(id_),
        "email": None,
        "phoneNumber": None,
        "loginName": None,
        "active": id_ % 4 != 0,
        "aadUserId": None,
        "accountLocked": None,
        "home": None,
        "agentId": 0,
        "startDate": None,
        "terminationDate": None,
        "hourlyRate": 0.0,
        "overtimeProfileId": None,
        "customFields": [],
        "permissions": None,
    }


def make_campaign(id_: int, name: str, unit: Unit | None) -> Record:
    """Make a marketing campaign; its business unit is a name."""
    return {
        "id": id_,
        "name": name,
        **_make_dates(id_),
        "active": name != "Radio 2023",
        "isDefaultCampaign": None,
        "category": {"id": 21, "name": "Advertising", "active": True} if unit else None,
        "source": None,
        "otherSource": None,
        "businessUnit": unit and unit.name,
        "medium": None,
        "otherMedium": None,
        "campaignPhoneNumbers": [],
    }


def make_tag_type(id_: int, name: str) -> Record:
    """Make a settings tag type."""
    return {
        "id": id_,
        "name": name,
        "color": "#336699",
        "code": name[:2].upper(),
        "importance": None if id_ % 2 else "High",
        "isConversionOpportunity": False,
        "allowToUseOnTimesheetActivity": False,
        "isVisibleOnDispatchBoard": True,
        "active": name != "Old list",
        **_make_dates(id_),
    }


def make_activity_code(id_: int, name: str, category: str) -> Record:
    """Make a payroll activity code."""
    return {
        "id": id_,
        "name": name,
        "code": name.upper(),
        "earningCategory": category,
        **_make_dates(id_),
        "active": name != "Mileage",
    }


def list_references() -> Iterator[tuple[str, Record]]:
    """Yield every settings record of the company with its resource."""
    yield from (("business_units", make_business_unit(unit)) for unit in UNITS)
    yield from (("job_types", make_job_type(kind)) for kind in JOB_TYPES)
    yield from (
        ("technicians", make_technician(TECHNICIANS[n], UNITS[n % len(UNITS)])) for n in range(len(TECHNICIANS))
    )
    yield from (("employees", make_employee(501 + n)) for n in range(4))
    names = ("Web", "Yard sign", "Referral", "Direct mail", "Radio 2023", "Home show")
    yield from (
        ("campaigns", make_campaign(201 + n, name, UNITS[n] if n % 2 else None)) for n, name in enumerate(names)
    )
    tags = ("VIP", "HOA", "Two story", "Old list")
    yield from (("tag_types", make_tag_type(301 + n, name)) for n, name in enumerate(tags))
    codes = (("Paint", "Timesheet"), ("Shop", "Timesheet"), ("Spiff", "Commission"), ("Mileage", "Reimbursement"))
    yield from (("activity_codes", make_activity_code(101 + n, *code)) for n, code in enumerate(codes))
