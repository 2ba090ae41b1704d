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
from urllib.parse import urlsplit

from stkpi import settings, terminal
from stkpi.errors import UserError

LAST_EXPORT = "ST_AUTH_URL"
KEPT = ("TIME_ZONE", "AS_OF", "COMPANY", "WAREHOUSE")  # as the settings have them: a person may have set one
LOOPBACK = ("127.0.0.1", "localhost", "::1")


@contextmanager
def provide_tenant() -> Iterator[bool]:
    """Provide a tenant to talk to within the block; yield whether it is the sandbox.

    With ServiceTitan's credentials, nothing happens. Without any, a sandbox starts on a free port, the settings that it
    prints (`export NAME=value`) go into the environment of this process, and it ends with the block. Raises UserError
    if it does not start, if only some credentials are set, or if a made-up company would go to BigQuery.
    """
    current = settings.load()
    check_tenant(current)
    if not current.is_demo:
        yield False
        return
    print("No ServiceTitan credentials are set: using the sandbox, a made-up company. Its numbers are not yours.")
    sys.stdout.flush()
    before = dict(os.environ)
    options = {
        name: getattr(current, f"sandbox_{name.lower()}") for name in ("COMPANY", "SEED", "SCALE", "REPORT_SECONDS")
    }
    with subprocess.Popen(
        [sys.executable, "-m", "stkpi.runs.sandbox_process"],
        env=before | {f"SANDBOX_{name}": str(value) for name, value in (options | {"PORT": 0}).items()},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,  # Ctrl-C must not end it: the command may need the tenant until it ends itself
    ) as sandbox:
        try:
            os.environ.update(_read_exports(sandbox))
            os.environ.update({name: str(getattr(current, name.lower())) for name in KEPT})
            yield True
        finally:
            os.environ.clear()
            os.environ.update(before)
            sandbox.terminate()


def check_tenant(current: settings.Settings) -> None:
    """Refuse to guess which company is meant, and to write a made-up one beside real tables. Raises UserError."""
    missing = current.missing_credentials
    made_up = len(missing) == len(settings.CREDENTIALS) or urlsplit(current.st_api_url).hostname in LOOPBACK
    if made_up and current.bq_project and not current.bigquery_emulator_host:
        raise UserError(
            "The made-up company is never written to BigQuery: fill in ServiceTitan's credentials in .env "
            f"({', '.join(name.upper() for name in settings.CREDENTIALS)}), or leave BQ_PROJECT out."
        )
    if missing and not current.is_demo:
        raise UserError(f"ServiceTitan's credentials are not complete: fill in {' and '.join(missing)} in .env.")


def _read_exports(sandbox: subprocess.Popen[str]) -> dict[str, str]:
    exports: dict[str, str] = {}
    for line in sandbox.stdout or ():
        name, _, value = line.removeprefix("export ").strip().partition("=")
        exports[name] = value
        if name == LAST_EXPORT:
            return exports
    raise UserError("The sandbox did not start: see its error above.")


def _serve() -> None:
    from sandbox.__main__ import main  # noqa: PLC0415 - only this child process needs the sandbox

    terminal.prepare_output()  # its progress goes where that of the command goes

    def end_with_parent() -> None:
        sys.stdin.read()  # returns when the other end of the pipe closes
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=end_with_parent, daemon=True).start()
    main()


if __name__ == "__main__":
    _serve()
