"""JSON log lines in `log.jsonl` beside the warehouse: one event per page, window and entity, without secrets."""

from __future__ import annotations

import logging
from datetime import UTC, datetime
from logging.handlers import RotatingFileHandler
from pathlib import Path
from typing import Any

import orjson

_LOGGER = logging.getLogger("stkpi")
_secrets: set[str] = set()


def hide(*secrets: str | None) -> None:
    """Keep these values out of all log lines, and of all texts that pass through `redact`."""
    _secrets.update(secret for secret in secrets if secret)


def redact(text: str) -> str:
    """Return the text with every hidden value replaced by ***."""
    for secret in sorted(_secrets, key=len, reverse=True):
        text = text.replace(secret, "***")
    return text


def write_to(path: Path) -> None:
    """Append all further events to this file, which rotates at 20 MB."""
    for handler in list(_LOGGER.handlers):
        _LOGGER.removeHandler(handler)
        handler.close()
    path.parent.mkdir(parents=True, exist_ok=True)
    handler = RotatingFileHandler(path, maxBytes=20_000_000, backupCount=3, encoding="utf-8", delay=True)
    handler.setFormatter(logging.Formatter("%(message)s"))
    _LOGGER.addHandler(handler)
    _LOGGER.setLevel(logging.INFO)
    _LOGGER.propagate = False


def write_event(name: str, **fields: Any) -> None:
    """Append one line `{"at": …, "event": name, **fields}`. Never give it a header, a body or a customer's name."""
    line = orjson.dumps({"at": datetime.now(UTC), "event": name, **fields}, default=str)
    _LOGGER.info(redact(line.decode()))
