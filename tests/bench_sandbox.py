"""How fast the sandbox serves: rows a second of one core, the client left out (`make bench`; SANDBOX_SCALE is heeded).

The server runs in a process of its own, and what counts is the CPU time of that process.
"""

import os
import subprocess
import sys
import time

import psutil
import requests

LISTS = ("jpm/jobs", "accounting/invoices", "sales/estimates", "crm/customers")
PAUSE = 1 / 55  # under the 60 calls a second that the sandbox allows


def fetch(session: requests.Session, url: str, params: dict, packed: bool) -> requests.Response:
    """A page, in a tempo that is never refused."""
    time.sleep(PAUSE)
    encoding = {"Accept-Encoding": "gzip" if packed else "identity"}
    reply = session.get(url, params=params, headers=encoding, timeout=100)
    reply.raise_for_status()
    return reply


def measure(server: psutil.Process, session: requests.Session, url: str, export: bool, packed: bool) -> tuple:
    """Rows, bytes of JSON and CPU seconds of the server for a walk through all pages."""
    params = {} if export else {"page": 1, "pageSize": 5000, "active": "Any", "activeState": "All"}
    rows = size = 0
    began = sum(server.cpu_times()[:2])
    while True:
        reply = fetch(session, url, params, packed)
        body = reply.json()
        rows, size = rows + len(body["data"]), size + len(reply.content)
        if not body["hasMore"]:
            return rows, size, sum(server.cpu_times()[:2]) - began
        params = {"from": body["continueFrom"]} if export else params | {"page": params["page"] + 1}


def main() -> None:
    """Print a line for each way to read each of LISTS."""
    environment = os.environ | {"SANDBOX_PORT": "0"}
    with subprocess.Popen([sys.executable, "-m", "sandbox"], env=environment, stdout=subprocess.PIPE, text=True) as run:
        lines = [run.stdout.readline() for _ in range(8)]
        st = dict(line.removeprefix("export ").strip().split("=", 1) for line in lines)
        form = {"grant_type": "client_credentials", "client_id": st["ST_CLIENT_ID"]}
        session = requests.Session()
        token = session.post(
            st["ST_AUTH_URL"], data=form | {"client_secret": st["ST_CLIENT_SECRET"]}, timeout=10
        ).json()
        session.headers.update({"Authorization": token["access_token"], "ST-App-Key": st["ST_APP_KEY"]})
        server = psutil.Process(run.pid)
        print(f"{'endpoint':<28}{'encoding':<10}{'rows':>9}{'MB':>7}{'rows/s':>11}")
        for path in LISTS:
            module, name = path.split("/")
            for export in (False, True):
                for packed in (False, True):
                    what = f"export/{name}" if export else name
                    url = f"{st['ST_API_URL']}/{module}/v2/tenant/{st['ST_TENANT_ID']}/{what}"
                    rows, size, seconds = measure(server, session, url, export, packed)
                    rate = f"{rows / seconds:>11,.0f}" if seconds else "          -"
                    print(f"{what:<28}{'gzip' if packed else 'plain':<10}{rows:>9,}{size / 1e6:>7.0f}{rate}")
        run.terminate()


if __name__ == "__main__":
    main()
