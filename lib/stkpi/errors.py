"""Errors for the person who can fix them: one sentence that says what failed and what to do next."""


class UserError(Exception):
    """A usage error or a missing setting. Commands print it and exit with 2."""


class WarehouseError(Exception):
    """The warehouse refuses a statement, for now or because of its cost. Commands print it and exit with 1."""
