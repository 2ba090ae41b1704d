"""The other ways to bring ServiceTitan's lists into DuckDB, as a person would write them (see bench_ingest.py).

`python bench_contenders.py NAME FILE` reads the endpoints from standard input as JSON lines `{name, path, params}`, and
prints how many records came. It imports nothing of this project: all but `bare` run in an environment of their own,
made of the pins in tests/contenders/.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import requests

ENDPOINTS = [json.loads(line) for line in sys.stdin]
URL, TENANT = os.environ["ST_API_URL"], os.environ["ST_TENANT_ID"]
PAGE = 5000  # the largest that ServiceTitan allows


def sign_in() -> dict[str, str]:
    """Return the headers of a request."""
    form = {
        "grant_type": "client_credentials",
        "client_id": os.environ["ST_CLIENT_ID"],
        "client_secret": os.environ["ST_CLIENT_SECRET"],
    }
    token = requests.post(os.environ["ST_AUTH_URL"], data=form, timeout=100).json()["access_token"]
    return {"Authorization": token, "ST-App-Key": os.environ["ST_APP_KEY"]}


def bare(_: str) -> int:
    """A loop with requests that throws the records away: what any program has to do at least."""
    session, records = requests.Session(), 0
    session.headers.update(sign_in())
    for endpoint in ENDPOINTS:
        more, page = True, 1
        while more:
            params = {**endpoint["params"], "page": page, "pageSize": PAGE}
            body = session.get(f"{URL}/{endpoint['path'].format(tenant=TENANT)}", params=params, timeout=100).json()
            records, more, page = records + len(body["data"]), body["hasMore"], page + 1
    return records


def servicepytan(file: str) -> int:
    """The library that people find first, a DataFrame of each list, and DuckDB."""
    import duckdb  # noqa: PLC0415
    import pandas as pd  # noqa: PLC0415
    import servicepytan as library  # noqa: PLC0415

    connection = library.auth.servicepytan_connect(
        app_key=os.environ["ST_APP_KEY"],
        tenant_id=TENANT,
        client_id=os.environ["ST_CLIENT_ID"],
        client_secret=os.environ["ST_CLIENT_SECRET"],
    )
    connection |= {"api_root": URL, "auth_root": URL}
    records = 0
    with duckdb.connect(file) as target:
        for endpoint in ENDPOINTS:
            folder, _, resource = endpoint["path"].partition("/v2/tenant/{tenant}/")
            rows = library.Endpoint(folder, resource, connection).get_all({**endpoint["params"], "pageSize": PAGE})
            frame = pd.DataFrame(rows)
            target.register("frame", frame)
            target.execute(f"CREATE OR REPLACE TABLE {endpoint['name']} AS SELECT * FROM frame")
            records += len(frame)
    return records


def dlt(file: str) -> int:
    """A pipeline of dlt with its source for REST APIs, in parallel, and nested lists as JSON."""
    import dlt as library  # noqa: PLC0415
    from dlt.sources.rest_api import rest_api_resources  # noqa: PLC0415

    headers = sign_in()
    paginator = {"type": "page_number", "base_page": 1, "page_param": "page", "total_path": None}
    resources = rest_api_resources(
        {
            "client": {"base_url": f"{URL}/", "headers": headers},
            "resource_defaults": {"write_disposition": "replace", "max_table_nesting": 0, "parallelized": True},
            "resources": [
                {
                    "name": endpoint["name"],
                    "endpoint": {
                        "path": endpoint["path"].format(tenant=TENANT),
                        "params": {**endpoint["params"], "pageSize": PAGE},
                        "data_selector": "data",
                        "paginator": {**paginator, "has_more_path": "hasMore"},
                    },
                }
                for endpoint in ENDPOINTS
            ],
        }
    )
    pipeline = library.pipeline(
        "bench", pipelines_dir=f"{file}.dlt", destination=library.destinations.duckdb(file), dataset_name="raw"
    )
    pipeline.run(list(resources))
    counts = pipeline.last_trace.last_normalize_info.row_counts
    return sum(counts.get(endpoint["name"], 0) for endpoint in ENDPOINTS)


def singer(file: str) -> int:
    """The Singer tap, the streams of our endpoints only, into a file as a target would read them."""
    tap = [str(Path(sys.executable).with_name("tap-service-titan")), "--config", f"{file}.config"]
    settings = {
        "client_id": os.environ["ST_CLIENT_ID"],
        "client_secret": os.environ["ST_CLIENT_SECRET"],
        "st_app_key": os.environ["ST_APP_KEY"],
        "tenant_id": TENANT,
        "api_url": URL,
        "auth_url": os.environ["ST_AUTH_URL"],
        "start_date": "1990-01-01T00:00:00Z",
    }
    Path(f"{file}.config").write_text(json.dumps(settings))
    catalog = json.loads(subprocess.run([*tap, "--discover"], check=True, stdout=subprocess.PIPE).stdout)
    renamed = {"payroll": "gross_pay_items", "vendor_bills": "inventory_bills"}
    wanted = {renamed.get(endpoint["name"], endpoint["name"]) for endpoint in ENDPOINTS}
    for stream in catalog["streams"]:
        for entry in stream["metadata"]:
            if not entry["breadcrumb"]:
                entry["metadata"]["selected"] = stream["tap_stream_id"] in wanted
    Path(f"{file}.catalog").write_text(json.dumps(catalog))
    with Path(file).open("wb") as output:
        subprocess.run([*tap, "--catalog", f"{file}.catalog"], check=True, stdout=output)
    with Path(file).open("rb") as lines:
        return sum(line.startswith(b'{"type":"RECORD"') for line in lines)


CONTENDERS = {each.__name__: each for each in (bare, servicepytan, dlt, singer)}

if __name__ == "__main__":
    print(CONTENDERS[sys.argv[1]](sys.argv[2]))
