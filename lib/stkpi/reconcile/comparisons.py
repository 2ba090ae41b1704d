"""How each KPI is compared with its report, as data: what identifies a row, which columns are held against each other,
which predicates of the definition a row must meet, and what the number is made of.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from decimal import Decimal
from fractions import Fraction

from stkpi.errors import UserError
from stkpi.reconcile.exports import Export

CENT = Decimal("0.01")


@dataclass(frozen=True)
class Column:
    """An amount that both sides have: on theirs the sum of the fields of the export, or 1 for a row without fields.

    flag: where a key is listed several times, it counts once and not every time
    where: a trait of the record (a column of the explaining query) without which the amount is not counted
    tolerance: the largest difference that counts as equal
    """

    name: str
    fields: tuple[str, ...] = ()
    where: str | None = None
    flag: bool = False
    tolerance: Decimal = Decimal(0)


@dataclass(frozen=True)
class Comparison:
    """One KPI against its report.

    key: the fields of the export that identify a row; the first one must be filled
    explain: sql/reconcile/explain_<it>.sql tells the predicates of a row
    date: the date of the definition, as the explaining query calls it without `_date`
    predicates: columns of the explaining query that must hold
    changed: the column that says when the record was last changed
    needs: fields of the export without which the comparison means nothing
    only, never: rows of the export that count: those with this field filled (not 0), and not of this value
    distinct: the number counts customers instead of summing columns
    parts, whole: the number is the sum of the parts (columns, less those with a minus) over the whole, if it has one
    label, kind: what people call it; count, money or rate
    """

    name: str
    label: str
    kind: str
    division: str
    rows: str
    key: tuple[str, ...]
    explain: str
    date: str
    predicates: tuple[str, ...]
    needs: tuple[str, ...] = ()
    columns: tuple[Column, ...] = ()
    parts: tuple[str, ...] = ()
    whole: str | None = None
    distinct: bool = False
    only: str | None = None
    never: tuple[str, str] | None = None
    changed: str = "modified_on"

    def number(self, customers: int, sums: Mapping[str, Decimal]) -> Fraction:
        """The KPI of distinct customers and sums of columns; a ratio without a denominator counts as zero."""
        if self.distinct:
            return Fraction(customers)
        total = Fraction(sum(-sums[part[1:]] if part.startswith("-") else sums[part] for part in self.parts))
        if self.whole is None:
            return total
        whole = Fraction(sums[self.whole])
        return total / whole if whole else Fraction(0)


_UNIT = ("in_division", "in_unit")
_ESTIMATE = (*_UNIT, "has_type_name", "is_estimate")
_JOB = {"key": ("job_number",), "explain": "jobs", "rows": "jobs"}
_PRODUCTION = {"division": "Production", "date": "start", "changed": "work_modified_on", **_JOB}
_PRODUCED = Column("produced", ("jobs_subtotal",), tolerance=CENT)

COMPARISONS: Mapping[str, Comparison] = {
    comparison.name: comparison
    for comparison in (
        Comparison(
            "leads",
            "leads",
            "count",
            "Sales",
            date="created",
            predicates=(*_ESTIMATE, "is_real_customer"),
            distinct=True,
            **_JOB,
        ),
        Comparison(
            "estimates",
            "estimates",
            "count",
            "Sales",
            date="completed",
            predicates=(*_ESTIMATE, "is_completed"),
            columns=(Column("jobs", flag=True),),
            parts=("jobs",),
            **_JOB,
        ),
        Comparison(
            "success_rate",
            "success rate",
            "rate",
            "Sales",
            date="opportunity",
            predicates=(*_UNIT, "has_outcome", "is_charged"),
            needs=("closed",),
            columns=(Column("opportunities", flag=True), Column("closed", ("closed",), flag=True)),
            parts=("closed",),
            whole="opportunities",
            only="sales_opportunity",
            changed="work_modified_on",
            **_JOB,
        ),
        Comparison(
            "total_booked",
            "total booked",
            "money",
            "Sales",
            rows="sold estimates",
            key=("estimate_number",),
            explain="estimates",
            date="sold",
            predicates=("is_active", *_UNIT, "is_sold"),
            needs=("estimate_subtotal",),
            columns=(Column("amount", ("estimate_subtotal",), tolerance=CENT),),
            parts=("amount",),
            only="sold_date",
        ),
        Comparison(
            "dollars_produced",
            "$ produced",
            "money",
            predicates=(*_UNIT, "is_production_type"),
            needs=("jobs_subtotal",),
            columns=(_PRODUCED,),
            parts=("produced",),
            **_PRODUCTION,
        ),
        Comparison(
            "gpm",
            "GPM",
            "rate",
            predicates=(*_UNIT, "is_production_type"),
            needs=("jobs_subtotal", "labor_pay", "payroll_adjustments"),
            columns=(_PRODUCED, Column("labor", ("labor_pay", "payroll_adjustments"), tolerance=CENT)),
            parts=("produced", "-labor"),
            whole="produced",
            **_PRODUCTION,
        ),
        Comparison(
            "warranty_rate",
            "warranty rate",
            "rate",
            predicates=(*_UNIT, "is_production_type"),
            needs=("jobs_subtotal", "total_costs"),
            columns=(_PRODUCED, Column("warranty_cost", ("total_costs",), where="is_warranty", tolerance=CENT)),
            parts=("warranty_cost",),
            whole="produced",
            **_PRODUCTION,
        ),
        Comparison(
            "future_bookings",
            "future bookings",
            "money",
            predicates=(*_UNIT, "is_production_type", "is_not_canceled", "is_created_in_time"),
            needs=("jobs_subtotal",),
            columns=(_PRODUCED,),
            parts=("produced",),
            never=("status", "Canceled"),
            **_PRODUCTION,
        ),
        Comparison(
            "dollars_collected",
            "$ collected",
            "money",
            "Production",
            rows="payments",
            key=("payment_number", "invoice_number"),
            explain="payments",
            date="paid",
            predicates=("is_active", *_UNIT, "has_amount"),
            needs=("amount",),
            columns=(Column("amount", ("amount",), tolerance=CENT),),
            parts=("amount",),
        ),
        Comparison(
            "outstanding_ar",
            "outstanding A/R",
            "money",
            "Production",
            rows="invoices",
            key=("invoice_number",),
            explain="invoices",
            date="invoiced",
            predicates=("is_active", *_UNIT, "has_balance", "is_large"),
            needs=("balance",),
            columns=(Column("balance", ("balance",), tolerance=CENT),),
            parts=("balance",),
        ),
        Comparison(
            "estimates_scheduled",
            "estimates scheduled",
            "count",
            "Sales",
            date="scheduled",
            predicates=(*_ESTIMATE, "has_appointment"),
            columns=(Column("jobs", flag=True),),
            parts=("jobs",),
            **_JOB,
        ),
    )
}

# What a file is taken for while nobody says it: the first line whose fields it has.
_TAKEN_FOR = (
    (("balance", "invoice_number"), "outstanding_ar"),
    (("payment_number", "amount"), "dollars_collected"),
    (("jobs_subtotal", "job_number"), "dollars_produced"),
    (("opportunity_date", "job_number"), "success_rate"),
    (("lead_type", "job_number"), "leads"),
    (("estimate_number", "estimate_subtotal"), "total_booked"),
    (("completed_date", "job_number"), "estimates"),
    (("start_date", "job_number"), "estimates_scheduled"),
    (("job_number",), "leads"),
)
# The columns of ServiceTitan's totals by unit, and the KPI that each is.
SUMMARY = {"completed_jobs": "estimates", "close_rate": "success_rate", "total_sales": "total_booked"}


def is_summary(export: Export) -> bool:
    """Whether the export has a row per business unit and no rows behind its numbers."""
    return "job_number" not in export.headers and any(field in export.headers for field in SUMMARY)


def taken_for(export: Export, kpi: str = "") -> Comparison:
    """The comparison that an export is good for: `kpi` if it is named, else by its columns.

    Raises UserError for an unknown KPI, and for an export without the columns that the comparison needs.
    """
    if kpi and kpi not in COMPARISONS:
        raise UserError(f"There is no KPI {kpi}: take one of {', '.join(COMPARISONS)}.")
    has = export.headers.keys()
    name = kpi or next((name for fields, name in _TAKEN_FOR if has >= set(fields)), None)
    if name is None:
        raise UserError(
            f"{export.name} does not say which number it is: its columns are {', '.join(export.headers.values())}. "
            "Name one with KPI=, such as KPI=leads."
        )
    comparison = COMPARISONS[name]
    missing = [field for field in (*comparison.key, *comparison.needs) if field not in has]
    if missing and export.headers:
        raise UserError(
            f"{export.name} cannot be compared with {comparison.label}: it has no column for "
            f"{', '.join(missing).replace('_', ' ')}, only {', '.join([*export.headers.values(), *export.unknown])}. "
            "Name another KPI= or export the report with that column."
        )
    return comparison
