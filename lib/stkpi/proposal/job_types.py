"""Guess which job types are warranty work, and which are no production: by name, and by what their jobs do."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from stkpi import company

WARRANTY, EXCLUDED = "warranty", "excluded_from_production"
_WARRANTY = re.compile(
    r"\bwarrant(y|ies)\b|\bcall[\s-]*backs?\b|\bgo[\s-]*backs?\b|\btouch[\s-]*ups?\b|\bre-?do(es|ne)?\b", re.IGNORECASE
)
_ESTIMATE = re.compile(r"estimat|\bsales\b|\bconsult", re.IGNORECASE)
_NO_WORK = re.compile(
    r"\bpto\b|\bvacation\b|\bholidays?\b|\bsick\b|\btime off\b|\bday off\b|\bmeetings?\b|\btraining\b|\blunch\b"
    r"|\binterviews?\b|\bride[\s-]*along\b",
    re.IGNORECASE,
)


@dataclass(frozen=True)
class JobType:
    """A job type, how many jobs it has, and how many of them have an invoice over $0."""

    name: str
    jobs: int = 0
    invoiced: int = 0


def names_a_rule(name: str) -> bool:
    """Whether the name of a job type speaks of warranty work, an estimate or no work at all."""
    return any(pattern.search(name) for pattern in (_WARRANTY, _ESTIMATE, _NO_WORK))


def propose_rules(types: Sequence[JobType], known: Iterable[str]) -> list[dict[str, str]]:
    """Return a row of job_type_rules.csv, its reason in `guess`, for each type whose name speaks of a rule and that is
    not among `known`.

    Nothing with invoices over $0 is left out of production: its money would be missing. Its row has an empty rule.
    """
    known = set(known)
    return [_propose_rule(kind) for kind in types if kind.name not in known and names_a_rule(kind.name)]


def _propose_rule(kind: JobType) -> dict[str, str]:
    is_estimate = bool(_ESTIMATE.search(kind.name))
    if _WARRANTY.search(kind.name) and not is_estimate:
        rule, guess = WARRANTY, "warranty by name"
    elif kind.invoiced:
        rule, guess = (
            "",
            f"named like no production, but {kind.invoiced} of its {kind.jobs} jobs are invoiced: it counts",
        )
    elif kind.jobs:
        rule, guess = EXCLUDED, f"no production by name; none of its {kind.jobs} jobs is invoiced"
    else:
        rule, guess = EXCLUDED, "no production by name"
    return {"job_type": kind.name, "rule": rule, company.GUESS: guess}
