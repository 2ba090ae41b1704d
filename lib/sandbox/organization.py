"""What one made-up company has and another has differently, and the settings records that follow from it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import date
from functools import cached_property

from sandbox.clock import Clock
from sandbox.records import DAY, EPOCH, JobType, Record, Unit, format_instant
from sandbox.reports import DATE_TYPES, Report
from sandbox.truth import JobTypeRules

FOUNDED = 1_580_000_000  # early 2020
_NAMES = ("Abo", "Brin", "Cato", "Dema", "Eska", "Fado", "Gwin", "Hale")


def to_day_number(day: date) -> int:
    """Count the days since 1970."""
    return (day - EPOCH).days


@dataclass(frozen=True)
class KnownCase:
    """Two stretches of days of one rolled-up unit whose figures are known.

    Nothing else of it is created on these days, completed or sold in the `week`. Other units have `others` jobs on the
    days of the `year_before`, at scale 1.
    """

    rollup: str
    year_before: range
    week: range
    others: int


@dataclass(frozen=True, eq=False)
class Company:
    """A made-up company, the same in every tenant but for what happens in it.

    - Ids of settings are `first_setting_id` and up, those of generated records `first_id` and up, those of records that
      nights add `first_night_id` and up.
    - `units` have their shares of the jobs. `strays` are the units of some estimates, invoices and items whose job has
      another one; `tills` says which unit takes another one's payments.
    - Work of `sold_types` was sold before, that of `service_types` is called for, at no charge if in `free_types`.
      `rules` are those that a person would write into job_type_rules.csv.
    - `numbers_by_year`: jobs have numbers such as 24-10233, and so have their invoices; else a number is the id.
    - `is_untidy`: some records were imported, some invoices name no customer, amounts have up to 19 decimals.
    - `date_types`: the dates that a report's DateType offers; their places are its values.
    """

    name: str
    time_zone: str
    first_tenant_id: int
    first_setting_id: int
    first_id: int
    first_night_id: int

    units: Mapping[Unit, float]
    strays: tuple[str, str, str]
    tills: Mapping[str, str]
    estimate_types: tuple[JobType, ...]
    consulting_types: tuple[JobType, ...]
    sold_types: tuple[JobType, ...]
    service_types: tuple[JobType, ...]
    free_types: frozenset[str]
    rules: JobTypeRules

    trade: str
    activities: tuple[tuple[str, str], tuple[str, str]]  # name and code of pay for a job, and of other pay
    pay_codes: tuple[tuple[str, str], ...]
    campaigns: tuple[str, ...]
    tags: tuple[str, ...]
    custom_field: str

    city: str
    state: str
    first_zip: int
    streets: tuple[str, ...]

    reports: tuple[Report, ...]
    date_types: tuple[str, ...] = tuple(DATE_TYPES)
    numbers_by_year: bool = False
    is_untidy: bool = False
    known: KnownCase | None = None

    @cached_property
    def clock(self) -> Clock:
        """The clock of its time zone."""
        return Clock(self.time_zone)

    @cached_property
    def unit_list(self) -> tuple[Unit, ...]:
        """The units, in the order in which they are drawn."""
        return tuple(self.units)

    @cached_property
    def unit_by_name(self) -> dict[str, Unit]:
        """The units by their names."""
        return {unit.name: unit for unit in self.units}

    @cached_property
    def lead_types(self) -> tuple[JobType, ...]:
        """The types of jobs that are to sell."""
        return self.estimate_types + self.consulting_types

    @cached_property
    def technicians(self) -> range:
        """The ids of the technicians."""
        return range(self.first_setting_id + 401, self.first_setting_id + 425)

    def pick_technician(self, id_: int) -> int:
        """Choose the technician of a record by its id."""
        return self.technicians[id_ % len(self.technicians)]

    def pick_employee(self, id_: int) -> int:
        """Choose the office employee of a record by its id."""
        return self.first_setting_id + 501 + id_ % 4

    def list_rollups(self) -> list[dict[str, str]]:
        """List the rows that a person would write into business_units.csv."""
        names = ("business_unit", "rollup", "region", "division", "segment")
        return [dict(zip(names, unit[1:6], strict=True)) for unit in self.units]


def make_types(first_id: int, *given: tuple[str, float, bool]) -> tuple[JobType, ...]:
    """Make job types of names, shares and whether each is active, with ids from the first one on."""
    return tuple(JobType(first_id + n, *each) for n, each in enumerate(given))


def _make_dates(id_: int) -> Record:
    return {"createdOn": format_instant(FOUNDED), "modifiedOn": format_instant(FOUNDED + id_ % 400 * DAY)}


def make_business_unit(company: Company, unit: Unit) -> Record:
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
        "trade": {"id": 3, "name": company.trade},
        "division": None,
        "tagTypeIds": [],
        "tenant": None,
        **_make_dates(unit.id),
        "externalData": [],
    }


def make_job_type(company: Company, kind: JobType) -> Record:
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
        "class": company.trade,
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
        "active": not name.startswith("Radio"),
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


def list_references(company: Company) -> Iterator[tuple[str, Record]]:
    """Yield every settings record of the company with its resource."""
    first, units = company.first_setting_id, company.unit_list
    kinds = company.lead_types + company.sold_types + company.service_types
    yield from (("business_units", make_business_unit(company, unit)) for unit in units)
    yield from (("job_types", make_job_type(company, kind)) for kind in kinds)
    yield from (
        ("technicians", make_technician(id_, units[n % len(units)])) for n, id_ in enumerate(company.technicians)
    )
    yield from (("employees", make_employee(company.pick_employee(n))) for n in range(4))
    yield from (
        ("campaigns", make_campaign(first + 201 + n, name, units[n] if n % 2 else None))
        for n, name in enumerate(company.campaigns)
    )
    yield from (("tag_types", make_tag_type(first + 301 + n, name)) for n, name in enumerate(company.tags))
    yield from (
        ("activity_codes", make_activity_code(first + 101 + n, *code)) for n, code in enumerate(company.pay_codes)
    )
