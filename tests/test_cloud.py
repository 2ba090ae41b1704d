"""The container and the cloud page without an engine and without a cloud: each fact is held against the repository."""

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import tomllib
from fnmatch import fnmatch
from pathlib import Path

import pytest

from stkpi.kpis.definition import choose_definitions
from stkpi.kpis.sql import regional_sql
from stkpi.settings import ROOT, Settings

IGNORED = (ROOT / ".dockerignore").read_text().splitlines()
PAGE = (ROOT / "docs" / "cloud.md").read_text()


def instructions() -> list[tuple[str, str]]:
    """The Dockerfile's instructions in order, as keyword and rest."""
    text = (ROOT / "Dockerfile").read_text().replace("\\\n", " ")
    lines = (line.strip() for line in text.splitlines())
    return [tuple(line.split(maxsplit=1)) for line in lines if line and not line.startswith("#")]


def only(keyword: str) -> str:
    (rest,) = [rest for each, rest in instructions() if each == keyword]
    return rest


def copies() -> list[str]:
    """What is copied into the image: `COPY . .` takes whatever .dockerignore lets through."""
    pairs = [tuple(rest.split()) for keyword, rest in instructions() if keyword == "COPY"]
    assert all(target in ("./", source) for source, target in pairs)
    assert (".", ".") in pairs
    return [line[1:] for line in IGNORED if line.startswith("!") and not line.startswith("!*")]


