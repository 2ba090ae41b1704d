"""Errors for the person who can fix them: one sentence that says what failed and what to do next."""

import errno
import re
from collections.abc import Iterable
from difflib import get_close_matches

MOST_NAMES = 20  # that a sentence lists
_DISK_FULL = "The disk is full: free some space and run again; finished work is kept."
_OS_ERRORS = {
    errno.ENOSPC: _DISK_FULL,
    errno.EDQUOT: _DISK_FULL,
    errno.EROFS: "{where} is on a disk that cannot be written: choose another folder, or mount it for writing.",
    errno.EACCES: "This user may not write to {where}: grant the permission, or choose another folder.",
    errno.EPERM: "This user may not write to {where}: grant the permission, or choose another folder.",
}
# The text of an OSError, as a notebook or an engine hands it on: `[Errno 28] No space left on device: 'a/b'`.
_NUMBER = re.compile(r"\[Errno (\d+)\][^:]*(?:: '(.*?)')?")


class UserError(Exception):
    """A usage error or a missing setting. Commands print it and exit with 2."""


class WarehouseError(Exception):
    """The warehouse refuses a statement, for now or because of its cost. Commands print it and exit with 1."""


def suggest_name(text: str, known: Iterable[str]) -> str:
    """Return how a sentence about an unknown name ends: with the nearest name that is known, in any letter case, or,
    where none is near, with all of them.

    >>> suggest_name("leeds", ["leads", "sales"])
    'did you mean leads?'
    >>> suggest_name("profit", ["leads", "sales"])
    'there are leads, sales.'
    """
    names = {name.lower(): name for name in known}
    if near := get_close_matches(text.lower(), names, n=1):
        return f"did you mean {names[near[0]]}?"
    first = ", ".join(list(names.values())[:MOST_NAMES])
    return f"there are {first}{f' and {len(names) - MOST_NAMES} more' if len(names) > MOST_NAMES else ''}."


def explain_os_error(error: OSError | str) -> str | None:
    """Return what to do about an error of the operating system, or its text; None for one that no person can fix.

    >>> explain_os_error("[Errno 28] No space left on device")
    'The disk is full: free some space and run again; finished work is kept.'
    """
    found = _NUMBER.search(str(error))
    if not found or int(found[1]) not in _OS_ERRORS:
        return None
    return _OS_ERRORS[int(found[1])].format(where=found[2] or "a file")
