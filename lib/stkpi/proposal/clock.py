"""Check the time zone of the settings by the hours at which jobs start: nobody paints at three in the night."""

from __future__ import annotations

from datetime import date, timedelta

import pandas as pd

from stkpi import warehouse
from stkpi.marts.build import SQL

RECENT = timedelta(days=180)
WORKING_HOURS = (6, 20)
NOON = 12
_FEW = 20  # starts that say something
_ZONES = (
    *("America/New_York", "America/Chicago", "America/Denver", "America/Phoenix", "America/Los_Angeles"),
    *("America/Anchorage", "Pacific/Honolulu"),
)


def read_starts(target: warehouse.Warehouse, as_of: date) -> pd.DataFrame:
    """Return when the newest appointments start: columns hour (UTC) and starts; no rows before their first ingest."""
    sql = (SQL / "proposal" / "starts.sql").read_text(encoding="utf-8")
    try:
        return target.query(sql, since=as_of - RECENT)
    except target.NotFound:
        return pd.DataFrame(columns=["hour", "starts"])


def check_time_zone(starts: pd.DataFrame, zone: str) -> str | None:
    """Return the sentence that asks whether the time zone is right, with one that fits; None where most starts are at
    working hours.
    """
    if starts.empty or starts["starts"].sum() < _FEW or _measure_fit(starts, zone)[0] >= 0.5:  # noqa: PLR2004 most
        return None
    best = max(_ZONES, key=lambda each: _measure_fit(starts, each))
    return f"Jobs seem to start at night: is TIME_ZONE={zone} right? They would fit {best}."


def _measure_fit(starts: pd.DataFrame, zone: str) -> tuple[float, float]:
    """Return the share of the starts at working hours, and how near to noon they are on average."""
    hours, weights = starts["hour"].dt.tz_convert(zone).dt.hour, starts["starts"]
    first, last = WORKING_HOURS
    share = weights[hours.between(first, last - 1)].sum() / weights.sum()
    return float(share), -abs(float((hours * weights).sum() / weights.sum()) - NOON)
