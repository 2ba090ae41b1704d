"""The tenant that commands talk to: the company's own, or the sandbox while no credentials are set.

`python -m stkpi.runs.sandbox_process` is the sandbox as a child process: it ends with the process that started it, even
if that one is killed.
"""

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from stkpi import settings
from stkpi.errors import UserError

LAST_EXPORT = "AS_OF"


@contextmanager
def provide_tenant() -> Iterator[bool]:
    """Provide a tenant to talk to within the block; yield whether it is the sandbox.

    With ST_CLIENT_ID set, nothing happens. Without it, a sandbox starts on a free port, the settings that it prints
    (`export NAME=value`) go into the environment of this process, and it ends with the block. An AS_OF or
    COMPANY that is set stays. Raises UserError if the sandbox does not start.
    """
    current = settings.load()
    if current.st_client_id:
        yield False
        return
    print("No ST_CLIENT_ID is set: using the sandbox, a made-up company. Its numbers are not yours.", flush=True)
    before = dict(os.environ)
    options = {"SEED": current.sandbox_seed, "SCALE": current.sandbox_scale, "PORT": 0}
    with subprocess.Popen(
        [sys.executable, "-m", "stkpi.runs.sandbox_process"],
        env=before | {f"SANDBOX_{name}": str(value) for name, value in options.items()},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,  # Ctrl-C must not end it: the command may need the tenant until it ends itself
    ) as sandbox:
        try:
            os.environ.update(_read_exports(sandbox))
            if current.as_of:
                os.environ["AS_OF"] = current.as_of.isoformat()
            if current.company:
                os.environ["COMPANY"] = str(current.company)
            yield True
        finally:
            os.environ.clear()
            os.environ.update(before)
            sandbox.terminate()


def _read_exports(sandbox: subprocess.Popen[str]) -> dict[str, str]:
    exports: dict[str, str] = {}
    for line in sandbox.stdout or ():
        name, _, value = line.removeprefix("export ").strip().partition("=")
        exports[name] = value
        if name == LAST_EXPORT:
            return exports
    raise UserError("The sandbox did not start: see its error above, or set ST_CLIENT_ID in .env.")


def _serve() -> None:
    from sandbox.__main__ import main  # noqa: PLC0415 - only this child process needs the sandbox

    def end_with_parent() -> None:
        sys.stdin.read()  # returns when the other end of the pipe closes
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=end_with_parent, daemon=True).start()
    main()


if __name__ == "__main__":
    _serve()
