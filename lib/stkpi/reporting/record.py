"""Record what a notebook found, for the run that it is a step of."""

from __future__ import annotations

import json
from typing import Any

from IPython.display import display

from stkpi.warehouse import USAGE

RECORD_MIME = "application/vnd.stkpi+json"


def record(**values: Any) -> None:
    """Record the results of a step (any JSON; dates and Decimals as text), for the runner's summary.json.

    Names that the summary knows: status ("ok", "partial", "failed"), error, as_of, ingest, checks, observed.
    `validation` is written to validation.json, each of `lines` to the terminal under the step's own, and `files` (see
    `tables.attach_files`) beside the page. What BigQuery bills the notebook's process for is added as bytes_billed.
    """
    if USAGE.statements:
        values["bytes_billed"] = USAGE.billed
    values = json.loads(json.dumps(values, default=str))
    display({RECORD_MIME: values, "text/plain": f"Recorded: {', '.join(values)}"}, raw=True)