@pytest.fixture(scope="module")
def image(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder that the image's WORKDIR would be: what git has of the copied paths."""
    folder = tmp_path_factory.mktemp("image")
    tracked = subprocess.run(
        ["git", "ls-files", "-co", "--exclude-standard", *copies()],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    for name in tracked.stdout.splitlines():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, folder / name)
    (folder / "runs").mkdir()
    return folder


def test_python_is_the_one_that_the_pins_are_for() -> None:
    name, tag = only("FROM").split(":")
    version = tag.removesuffix("-slim")
    project = tomllib.loads((ROOT / "lib" / "pyproject.toml").read_text())["project"]
    assert (name, tag) == ("python", "3.11-slim")
    assert project["requires-python"] == f">={version}"
    assert f"--python-version {version} " in (ROOT / "Makefile").read_text()


def test_what_is_copied_is_there_and_nothing_else_is_sent() -> None:
    assert IGNORED[1] == "*"
    assert all((ROOT / source).exists() for source in copies() if source != "company")  # the company's own folder
    assert not any(fnmatch(name, source) for name in (".env", "runs", ".git", "tests") for source in copies())


def test_the_product_reads_nothing_that_is_not_copied() -> None:
    code = "\n".join(path.read_text() for path in (ROOT / "lib").rglob("*.py"))
    code += "\n".join(path.read_text() for path in (ROOT / "notebooks").glob("*.ipynb"))
    read = set(re.findall(r'ROOT / \\?"([\w.]+)', code))
    assert {"sql", "runs", "expectations"} <= read
    assert read - {"runs", ".env", "README_AUDIT.md"} <= set(copies())


def test_the_requirements_come_before_what_changes_often_and_root_does_not_run() -> None:
    order = [f"{keyword} {rest}" for keyword, rest in instructions()]
    (install,) = [index for index, each in enumerate(order) if "pip install" in each]
    assert "-r requirements.txt" in order[install]
    assert order.index("COPY lib lib") < install < order.index("COPY . .")
    (user,) = [rest for keyword, rest in instructions() if keyword == "USER"]
    assert order[-2:] == [f"USER {user}", f"CMD {only('CMD')}"]
    assert re.search(rf"useradd .*\b{user} && mkdir runs && chown {user} runs$", order[-3])


def test_the_command_finds_its_notebooks_in_the_image(image: Path) -> None:
    words = [word.strip('" ') for word in only("CMD").strip("[]").split(",")]
    assert words[0] == "python"
    # An unknown parameter makes it read the whole spec and every notebook, and then say so instead of running.
    done = subprocess.run(
        [sys.executable, *words[1:], "-p", "nonsense=1"],
        cwd=image,
        env=os.environ | {"PYTHONPATH": str(image / "lib")},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2, done.stderr
    assert "Unknown parameter nonsense" in done.stderr


# --- the page -----------------------------------------------------------------------------------------------------

RECORDER = f"""#!{sys.executable}
import json, sys
data = sys.stdin.read() if "--data-file=-" in sys.argv else None
with open("calls", "a") as file:
    file.write(json.dumps([sys.argv[1:], data]) + "\\n")
"""
ENVIRONMENT = (
    "# secrets\nST_CLIENT_ID=cid.1\nST_CLIENT_SECRET=s$x=2\nST_APP_KEY=ak1\nST_TENANT_ID=7\nTIME_ZONE=Asia/Kolkata\n"
    "DATASETS=acme_{}\n"
)


@pytest.fixture(scope="module")
def calls(tmp_path_factory: pytest.TempPathFactory) -> list[tuple[list[str], str | None]]:
    """What the page's commands ask of gcloud: the words of each call, and what it reads."""
    folder = tmp_path_factory.mktemp("cloud")
    (folder / "page.sh").write_text(PAGE.partition("```bash\n")[2].partition("```")[0])
    (folder / ".env").write_text(ENVIRONMENT)
    (folder / "gcloud").write_text(RECORDER)
    (folder / "gcloud").chmod(0o755)
    path = f"{folder}:{os.environ['PATH']}"
    subprocess.run(["bash", "-euo", "pipefail", "page.sh"], cwd=folder, env={"PATH": path}, check=True)
    return [tuple(json.loads(line)) for line in (folder / "calls").read_text().splitlines()]


def flags(calls: list[tuple[list[str], str | None]], *command: str) -> dict[str, str]:
    """The flags of the one call that begins with these words."""
    (words,) = [words for words, _ in calls if words[: len(command)] == list(command)]
    return dict(word.removeprefix("--").split("=", 1) for word in words[len(command) :] if "=" in word)


def pairs(text: str) -> dict[str, str]:
    return dict(pair.split("=", 1) for pair in text.split(","))


def test_the_job_gets_every_setting_and_the_secrets_only_from_their_manager(calls) -> None:
    job = flags(calls, "run", "jobs", "create", "nightly")
    plain, secret = pairs(job["set-env-vars"]), pairs(job["set-secrets"])
    assert plain == {
        "BQ_PROJECT": "your-project",
        "BQ_LOCATION": "US",
        "WAREHOUSE": "/tmp/stkpi/warehouse.duckdb",
        "ST_TENANT_ID": "7",
        "TIME_ZONE": "Asia/Kolkata",
        "DATASETS": "acme_{}",
    }
    assert all(name.lower() in Settings.model_fields for name in (*plain, *secret))
    stored = {words[2]: data for words, data in calls if words[:2] == ["secrets", "create"]}
    assert stored == {"ST_CLIENT_ID": "cid.1", "ST_CLIENT_SECRET": "s$x=2", "ST_APP_KEY": "ak1"}
    assert secret == {name: f"{name}:1" for name in stored}
    said = shlex.join(word for words, _ in calls for word in words)
    assert not any(value in said for value in stored.values())


def test_the_bucket_is_where_the_image_keeps_its_runs_and_belongs_to_its_user(calls) -> None:
    job = flags(calls, "run", "jobs", "create", "nightly")
    assert job["add-volume-mount"] == f"volume=runs,mount-path={only('WORKDIR')}/runs"
    volume = pairs(job["add-volume"])
    number = re.search(r"--uid (\d+)", only_run("useradd"))[1]
    assert volume["mount-options"] == f"uid={number};gid={number}"
    created = next(words for words, _ in calls if words[:3] == ["storage", "buckets", "create"])
    assert created[3] == f"gs://{volume['bucket']}"
    assert "--public-access-prevention" in created


def only_run(program: str) -> str:
    (rest,) = [rest for keyword, rest in instructions() if keyword == "RUN" and program in rest]
    return rest


def test_the_schedule_starts_the_job_that_was_made_as_the_account_that_may(calls) -> None:
    job = flags(calls, "run", "jobs", "create", "nightly")
    schedule = flags(calls, "scheduler", "jobs", "create", "http", "nightly")
    account = job["service-account"]
    assert schedule["uri"] == (
        f"https://run.googleapis.com/v2/projects/your-project/locations/{job['region']}/jobs/nightly:run"
    )
    assert schedule["time-zone"] == "Asia/Kolkata"
    assert schedule["oauth-service-account-email"] == account
    roles = {
        word.removeprefix("--role=roles/")
        for words, _ in calls
        if f"--member=serviceAccount:{account}" in words
        for word in words
        if word.startswith("--role=")
    }
    assert roles == {
        "bigquery.dataEditor",
        "bigquery.jobUser",
        "run.invoker",
        "secretmanager.secretAccessor",
        "storage.objectUser",
    }
    image = next(words for words, _ in calls if words[:2] == ["builds", "submit"])[-1]
    assert job["image"] == image


def test_the_dashboard_page_names_columns_that_the_view_has() -> None:
    section = PAGE.partition("\n## Dashboard\n")[2]
    names = set(re.findall(r"SUM\((\w+)\)", section)) | {"week_start", "region"}
    final = regional_sql(choose_definitions({})).partition("final AS (")[2]
    assert names > {"closed", "opportunities", "warranty_cost"}
    assert all(re.search(rf"\b{name}\b", final) for name in names)
