"""CSV files that a person opens in a spreadsheet program, which takes a text such as `=HYPERLINK(…)` for a formula.

A text that begins like a formula gets an apostrophe before it, and loses it when it is read again (`restore_cell`).
"""

from __future__ import annotations

import re
from typing import Any

import pandas as pd

# What Excel, LibreOffice and Google Sheets take for a formula; an amount is none. JavaScript reads it the same way.
FORMULA = r"^(?!\s*[-+]?\$?[\d.,]+%?(?![\s\S]))'*\s*[-=+@\t\r\uff1d\uff0b\uff0d\uff20|%]"
_FORMULA = re.compile(FORMULA)
_PROTECTED = re.compile(r"'+\s*[-=+@\t\r\uff1d\uff0b\uff0d\uff20|%]")


def protect_cell(value: Any) -> Any:
    """Return the value to write for a cell: a text that would be a formula with an apostrophe before it.

    >>> protect_cell("=1+1"), protect_cell("-$12.50"), protect_cell("O'Neil")
    ("'=1+1", '-$12.50', "O'Neil")
    """
    # A letter or a digit comes first in most cells: then it is none, and a pattern takes longer to say so.
    return f"'{value}" if isinstance(value, str) and not value[:1].isalnum() and _FORMULA.match(value) else value


def restore_cell(text: str) -> str:
    """Return the text that `protect_cell` was given."""
    return text[1:] if _PROTECTED.match(text) else text


def format_csv(frame: pd.DataFrame) -> str:
    """Return a frame as CSV, header included, that is safe to open in a spreadsheet program."""
    shown = frame.rename(columns=protect_cell)
    for place, column in enumerate(frame.columns):
        if not pd.api.types.is_numeric_dtype(frame[column]):
            shown.isetitem(place, list(map(protect_cell, frame.iloc[:, place].tolist())))
    return str(shown.to_csv(index=False))
