"""The workflows: valid by GitHub's schema, without a way to hide a failure, and their scripts do what they say."""

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[1]
FILES = sorted((ROOT / ".github" / "workflows").glob("*.yml"))
SWALLOWS = re.compile(r"\|\|\s*(true|:|exit 0|echo)|continue-on-error|set \+e|2>\s*/dev/null|;\s*(true|exit 0)\b")
PINNED = re.compile(r"[\w-]+/[\w/-]+@[0-9a-f]{40}")  # by its commit: a tag can be moved to another one
OUTPUT = re.compile(r"(needs|steps)\.(\w+)\.(?:outputs\.([\w-]+)|outcome|result)")


def read(text: str) -> dict:
    """A workflow; YAML 1.1 reads its key `on` as True."""
    content = yaml.safe_load(text)
    return content | {"on": content.get(True)}


WORKFLOWS = {path.stem: read(path.read_text()) for path in FILES}


def steps(workflow: dict) -> Iterator[dict]:
    for job in workflow["jobs"].values():
        yield from job["steps"]


def step(workflow: str, job: str, name: str) -> dict:
    (found,) = (each for each in WORKFLOWS[workflow]["jobs"][job]["steps"] if each.get("name") == name)
    return found


def schema(*files: Path) -> subprocess.CompletedProcess:
    """GitHub's schema of workflows, as check-jsonschema brings it along; asks no server."""
    command = [sys.executable, "-m", "check_jsonschema", "--builtin-schema", "vendor.github-workflows", *files]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def dangling(workflow: dict) -> list[str]:
    """References to outputs or outcomes of jobs and earlier steps that do not exist: they would be silently empty."""
    wrong = []
    for name, job in workflow["jobs"].items():
        needed = {each: workflow["jobs"][each].get("outputs", {}) for each in [job.get("needs")] if each}
        known: set[str] = set()
        for part in [*job["steps"], {key: value for key, value in job.items() if key != "steps"}]:
            for kind, source, output in OUTPUT.findall(yaml.safe_dump(part)):
                exists = source in known if kind == "steps" else source in needed
                if not exists or (kind == "needs" and output and output not in needed[source]):
                    wrong.append(f"{name}: {kind}.{source} {output}".strip())
            known.add(part.get("id", ""))
    return wrong


def swallowed(text: str) -> list[str]:
    """The lines that hide a failure."""
    return [line.strip() for line in text.splitlines() if SWALLOWS.search(line.partition(" #")[0])]


# --- their form ------------------------------------------------------------------------------------------------------


def test_there_are_four_and_github_would_take_them():
    assert [path.name for path in FILES] == ["heartbeat.yml", "nightly.yml", "soak.yml", "tests.yml"]
    checked = schema(*FILES)
    assert checked.returncode == 0, checked.stdout


@pytest.mark.parametrize(
    ("was", "broken", "complaint"),
    [
        ("    runs-on: ubuntu-latest\n", "", "runs-on"),
        ("on: [push, pull_request]", "on: [push, pull_requests]", "pull_requests"),
        ("      - run: .ci/run", "      - rum: .ci/run", "rum"),
        ("    timeout-minutes: 30", "    timeout-minutes: soon", "soon"),
    ],
)
def test_a_broken_workflow_is_refused(tmp_path, was, broken, complaint):
    text = (ROOT / ".github" / "workflows" / "tests.yml").read_text()
    assert was in text
    (tmp_path / "broken.yml").write_text(text.replace(was, broken))
    checked = schema(tmp_path / "broken.yml")
    assert checked.returncode == 1
    assert complaint in checked.stdout


@pytest.mark.parametrize("path", [*FILES, ROOT / ".ci" / "run", ROOT / "Makefile"], ids=lambda path: path.name)
def test_no_failure_is_swallowed(path):
    assert swallowed(path.read_text()) == []


@pytest.mark.parametrize(
    "line",
    [
        "run: make nightly || true",
        "make nightly ||:",
        "make nightly || echo failed",
        "continue-on-error: true",
        "set +e",
        "make test 2>/dev/null",
        "make nightly; exit 0",
    ],
)
def test_a_swallowed_failure_would_be_found(line):
    assert swallowed(f"steps:\n  {line}\n") == [line]


@pytest.mark.parametrize("name", WORKFLOWS)
def test_what_a_step_refers_to_exists(name):
    assert dangling(WORKFLOWS[name]) == []


def test_a_reference_to_nothing_would_be_found():
    text = (ROOT / ".github" / "workflows" / "nightly.yml").read_text()
    assert dangling(read(text.replace("id: night\n", "id: nihgt\n"))) == [
        "nightly: steps.night",
        "nightly: steps.night",
        "nightly: steps.night exit_code",
    ]
    assert dangling(read(text.replace("needs.nightly.outputs.exit_code", "needs.nightly.outputs.code"))) == [
        "alert: needs.nightly code"
    ]


@pytest.mark.parametrize("name", WORKFLOWS)
def test_actions_are_pinned_and_values_reach_a_script_through_its_environment(name):
    for each in steps(WORKFLOWS[name]):
        if uses := each.get("uses"):
            assert PINNED.fullmatch(uses), uses
        assert "${{" not in each.get("run", "")


def test_what_the_owner_has_to_set_is_on_the_page():
    used = set(re.findall(r"(?:vars|secrets)\.(\w+)", (ROOT / ".github" / "workflows" / "nightly.yml").read_text()))
    page = (ROOT / "docs" / "github.md").read_text()
    assert set(re.findall(r"`([A-Z_]+)`", page)) == used


# --- what they do ----------------------------------------------------------------------------------------------------


