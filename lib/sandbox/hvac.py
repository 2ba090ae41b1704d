"""O'Brien & Daughters, of Delaware: heating, air conditioning and plumbing. Each unit sells and does its work alike.

Nothing of it is as in the painting company: its clock changes twice a year, its units have no regions and divisions,
its numbers are no ids, and much of it was imported.
"""

from __future__ import annotations

from sandbox.organization import Company, make_types
from sandbox.records import Unit
from sandbox.reports import DATE_TYPES, list_saved_reports
from sandbox.truth import JobTypeRules


def _make_unit(id_: int, name: str, rollup: str = "") -> Unit:
    """Make a unit; one that rolls up into another is retired."""
    return Unit(id_, name, rollup or name, "", "Both", "", active=not rollup, crew=rollup or name)


ESTIMATE_TYPES = make_types(
    70_002_001,
    ("Estimate - Replacement", 0.42, True),
    ("Estimate - Ductless", 0.18, True),
    ("FREE ESTIMATE Water Heater", 0.16, True),
    ("Indoor air estimate", 0.09, True),
    ("Second Opinion Estimate", 0.06, False),
)
CONSULTING_TYPES = make_types(
    70_002_101,
    ("Comfort Consultation", 0.06, True),
    ("Home Energy Audit", 0.03, True),
)

REPORTS = list_saved_reports(
    163_905_561, "FOREMAN Job Cost", repeated={"CampaignCategory": "Campaign", "Campaign": "Campaign"}
)

HVAC = Company(
    name="O'Brien & Daughters",
    time_zone="America/New_York",
    first_tenant_id=4_400_000,
    first_setting_id=70_000_000,
    first_id=5_012_000_000,
    first_night_id=8_000_000_000,
    units={
        _make_unit(70_001_001, "O'Brien Heating & Air"): 0.34,
        _make_unit(70_001_002, "Plumbing"): 0.22,
        _make_unit(70_001_003, "Service & Repair"): 0.20,
        _make_unit(70_001_004, "Install"): 0.12,
        _make_unit(70_001_005, 'Indoor Air "Fresh Start"'): 0.07,
        _make_unit(70_001_006, "Drains (old)", rollup="Plumbing"): 0.05,
    },
    strays=("Install", "Service & Repair", "Plumbing"),
    tills={"Install": "O'Brien Heating & Air"},
    estimate_types=ESTIMATE_TYPES,
    consulting_types=CONSULTING_TYPES,
    sold_types=make_types(
        70_002_201,
        ("Install - Heat Pump", 0.40, True),
        ("Install - Furnace", 0.28, True),
        ("Water Heater Replacement", 0.22, True),
        ("Repipe", 0.10, False),
    ),
    service_types=make_types(
        70_002_301,
        ("No Heat", 0.18, True),
        ("No Cooling", 0.20, True),
        ("Drain Clearing", 0.14, True),
        ("Maintenance Visit", 0.18, True),
        ("Safety Check", 0.06, True),
        ("Warranty - Parts & Labor", 0.09, True),
        ("Call-Back", 0.08, True),
        ("Call-Back Quote", 0.02, True),
        ("Leak Search", 0.05, False),
    ),
    free_types=frozenset({"Warranty - Parts & Labor", "Call-Back", "Call-Back Quote"}),
    rules=JobTypeRules(
        not_production=frozenset(kind.name for kind in ESTIMATE_TYPES + CONSULTING_TYPES) | {"Safety Check"},
        warranty=frozenset({"Warranty - Parts & Labor", "Call-Back"}),
    ),
    trade="HVAC",
    activities=(("Job time", "JOB"), ("Shop", "SHOP")),
    pay_codes=(("Job time", "Timesheet"), ("Shop", "Timesheet"), ("Spiff", "Commission"), ("Mileage", "Reimbursement")),
    campaigns=("Google", "Truck wrap", "Neighbor", "Postcard", "Radio Delmarva", "Home show"),
    tags=("Member", "Financing", "Attic access", "Old list"),
    custom_field="SEER",
    city="Dover",
    state="DE",
    first_zip=19_600,
    streets=("Maple", "Loockerman", "Dogwood", "Chestnut", "Bayard", "Sycamore", "Walnut", "Holly"),
    reports=REPORTS,
    date_types=tuple(sorted(DATE_TYPES)),
    numbers_by_year=True,
    is_untidy=True,
)
