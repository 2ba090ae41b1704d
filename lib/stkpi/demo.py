"""The tenant that commands talk to: the company's own, or the sandbox while no credentials are set."""

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from stkpi import settings
from stkpi.errors import UserError

NEEDED = {"ST_CLIENT_ID", "ST_CLIENT_SECRET", "ST_APP_KEY", "ST_TENANT_ID", "ST_API_URL", "ST_AUTH_URL"}


@contextmanager
def tenant() -> Iterator[bool]:
    """Have a tenant to talk to for the time of the block; yields whether it is the sandbox.

    With ST_CLIENT_ID set, nothing happens. Without it a sandbox starts on a free port, its settings (the lines
    `export NAME=value` that it prints) are in this process's environment, and it ends with the block, or with this
    process if that is killed. Raises UserError when the sandbox does not start.
    """
    if settings.load().st_client_id:
        yield False
        return
    print("No ST_CLIENT_ID is set: using the sandbox, a made-up company. Its numbers are not yours.", flush=True)
    before = dict(os.environ)
    with subprocess.Popen(
        [sys.executable, "-m", "sandbox"],
        env=before | {"SANDBOX_PORT": "0"},
        stdin=subprocess.PIPE,  # closed by the system when this process dies: the sandbox takes it as its end
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,  # Ctrl-C is for the command: it may need the tenant until its end
    ) as sandbox:
        try:
            os.environ.update(_exports(sandbox))
            yield True
        finally:
            os.environ.clear()
            os.environ.update(before)
            sandbox.terminate()


def _exports(sandbox: subprocess.Popen[str]) -> dict[str, str]:
    exports: dict[str, str] = {}
    for line in sandbox.stdout or ():
        if line.startswith("export "):
            name, _, value = line.removeprefix("export ").strip().partition("=")
            exports[name] = value.strip("'\"")
        if exports.keys() >= NEEDED:
            return exports
    raise UserError("The sandbox did not start: run `make sandbox` to see why, or set ST_CLIENT_ID in .env.")