def test_a_push_runs_what_a_user_would_run():
    assert set(WORKFLOWS["tests"]["on"]) == {"push", "pull_request"}
    assert WORKFLOWS["tests"]["jobs"]["tests"]["steps"][-1] == {"run": ".ci/run"}
    assert os.access(ROOT / ".ci" / "run", os.X_OK)


def test_the_night_signs_in_without_a_key_and_only_the_alarm_writes_issues():
    jobs = WORKFLOWS["nightly"]["jobs"]
    assert WORKFLOWS["nightly"]["permissions"] == {}
    assert jobs["nightly"]["permissions"] == {"contents": "read", "id-token": "write"}
    assert jobs["alert"]["permissions"] == {"contents": "read", "issues": "write"}
    sign_in = step("nightly", "nightly", "Sign in to Google")
    assert set(sign_in["with"]) == {"project_id", "workload_identity_provider", "service_account"}
    assert not any("credentials_json" in path.read_text() for path in FILES)


def test_nights_do_not_overlap_and_the_alarm_and_the_reports_follow_every_one():
    nightly = WORKFLOWS["nightly"]
    assert nightly["concurrency"] == {"group": "nightly", "cancel-in-progress": False}
    assert nightly["jobs"]["alert"]["if"] == "always()"
    assert step("nightly", "nightly", "The reports")["if"].startswith("always()")
    assert step("nightly", "nightly", "The reports")["with"]["if-no-files-found"] == "error"


def test_the_warehouse_is_neither_uploaded_nor_cached_where_everybody_could_read_it():
    guard, *others = WORKFLOWS["nightly"]["jobs"]["nightly"]["steps"]
    assert guard["if"] == (
        "env.ST_TENANT_ID != '' && github.repository_visibility != 'private'"
        " && github.repository_visibility != 'internal'"
    )
    assert subprocess.run(["bash", "-e", "-c", guard["run"]], capture_output=True, check=False).returncode == 1
    assert "!runs/warehouse.*" in step("nightly", "nightly", "The reports")["with"]["path"].split()
    restored, saved = (each["with"] for each in others if each.get("uses", "").startswith("actions/cache/"))
    assert (restored["path"], restored["key"]) == (saved["path"], saved["key"])
    assert restored["key"].startswith(restored["restore-keys"])  # a company's nights do not find the made-up one's


@pytest.mark.parametrize("code", [0, 1, 2])
def test_the_nights_exit_code_is_the_steps_and_reaches_the_alarm(tmp_path, code):
    make = tmp_path / "make"
    make.write_text(f'#!/bin/sh\ntest "$*" = nightly && exit {code}\nexit 99\n')
    make.chmod(0o755)
    environment = {"PATH": f"{tmp_path}:{os.environ['PATH']}", "GITHUB_OUTPUT": str(tmp_path / "output")}
    script = step("nightly", "nightly", "The night")["run"]
    assert subprocess.run(["bash", "-e", "-c", script], env=environment, check=False).returncode == code
    assert (tmp_path / "output").read_text() == f"exit_code={code}\n"


@pytest.mark.parametrize(("exit_code", "said"), [("2", "exit code 2"), ("", "exit code 1")])
def test_the_alarms_step_asks_github(tmp_path, exit_code, said):
    """Nobody listens on the port: the step must say so and fail; where the night left no exit code it broke off."""
    (tmp_path / ".venv").symlink_to(sys.prefix)
    environment = os.environ | {
        "EXIT_CODE": exit_code,
        "LINK": "https://github.example/run",
        "GITHUB_TOKEN": "token",
        "GITHUB_REPOSITORY": "owner/repo",
        "GITHUB_API_URL": "http://127.0.0.1:1",
        "SLACK_WEBHOOK": "",
    }
    script = step("nightly", "alert", "One issue while it is red")["run"]
    ended = subprocess.run(
        ["bash", "-e", "-c", script], cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
    )
    assert ended.returncode == 1
    assert f"ended with {said}" in ended.stdout
    assert re.fullmatch(r".*GitHub.*\(ConnectionError\)\.\n", ended.stderr)


@pytest.mark.parametrize(("weekday", "is_sent"), [(1, True), (2, False), (7, False)])
def test_the_newest_week_goes_out_on_mondays(tmp_path, weekday, is_sent):
    for name, script in {
        "bin/date": f'test "$*" = "-u +%u" && echo {weekday}',
        ".venv/bin/python": 'echo "$@" > called',
    }.items():
        program = tmp_path / name
        program.parent.mkdir(parents=True)
        program.write_text(f"#!/bin/sh\n{script}\n")
        program.chmod(0o755)
    week = step("nightly", "alert", "The newest week, on Mondays")
    environment = {"PATH": f"{tmp_path / 'bin'}:{os.environ['PATH']}", "LINK": "https://github.example/run"}
    assert subprocess.run(["bash", "-e", "-c", week["run"]], cwd=tmp_path, env=environment, check=False).returncode == 0
    assert (tmp_path / "called").exists() is is_sent
    if is_sent:
        sent = "-m stkpi.runs.alerts --weekly --link https://github.example/run --runs runs"
        assert (tmp_path / "called").read_text().strip() == sent
    assert week["if"].startswith("always() && github.event_name == 'schedule'")


def test_a_commit_is_checked_by_what_make_check_runs() -> None:
    make = subprocess.run(
        ["make", "--no-print-directory", "-n", "-o", ".venv/ready", "check"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    commands = [line.removesuffix(" notebooks/*.ipynb") for line in make.stdout.splitlines()]
    hooks = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())["repos"][0]["hooks"]
    assert sorted(hook["entry"] for hook in hooks) == sorted(commands)
