"""The tenant that commands talk to: the company's own, or the sandbox while no credentials are set.

`python -m stkpi.runs.sandbox_process` is the sandbox as a child: it ends with the process that started it, even if that
is killed.
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
def tenant() -> Iterator[bool]:
    """Have a tenant to talk to for the time of the block; yields whether it is the sandbox.

    With ST_CLIENT_ID set, nothing happens. Without it a sandbox starts on a free port, its settings (the lines
    `export NAME=value` that it prints) are in this process's environment, and it ends with the block. An AS_OF that is
    set is kept. Raises UserError when the sandbox does not start.
    """
    current = settings.load()
    if current.st_client_id:
        yield False
        return
    print("No ST_CLIENT_ID is set: using the sandbox, a made-up company. Its numbers are not yours.", flush=True)
    before = dict(os.environ)
    wishes = {"SEED": current.sandbox_seed, "SCALE": current.sandbox_scale, "PORT": 0}
    with subprocess.Popen(
        [sys.executable, "-m", "stkpi.runs.sandbox_process"],
        env=before | {f"SANDBOX_{name}": str(value) for name, value in wishes.items()},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,  # Ctrl-C is for the command: it may need the tenant until its end
    ) as sandbox:
        try:
            os.environ.update(_exports(sandbox))
            if current.as_of:
                os.environ["AS_OF"] = current.as_of.isoformat()
            yield True
        finally:
            os.environ.clear()
            os.environ.update(before)
            sandbox.terminate()


def _exports(sandbox: subprocess.Popen[str]) -> dict[str, str]:
    exports: dict[str, str] = {}
    for line in sandbox.stdout or ():
        name, _, value = line.removeprefix("export ").strip().partition("=")
        exports[name] = value
        if name == LAST_EXPORT:
            return exports
    raise UserError("The sandbox did not start: what it wrote above says why. Or set ST_CLIENT_ID in .env.")


def _serve() -> None:
    from sandbox.__main__ import main  # noqa: PLC0415 the product itself does not need the sandbox

    def end_with_parent() -> None:
        sys.stdin.read()  # ends when the other side of the pipe is gone
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=end_with_parent, daemon=True).start()
    main()


if __name__ == "__main__":
    _serve()
