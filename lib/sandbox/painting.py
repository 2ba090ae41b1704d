"""Desert Sun Painting, of Arizona: six branches, each with a unit that sells and one that paints."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import date
from itertools import count

from sandbox.organization import Company, KnownCase, make_types, to_day_number
from sandbox.records import Unit
from sandbox.reports import (
    DATE_TYPE,
    DAYS,
    JOB_COST_FIELDS,
    LAST_DAY,
    UNITS,
    Report,
    list_collections,
    list_job_costs,
    list_leads,
    list_receivables,
    list_saved_reports,
    list_unit_totals,
    parse_fields,
)
from sandbox.truth import JobTypeRules

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
            crew = f"{region} RES"
            yield Unit(next(ids), rollup, rollup, region, division, "RES", crew=crew), part * (1 - commercial)
            if commercial:
                name = f"{region}-Comm-{division}"
                yield (
                    Unit(next(ids), name, rollup, region, division, "COMM", crew=f"{region} COMM"),
                    part * commercial,
                )
            if region == "Phoenix":
                name = f"Z-DO NOT USE - West - {division}"
                yield Unit(next(ids), name, rollup, region, division, "RES", active=False, crew=crew), part * 0.2
    yield Unit(next(ids), "Color Studio", "Color Studio", "", "", ""), 0.01


UNIT_SHARES = dict(_list_units())

REPORTS = (
    Report(
        id=1001,
        category="marketing",
        name="Leads",
        description="Jobs of an estimate type by the day they were created, without test customers",
        parameters=(*DAYS, UNITS),
        fields=parse_fields("""
            JobNumber           String  Job #
            LeadType            String  Lead Type
            EstimateNumber      String  Estimate #
            EstimateSoldDate    Date    Estimate Sold Date
            BusinessUnit        String  Job\u2019s Business Unit
            CustomerName        String  Customer Name
            EstimateSubtotal    Number  Estimate Subtotal
            SalesOpportunity    Number  Sales Opportunity
            Closed              Number  Closed
            JobCreatedDate      Date    Job Created Date
        """),
        rows=list_leads,
    ),
    Report(
        id=1002,
        category="business-unit-dashboard",
        name="Daily WBR by business unit",
        description="Completed estimates by completion, opportunities by first sale or completion, sales by sale",
        parameters=(*DAYS, UNITS),
        fields=parse_fields("""
            BusinessUnit        String  Business Unit
            CompletedJobs       Number  Completed Jobs
            SalesOpportunity    Number  Sales Opportunity
            Closed              Number  Closed
            CloseRate           Number  Close Rate
            TotalSales          Number  Total Sales
        """),
        rows=list_unit_totals,
    ),
    Report(
        id=1003,
        category="operations",
        name="FOREMAN Job Cost",
        description="Jobs by the day they start, inspections and washing left out, with what they cost",
        parameters=(*DAYS, UNITS),
        fields=JOB_COST_FIELDS,
        rows=list_job_costs,
    ),
    Report(
        id=1004,
        category="accounting",
        name="Collections",
        description="Payments by their date, a row for each invoice they were applied to",
        parameters=(*DAYS, UNITS),
        fields=parse_fields("""
            PaymentDate         Date    Payment Date
            BusinessUnit        String  Business Unit
            CustomerName        String  Customer Name
            PaymentNumber       String  Payment #
            PaymentType         String  Payment Type
            InvoiceNumber       String  Invoice #
            Amount              Number  Amount
        """),
        rows=list_collections,
    ),
    Report(
        id=1005,
        category="accounting",
        name="AR Report",
        description="Invoices with a balance at the end of a day, locations that owe less than $10 left out",
        parameters=(LAST_DAY, UNITS),
        fields=parse_fields("""
            InvoiceNumber       String  Invoice #
            InvoiceDate         Date    Invoice Date
            BusinessUnit        String  Business Unit
            CustomerName        String  Customer Name
            LocationName        String  Location Name
            JobNumber           String  Job #
            Total               Number  Total
            Balance             Number  Balance
        """),
        rows=list_receivables,
    ),
    Report(
        id=1006,
        category="operations",
        name="Job Cost by any date",
        description="The columns of FOREMAN Job Cost, by the date of the job that is chosen",
        parameters=(DATE_TYPE, *DAYS, UNITS),
        fields=JOB_COST_FIELDS,
        rows=list_job_costs,
    ),
    *list_saved_reports(1011, "*Job Cost - THIS WEEK ONLY* - API", repeated={"Campaign": "Job Type"}),
)

PAINTING = Company(
    name="Desert Sun Painting",
    time_zone="America/Phoenix",
    first_tenant_id=1_000_000,
    first_setting_id=0,
    first_id=1_000_000,
    first_night_id=3_000_000_000,
    units=UNIT_SHARES,
    strays=("Tucson-Production", "Mesa-Sales", "Yuma-Production"),
    tills={unit.name: f"{unit.region}-Sales" for unit in UNIT_SHARES if unit.region},
    estimate_types=make_types(
        2001,
        ("Estimate - Interior", 0.34, True),
        ("ESTIMATE Exterior", 0.28, True),
        ("Commercial estimate", 0.08, True),
        ("Cabinet eStImAtE", 0.08, True),
        ("Re-Estimate", 0.04, True),
        ("Estimate - Legacy Phone", 0.06, False),
    ),
    consulting_types=make_types(
        2007,
        ("Color Consultation", 0.06, True),
        ("Virtual Estimation", 0.03, True),
        ("Sales Follow-up", 0.02, True),
        ("Legacy Sales Visit", 0.01, False),
    ),
    sold_types=make_types(
        2011,
        ("Interior Paint", 0.45, True),
        ("Exterior Paint", 0.38, True),
        ("Cabinet Refinishing", 0.10, True),
        ("Deck Coating", 0.07, False),
    ),
    service_types=make_types(
        2015,
        ("PM Inspection", 0.16, True),
        ("Safety Inspection", 0.10, True),
        ("Window/Solar Washing", 0.14, True),
        ("Warranty", 0.16, True),
        ("Touchup", 0.14, True),
        ("Warranty Callback", 0.05, True),
        ("PM Inspection - Recheck", 0.05, True),
        ("Estimate - Touchup", 0.05, True),
        ("Drywall Repair", 0.15, False),
    ),
    free_types=frozenset({"Warranty", "Touchup", "Warranty Callback", "Estimate - Touchup"}),
    rules=JobTypeRules(),
    trade="Painting",
    activities=(("Painting", "PAINT"), ("Shop", "SHOP")),
    pay_codes=(("Paint", "Timesheet"), ("Shop", "Timesheet"), ("Spiff", "Commission"), ("Mileage", "Reimbursement")),
    campaigns=("Web", "Yard sign", "Referral", "Direct mail", "Radio 2023", "Home show"),
    tags=("VIP", "HOA", "Two story", "Old list"),
    custom_field="Gallons",
    city="Phoenix",
    state="AZ",
    first_zip=85_000,
    streets=("Saguaro", "Ocotillo", "Mesquite", "Palo Verde", "Juniper", "Agave", "Cholla", "Ironwood"),
    reports=REPORTS,
    known=KnownCase(
        rollup="Phoenix-Sales",
        year_before=range(to_day_number(date(2024, 8, 18)), to_day_number(date(2024, 8, 25))),
        week=range(to_day_number(date(2025, 8, 18)), to_day_number(date(2025, 8, 25))),
        others=499,  # 633 jobs in all
    ),
)
