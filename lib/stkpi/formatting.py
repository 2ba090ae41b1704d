"""Numbers, changes and days as people in an office write them."""

from __future__ import annotations

import re
from datetime import date, datetime, timedelta
from decimal import Decimal
from fractions import Fraction
from zoneinfo import ZoneInfo

import pandas as pd

# Control characters, which a terminal obeys and SVG forbids, and the marks that turn the direction of what follows.
_CONTROLS = re.compile("[\x00-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff\ufffe\uffff]")


def format_number(value: Fraction | Decimal | float | None, kind: str) -> str:
    """Return a number of a kind (count, money, rate) to the last digit that matters; a dash for none.

    >>> format_number(Decimal("-1234.5"), "money")
    '-$1,234.50'
    """
    if value is None:
        return "—"
    exact = Fraction(value)
    if kind == "count":
        return f"{round(exact):,}"
    if kind == "rate":
        return f"{float(exact):.2%}"
    sign = "-" if exact < 0 else ""
    return f"{sign}${abs(Decimal(exact.numerator) / exact.denominator):,.2f}"


def format_change(value: Fraction | Decimal | float, kind: str) -> str:
    """Return a change with its sign: +3 · -$12.50 · +0.81 pt, ±0 for none."""
    if not value:
        return "±0"
    text = f"{float(value) * 100:+.2f} pt" if kind == "rate" else format_number(value, kind)
    return text if text[0] in "+-" else f"+{text}"


def format_span(first: date, last: date) -> str:
    """Return days as people say them: Aug 18 to Aug 24, 2025."""
    end = f"{last:%b} {last.day}, {last.year}"
    if first == last:
        return end
    year = "" if first.year == last.year else f", {first.year}"
    return f"{first:%b} {first.day}{year} to {end}"


def join_words(words: list[str], last: str = "and") -> str:
    """Return a list as people say it: a, b and c."""
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} {last} {words[-1]}" if words else ""


def format_rounded(value: float, kind: str) -> str:
    """Return a number as a manager writes it, by its kind (count, money, rate); a dash where there is none.

    >>> format_rounded(1234.4, "count"), format_rounded(1234.4, "money"), format_rounded(0.397, "rate")
    ('1,234', '$1,234', '39.7%')
    """
    if pd.isna(value):
        return "—"
    if kind == "rate":
        return f"{value:.1%}"
    sign = "-" if round(value) < 0 else ""
    return f"{sign}{'$' if kind == 'money' else ''}{abs(value):,.0f}"


def format_short_day(day: date) -> str:
    """Return a day of about now, without its year.

    >>> format_short_day(date(2025, 8, 4))
    'Aug 4'
    """
    return f"{day:%b} {day.day}"


def format_day(day: date) -> str:
    """Return a day as people say it.

    >>> format_day(date(2025, 8, 4))
    'Aug 4, 2025'
    """
    return f"{format_short_day(day)}, {day.year}"


def format_moment(moment: datetime, zone: str) -> str:
    """Return a moment as a clock in a time zone shows it.

    >>> format_moment(datetime.fromisoformat("2025-08-04T03:05:00Z"), "America/Phoenix")
    'Aug 3, 2025, 8:05 PM'
    """
    local = moment.astimezone(ZoneInfo(zone))
    return f"{format_day(local)}, {local.hour % 12 or 12}:{local:%M %p}"


def format_age(age: timedelta) -> str:
    """Return how long ago something was, in its largest unit.

    >>> [format_age(timedelta(minutes=m)) for m in (0, 1, 59, 90, 1439, 1440, 4400)]
    ['just now', '1 minute ago', '59 minutes ago', '1 hour ago', '23 hours ago', '1 day ago', '3 days ago']
    """
    minutes = int(age.total_seconds() // 60)
    for unit, length in (("day", 24 * 60), ("hour", 60), ("minute", 1)):
        if count := minutes // length:
            return f"{count:,} {unit}{'s' * (count > 1)} ago"
    return "just now"


def format_decimal(value: Fraction) -> str:
    """Return a number as plain digits, as JSON holds it."""
    return f"{Decimal(value.numerator) / value.denominator:f}"


def format_label(label: str) -> str:
    """Return the label of a KPI as it stands within a sentence: in lower case, abbreviations as they are.

    >>> [format_label("Success Rate"), format_label("Outstanding A/R"), format_label("GPM")]
    ['success rate', 'outstanding A/R', 'GPM']
    """
    return " ".join(word.lower() if word[1:].islower() else word for word in label.split())


def mask_name(name: object) -> str | None:
    """Return a name of which only the first letters are left; None for what is no name.

    >>> mask_name("Ann Lee")
    'A••• L•••'
    """
    return " ".join(f"{word[0]}•••" for word in name.split()) if isinstance(name, str) else None


def show_controls(text: str, keep: str = "\n\t") -> str:
    """Return a text with a sign in the place of each control character and each mark of direction.

    >>> show_controls("\x1b[31mred")
    '␛[31mred'
    """

    def show(found: re.Match[str]) -> str:
        character = found[0]
        if character in keep:
            return character
        return chr(0x2400 + ord(character)) if character < " " else "\ufffd"

    return _CONTROLS.sub(show, text)
