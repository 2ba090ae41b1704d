"""The BigQuery emulator local-bigquery, as a process of its own in an environment of its own: it needs Python 3.13+.

`python tests/emulator.py` serves it until interrupted, and prints the lines to export.
"""

import hashlib
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable
from pathlib import Path

import requests
from filelock import FileLock

ROOT = Path(__file__).resolve().parents[1]
REQUIREMENTS = Path(__file__).with_name("emulator-requirements.txt")
COMMAND = Path(__file__).with_name("local_bigquery_mended.py")
ENVIRONMENT = ROOT / ".venv-bigquery"
MISSING = "no Python 3.13+ for the BigQuery emulator"
START_SECONDS = 120  # 4 s on an idle machine
_VERSIONS = ("3.13", "3.14")
# $0 is the process that it must not outlive, however that ends; `kill 0` is its own group.
_WHILE_OWNER_LIVES = '"$@" & while kill -0 "$0" 2>/dev/null && kill -0 $! 2>/dev/null; do sleep 0.5; done; kill -KILL 0'


def find_python() -> Path | None:
    """A Python 3.13+ from PATH or pyenv's folder, or None. A pyenv shim counts only if it runs."""
    pyenv = Path(os.environ.get("PYENV_ROOT") or Path.home() / ".pyenv") / "versions"
    found = [sys.executable]
    for version in _VERSIONS:
        found += [shutil.which(f"python{version}"), *sorted(pyenv.glob(f"{version}*/bin/python{version}"))]
    return next((Path(path) for path in found if path and _runs(path)), None)


def _runs(python: str | Path) -> bool:
    test = "import sys; sys.exit(sys.version_info < (3, 13))"
    return subprocess.run([python, "-c", test], capture_output=True, check=False).returncode == 0


def install(python: Path) -> Path:
    """The environment with the pinned emulator, made when it is missing or stale. Safe in several processes at once."""
    wanted = hashlib.sha256(REQUIREMENTS.read_bytes()).hexdigest()
    ready = ENVIRONMENT / "ready"
    with FileLock(f"{ENVIRONMENT}.lock"):
        if not ready.exists() or ready.read_text() != wanted:
            subprocess.run([python, "-m", "venv", "--clear", ENVIRONMENT], check=True)
            pip = [ENVIRONMENT / "bin" / "python", "-m", "pip", "--quiet", "--disable-pip-version-check"]
            subprocess.run([*pip, "install", "--no-deps", "-r", REQUIREMENTS], check=True)
            _place_extensions()
            ready.write_text(wanted)
    return ENVIRONMENT


def _place_extensions() -> None:
    """DuckDB looks for extensions under its home, and would download what it does not find there."""
    ask = "import duckdb; print(*duckdb.sql('SELECT version(), (FROM pragma_platform())').fetchone())"
    said = subprocess.run([ENVIRONMENT / "bin" / "python", "-c", ask], check=True, capture_output=True, text=True)
    version, platform = said.stdout.split()
    home = ENVIRONMENT / "home" / ".duckdb" / "extensions" / version / platform
    home.mkdir(parents=True, exist_ok=True)
    for extension in ENVIRONMENT.glob("lib/*/site-packages/duckdb_extension_*/extensions/*/*.duckdb_extension"):
        shutil.copy(extension, home)


def free_ports(count: int) -> list[int]:
    """Ports of 127.0.0.1 that nobody listens on now."""
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [each.getsockname()[1] for each in sockets]
    for each in sockets:
        each.close()
    return ports


def start(python: Path, folder: Path, owner: int) -> str:
    """Start an empty emulator with its data and log in `folder`; its URL, for BIGQUERY_EMULATOR_HOST.

    owner: the process with which it ends
    Raises RuntimeError where it does not start.
    """
    environment = install(python)
    port, grpc_port = free_ports(2)
    options = ("--host", "127.0.0.1", "--port", port, "--grpc-port", grpc_port, "--data-dir", folder / "data")
    command = (environment / "bin" / "python", COMMAND, *options)
    folder.mkdir(parents=True, exist_ok=True)
    log = folder / "log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            ["/bin/sh", "-c", _WHILE_OWNER_LIVES, *map(str, (owner, *command))],
            env=os.environ | {"HOME": str(environment / "home")},
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            start_new_session=True,
        )
    url = f"http://127.0.0.1:{port}"
    until = time.monotonic() + START_SECONDS
    while process.poll() is None and time.monotonic() < until:
        try:
            if requests.get(f"{url}/discovery/v1/apis/bigquery/v2/rest", timeout=10).ok:
                return url
        except requests.ConnectionError:
            time.sleep(0.1)
    raise RuntimeError(f"The BigQuery emulator did not start:\n{log.read_text()[-2000:]}")


def told(reasons: Iterable[str]) -> str:
    """The loud line for the end of a test run, given why tests were skipped; empty if none for want of a Python."""
    count = sum(MISSING in reason for reason in reasons)
    if not count:
        return ""
    return (
        f"NOT RUN: {count} tests of the BigQuery warehouse, for there is {MISSING}. "
        "Install it (such as `pyenv install 3.13`) and run `make test` again."
    )


if __name__ == "__main__":
    interpreter = find_python()
    if not interpreter:
        sys.exit(f"There is {MISSING}: install it, such as by `pyenv install 3.13`.")
    with tempfile.TemporaryDirectory(prefix="emulator-") as temporary:
        host = start(interpreter, Path(temporary), os.getpid())
        print(f"export BIGQUERY_EMULATOR_HOST={host} BQ_PROJECT=emulated", flush=True)
        try:
            while True:
                time.sleep(3600)
        except KeyboardInterrupt:
            pass
