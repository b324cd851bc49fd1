"""Checks of the workflow files without running them: the linters notice mistakes, and our own rules hold that no linter knows."""

from __future__ import annotations

import fnmatch
import itertools
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from mlops.__main__ import main
from mlops.cli.plan import JOBS
from mlops.cli.run import STAGES
from mlops.core.config import ephemeral_targets
from mlops.core.settings import GateConfig
from tests.chaos.world import STAGES as TRIALS
from tests.chaos.world import Stage as Trial
from tests.support.workflows.harness import COORDINATES
from tests.support.workflows.trees import ROOT, inlined, read_workflow
from tests.workflows.conftest import TRUSTED, TRUSTED_PR

GITHUB = ROOT / ".github"
WORKFLOWS = sorted((GITHUB / "workflows").glob("*.yml"))
FILES = {path.name: read_workflow(path) for path in WORKFLOWS}
ACTIONS = {path.parent.name: read_workflow(path) for path in sorted((GITHUB / "actions").glob("*/action.yml"))}
PIPELINE = FILES["pipeline.yml"]["jobs"]
ALL_JOBS = [(name, job_id, job) for name, workflow in FILES.items() for job_id, job in workflow["jobs"].items()]
STEPS = [(f"{name}/{job_id}", step) for name, job_id, job in ALL_JOBS for step in job.get("steps", ())]
STEPS += [(name, step) for name, action in ACTIONS.items() for step in action["runs"]["steps"]]
ON_RUNNERS = [pytest.param(job, id=f"{name}/{job_id}") for name, job_id, job in ALL_JOBS if "runs-on" in job]
TO_AZURE = re.compile(r"-m mlops (run|rollback|resume|recover|reap)\b")

Tree = Callable[[str, str, str], Path]


@pytest.fixture
def tree(tmp_path: Path) -> Tree:
    """A copy of .github with one mistake in it."""

    def make(file: str, pattern: str, replacement: str) -> Path:
        shutil.copytree(GITHUB, tmp_path / ".github")
        subprocess.run(["git", "init", "--quiet", str(tmp_path)], check=True)
        path = tmp_path / ".github" / file
        text, changed = re.subn(pattern, replacement, path.read_text(), count=1, flags=re.MULTILINE)
        assert changed or not pattern, f"{pattern} is not in {file}"
        path.write_text(text)
        return tmp_path

    return make


def lint(tool: str, root: Path) -> subprocess.CompletedProcess[str]:
    """Run a linter as ``nox -s lint`` does."""
    files = [str(path) for path in sorted((root / ".github/workflows").glob("*.yml"))]
    actions = [str(path) for path in sorted((root / ".github/actions").glob("*/action.yml"))]
    arguments = {
        "actionlint": [],
        "zizmor": ["--offline", "--no-progress", "--persona=pedantic", ".github"],
        "workflows": ["--builtin-schema", "vendor.github-workflows", *files],
        "actions": ["--builtin-schema", "vendor.github-actions", *actions],
        "dependabot": ["--builtin-schema", "vendor.dependabot", str(root / ".github/dependabot.yml")],
    }
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    program = shutil.which(tool if tool in ("actionlint", "zizmor") else "check-jsonschema", path=path)
    assert program, f"{tool} is not installed: it comes with the dependency group `workflows`"
    return subprocess.run(
        [program, *arguments[tool]], cwd=root, env=os.environ | {"PATH": path, "NO_COLOR": "1"}, capture_output=True, text=True, check=False
    )


@pytest.mark.parametrize("tool", ["actionlint", "zizmor", "workflows", "actions", "dependabot"])
def test_the_files_are_clean(tree: Tree, tool: str) -> None:
    done = lint(tool, tree("dependabot.yml", "", ""))
    assert done.returncode == 0, done.stdout + done.stderr


MISTAKES = {
    "a job that does not exist": ("actionlint", "workflows/pipeline.yml", r"needs: validate$", "needs: valid", "does not exist"),
    "an output that does not exist": ("actionlint", "workflows/pipeline.yml", r"outputs\.state != ", "outputs.stat != ", "stat"),
    "a job without a time limit": ("actionlint", "workflows/pr.yml", r"^ +timeout-minutes: 60\n", "", "timeout"),
    "a job without an end": ("actionlint", "workflows/pipeline.yml", r"timeout-minutes: 350", "timeout-minutes: 400", "350"),
    "a variable that nobody sets": ("actionlint", "workflows/train.yml", r"vars\.AZURE_CLIENT_ID", "vars.AZURE_CLIENT", "azure_client"),
    "an input that does not exist": ("actionlint", "workflows/train.yml", r"target: prod", "targett: prod", "targett"),
    "an unquoted variable": ("actionlint", "workflows/pr.yml", r'"\$NUMBER"', "$NUMBER", "SC2086"),
    "a cron that never comes": ("actionlint", "workflows/schedule.yml", r'"17 \* \* \* \*"', '"77 * * * *"', "cron"),
    "an action that may change": ("zizmor", "workflows/pr.yml", r"actions/checkout@\S+", "actions/checkout@v7", "unpinned-uses"),
    "input as code": ("zizmor", "workflows/dispatch.yml", r"run: exec .*", 'run: echo "${{ inputs.target }}"', "template-injection"),
    "the dangerous trigger": ("zizmor", "workflows/pr.yml", r"pull_request:", "pull_request_target:", "dangerous-triggers"),
    "permissions for all": ("zizmor", "workflows/train.yml", r"permissions: \{\}", "permissions: write-all", "excessive-permissions"),
    "a grant without a reason": (
        "zizmor",
        "workflows/pr.yml",
        r"pull-requests: write .*",
        "pull-requests: write",
        "undocumented-permissions",
    ),
    "no concurrency": ("zizmor", "workflows/train.yml", r"concurrency:\n.*\n.*\n", "", "concurrency-limits"),
    "a misspelt key": ("workflows", "workflows/pipeline.yml", r"timeout-minutes: 60", "timeout-minute: 60", "timeout-minute"),
    "a misspelt key of an action": ("actions", "actions/stage/action.yml", r"^outputs:", "output:", "output"),
    "an interval that is none": ("dependabot", "dependabot.yml", r"interval: weekly", "interval: fortnightly", "fortnightly"),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_the_linters_notice_mistakes(tree: Tree, mistake: str) -> None:
    tool, file, pattern, replacement, message = MISTAKES[mistake]
    done = lint(tool, tree(file, pattern, replacement))
    assert done.returncode != 0
    assert message in (done.stdout + done.stderr)


def stages_of(job: dict[str, Any]) -> list[str]:
    stages: list[str] = []
    for step in job["steps"]:
        if step.get("uses") == "$/.github/actions/stage":
            first, last = (STAGES.index(step["with"][key]) for key in ("from", "until"))
            stages += STAGES[first : last + 1]
    return stages


def test_the_jobs_are_the_stages_in_their_order() -> None:
    assert [stage for job in PIPELINE.values() for stage in stages_of(job)] == list(STAGES)
    assert {name: tuple(stages_of(job)) for name, job in PIPELINE.items()} == JOBS
    names = list(PIPELINE)
    for before, name in itertools.pairwise(names):
        assert before in needs(PIPELINE[name]), f"{name} does not wait for {before}"


def needs(job: dict[str, Any]) -> list[str]:
    names = job.get("needs", [])
    return [names] if isinstance(names, str) else names


def test_a_job_that_failed_or_detached_stops_the_later_ones() -> None:
    for name in ("evaluate-gate", "register", "deploy", "smoke-test", "promote"):
        condition = PIPELINE[name]["if"]
        assert "!cancelled() && !failure()" in condition
        assert "needs.train.outputs.state != 'detached'" in condition
        assert f"contains(fromJSON(needs.validate.outputs.jobs), '{name}')" in condition


def test_teardown_runs_whatever_the_other_jobs_do() -> None:
    condition = PIPELINE["teardown"]["if"]
    assert condition.startswith("${{ always() && needs.validate.result == 'success'")
    assert "needs.train.outputs.state != 'detached'" in condition, "it would cancel the training"
    assert "deploy" not in condition
    assert set(needs(PIPELINE["teardown"])) == set(PIPELINE) - {"teardown"}


def test_the_comment_is_written_however_the_pipeline_ends() -> None:
    job = FILES["pr.yml"]["jobs"]["comment"]
    assert job["if"].startswith("always() && github.event.action != 'closed'")
    assert set(needs(job)) == {"pipeline", "offline"}


def recovers(trial: Trial) -> bool:
    """Return whether the job that runs a trial's command finishes or undoes a change of the traffic, whatever happened in the command."""
    options = dict(itertools.pairwise(trial.command))
    ranges = {"from": options.get("--from"), "until": options.get("--until", options.get("--from"))}
    (steps,) = (
        job["steps"][place + 1 :]
        for _, _, job in ALL_JOBS
        for place, step in enumerate(job.get("steps", ()))
        if str(step.get("run", "")).endswith(f"-m mlops {trial.command[0]}")
        or (ranges["from"] and step.get("uses") == "$/.github/actions/stage" and step["with"].items() >= ranges.items())
    )
    return any(step.get("if") == "always()" and str(step.get("run", "")).endswith("-m mlops recover") for step in steps)


@pytest.mark.parametrize("name", TRIALS)
def test_chaos_cleans_up_as_the_workflows_do(name: str) -> None:
    trial = TRIALS[name]
    if trial.command == ("recover",):
        assert not trial.recovers, "recovery is what is stopped; the schedule tries again an hour later"
    else:
        assert recovers(trial) == trial.recovers


def test_expired_resources_are_deleted_even_if_a_traffic_change_needs_attention() -> None:
    recover, reap = FILES["schedule.yml"]["jobs"]["reap"]["steps"][-2:]
    assert recover["run"].endswith("-m mlops recover")
    assert reap["run"].endswith("-m mlops reap")
    assert reap["if"] == "${{ !cancelled() }}"


@pytest.mark.parametrize("job", ON_RUNNERS)
def test_exactly_the_jobs_that_talk_to_azure_may_sign_in(job: dict[str, Any]) -> None:
    runs = [str(step.get("run", "")) for step in job["steps"]]
    talks = any(step.get("uses") == "$/.github/actions/stage" for step in job["steps"])
    talks = talks or any(TO_AZURE.search(run) and "mlops.emulator" not in run for run in runs)
    assert (job.get("permissions", {}).get("id-token") == "write") == talks
    assert ("environment" in job) == talks, "anyone who edits a workflow could get a subject by branch"


def test_a_caller_grants_exactly_the_permissions_that_the_jobs_need() -> None:
    needed: dict[str, str] = {}
    for job in PIPELINE.values():
        for scope, level in job["permissions"].items():
            needed[scope] = max(needed.get(scope, ""), level)
    callers = [job for _, _, job in ALL_JOBS if job.get("uses") == "$/.github/workflows/pipeline.yml"]
    assert len(callers) == 3
    assert all(job["permissions"] == needed for job in callers)


def test_no_expression_reaches_a_shell() -> None:
    assert [where for where, step in STEPS if "${{" in str(step.get("run", ""))] == []


def test_a_stage_receives_the_signals_itself() -> None:
    """GitHub signals the process of a canceled step, not its children: the stage must be that process."""
    commands = [step["run"] for _, step in STEPS if "-m mlops" in str(step.get("run", ""))]
    assert len(commands) >= 7
    assert all(command.startswith("exec ") for command in commands)


def test_the_commands_in_the_workflows_have_these_options(capsys: pytest.CaptureFixture[str]) -> None:
    commands = [re.findall(r"-m mlops (.*)", step["run"])[-1].split() for _, step in STEPS if "-m mlops" in str(step.get("run"))]
    assert {command[0] for command in commands} == {"run", "plan", "comment", "rollback", "recover", "resume", "reap", "gate"}
    for name, *options in commands:
        with pytest.raises(SystemExit):
            main([name, "--help"])
        text = capsys.readouterr().out
        for option in options:
            assert not option.startswith("--") or option.partition("=")[0] in text, f"mlops {name} has no {option}"


def test_the_gate_action_takes_no_file_for_an_option() -> None:
    (command,) = [step["run"] for where, step in STEPS if where == "gate" and "run" in step]
    assert command.endswith('mlops gate --rules="$RULES" -- "$CANDIDATE" ${BASE:+"$BASE"}')


@pytest.mark.parametrize("name", FILES)
def test_every_permission_is_granted_by_a_job_with_a_reason(name: str) -> None:
    assert FILES[name]["permissions"] == {}
    text = (GITHUB / "workflows" / name).read_text()
    grants = re.findall(r"^ +[a-z-]+: (?:read|write)\b.*$", text, re.MULTILINE)
    assert all("  # " in grant for grant in grants), grants


def test_the_only_foreign_actions_are_githubs_own() -> None:
    """Signing in is our own code, so neither azure/login nor az is needed."""
    holders = [*(job for _, _, job in ALL_JOBS), *(step for _, step in STEPS)]
    used = {str(holder["uses"]) for holder in holders if "uses" in holder}
    foreign = {name.partition("@")[0] for name in used if not name.startswith("$/")}
    assert foreign == {f"actions/{name}" for name in ("checkout", "setup-python", "upload-artifact", "download-artifact")}


def test_no_workflow_uses_secrets_or_runs_foreign_code_with_rights() -> None:
    for path in WORKFLOWS:
        text = path.read_text()
        assert not re.search(r"pull_request_target|workflow_run:|secrets[.:\[]", text), path.name


@pytest.mark.parametrize("job", ON_RUNNERS)
def test_every_job_has_a_time_limit_and_persists_no_credentials(job: dict[str, Any]) -> None:
    assert 0 < job["timeout-minutes"] <= 350
    for step in job["steps"]:
        if str(step.get("uses", "")).startswith("actions/checkout@"):
            assert step["with"]["persist-credentials"] is False


def test_one_pipeline_per_target_and_no_deployment_is_canceled_midway() -> None:
    groups = {name: FILES[name]["concurrency"] for name in ("train.yml", "dispatch.yml", "pr.yml", "schedule.yml")}
    assert groups["train.yml"] == {"group": "pipeline-prod", "cancel-in-progress": False}
    assert "format('pipeline-{0}', inputs.target)" in groups["dispatch.yml"]["group"], "the same group as train.yml's"
    assert groups["dispatch.yml"]["cancel-in-progress"] is False
    assert groups["dispatch.yml"]["queue"] == "max", "a dispatched run is not replaced by a newer one"
    assert groups["pr.yml"] == {"group": "pr-${{ github.event.pull_request.number }}", "cancel-in-progress": True}
    assert groups["schedule.yml"]["cancel-in-progress"] is False


def test_promotion_waits_for_the_reviewers_of_its_own_environment() -> None:
    for name, job in PIPELINE.items():
        if name == "evaluate-gate":
            continue
        expected = "promotion-environment" if name == "promote" else "environment"
        assert job["environment"] == f"${{{{ inputs.{expected} }}}}"
    inputs = FILES["train.yml"]["jobs"]["pipeline"]["with"]
    assert (inputs["target"], inputs["environment"], inputs["promotion-environment"]) == ("prod", "train", "prod")
    inputs = FILES["pr.yml"]["jobs"]["pipeline"]["with"]
    assert (inputs["target"], inputs["environment"], inputs["promotion-environment"]) == ("pr", "pr", "pr")


def test_a_dispatch_of_an_ephemeral_target_signs_in_as_pull_requests_do() -> None:
    inputs = FILES["dispatch.yml"]["jobs"]["pipeline"]["with"]
    assert inputs["environment"] == "${{ inputs.target == 'pr' && 'pr' || 'train' }}"
    assert inputs["client-id"] == "${{ inputs.target == 'pr' && vars.AZURE_PR_CLIENT_ID || '' }}"
    rollback = FILES["dispatch.yml"]["jobs"]["rollback"]["env"]["AZURE_CLIENT_ID"]
    assert rollback == "${{ inputs.target == 'pr' && vars.AZURE_PR_CLIENT_ID || vars.AZURE_CLIENT_ID }}"
    assert FILES["pr.yml"]["jobs"]["pipeline"]["with"]["client-id"] == "${{ vars.AZURE_PR_CLIENT_ID }}"
    (plan,) = [step for step in PIPELINE["validate"]["steps"] if step.get("id") == "plan"]
    assert plan["env"]["MLOPS_PERMANENT_CLIENT_ID"] == "${{ vars.AZURE_CLIENT_ID }}"
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("MLOPS_SET", raising=False)
        assert ephemeral_targets(ROOT / "pipeline.toml") == {"pr", "local"}


def test_an_override_runs_in_the_environment_that_the_gate_checks_and_comes_from_dispatch_only() -> None:
    gate = PIPELINE["evaluate-gate"]
    name = GateConfig().override_environment
    assert gate["environment"] == f"${{{{ inputs.override != '' && '{name}' || inputs.environment }}}}"
    assert gate["permissions"]["actions"] == "read", "the gate asks GitHub whether the environment has reviewers"
    overrides = {job_id: step["with"] for job_id, job in PIPELINE.items() for step in job["steps"] if "override" in step.get("with", {})}
    assert {job_id: (using["override"], using["token"]) for job_id, using in overrides.items()} == {
        "evaluate-gate": ("${{ inputs.override }}", "${{ github.token }}")
    }
    callers = {name for name, _, job in ALL_JOBS if "override" in job.get("with", {})}
    assert callers == {"dispatch.yml"}


def test_a_commit_is_checked_before_any_of_its_code_runs() -> None:
    """And no job that checks it out runs where it is refused."""
    for name, job in PIPELINE.items():
        steps = job["steps"]
        checkouts = [place for place, step in enumerate(steps) if "ref" in step.get("with", {})]
        if name == "validate":
            (checked,) = [place for place, step in enumerate(steps) if "git merge-base --is-ancestor HEAD" in step.get("run", "")]
            assert (checkouts, checked) == ([0], 1)
            assert 'echo "commit=$(git rev-parse HEAD)" >> "$GITHUB_OUTPUT"' in steps[checked]["run"]
            assert steps[0]["with"]["fetch-depth"] == "${{ inputs.commit && '0' || '1' }}", "ancestry needs the whole history"
        elif checkouts:
            refs = {steps[place]["with"]["ref"] for place in checkouts}
            assert refs == {"${{ needs.validate.outputs.commit }}"}, "a branch may have moved since the check"
            assert "validate" in job["needs"] or any("validate" in PIPELINE[each]["needs"] for each in job["needs"])


def test_inlining_a_called_workflow_keeps_its_meaning() -> None:
    """The harness runs this instead of pr.yml where the pipeline fails."""
    whole = inlined(FILES["pr.yml"], "pipeline", FILES["pipeline.yml"])
    assert list(whole["jobs"]) == [*PIPELINE, "offline", "comment"]
    assert whole["jobs"]["comment"]["needs"] == ["offline", *PIPELINE]
    validate, teardown = whole["jobs"]["validate"], whole["jobs"]["teardown"]
    assert validate["if"] == f"${{{{ ({FILES['pr.yml']['jobs']['pipeline']['if']}) }}}}"
    assert teardown["if"].startswith(validate["if"].removesuffix(" }}") + " && (always() && needs.validate.result == 'success'")
    assert teardown["env"]["MLOPS_TARGET"] == "${{ 'pr' }}"
    assert teardown["env"]["MLOPS_SET"] == "${{ format('endpoint.name=ultrachat-pr-{0}', github.event.pull_request.number) }}"
    (plan,) = [step for step in validate["steps"] if step.get("id") == "plan"]
    assert plan["env"]["FROM"] == "${{ (github.event.action == 'closed' && 'teardown' || 'validate') }}"
    assert "inputs." not in str(whole["jobs"])


def test_the_tests_trust_the_environments_that_the_workflows_name() -> None:
    named = {str(job["environment"]) for _, _, job in ALL_JOBS if "environment" in job and "${{" not in str(job["environment"])}
    named.add(GateConfig().override_environment)
    for _, _, job in ALL_JOBS:
        named |= {str(value) for key, value in job.get("with", {}).items() if key.endswith("environment") and "${{" not in str(value)}
    assert {subject.rpartition(":")[2] for subject in (*TRUSTED, TRUSTED_PR)} == named


def test_dispatch_offers_all_jobs() -> None:
    inputs = FILES["dispatch.yml"]["on"]["workflow_dispatch"]["inputs"]
    assert inputs["from"]["options"] == inputs["until"]["options"] == list(JOBS)


@pytest.mark.parametrize(
    ("file", "starts"),
    [
        ("pipeline.toml", True), ("data/retention.jsonl", True), ("mlops/train.py", True), ("mlops/remote/__main__.py", True),
        ("pyproject.toml", True), ("mlops/report/report.html.jinja", True),
        ("requirements/azure.lock", True), (".github/actions/stage/action.yml", True), (".github/workflows/pipeline.yml", True),
        ("mlops/emulator/jobs/jobs.py", False), ("docs/workflows.md", False), ("tests/test_train.py", False), ("README.md", False),
    ],
)  # fmt: skip
def test_a_push_starts_training_only_if_it_can_change_the_result(file: str, starts: bool) -> None:
    matched = False
    for pattern in FILES["train.yml"]["on"]["push"]["paths"]:
        if fnmatch.fnmatch(file, pattern.removeprefix("!").replace("**", "*")):
            matched = not pattern.startswith("!")
    assert matched is starts


def test_the_coordinates_of_azure_are_read_in_the_job_with_the_environment() -> None:
    """A workflow's own ``env`` sees no variables of environments."""
    assert [name for name, workflow in FILES.items() if "vars." in str(workflow.get("env", ""))] == []
    jobs = [(name, job_id, job) for name, job_id, job in ALL_JOBS if job.get("environment") and job.get("steps")]
    assert len(jobs) > 8
    for name, job_id, job in jobs:
        missing = [variable for variable in COORDINATES if "vars." not in str(job.get("env", {}).get(variable))]
        assert missing == [], f"{name}/{job_id}"


def test_the_jobs_that_sign_in_to_azure_run_where_the_repository_says() -> None:
    """A private workspace is reached from its virtual network only. Code of a fork never runs there."""
    expected = "${{ vars.MLOPS_RUNNER || 'ubuntu-latest' }}"
    for name, job_id, job in ALL_JOBS:
        if "runs-on" in job:
            signs_in = job.get("permissions", {}).get("id-token") == "write"
            assert job["runs-on"] == (expected if signs_in else "ubuntu-latest"), f"{name}/{job_id}"


def test_no_schedule_starts_on_the_hour() -> None:
    """GitHub delays or drops schedules when everybody's start."""
    text = (GITHUB / "workflows" / "schedule.yml").read_text(encoding="utf-8")
    minutes = re.findall(r'- cron: "(\d+) ', text)
    assert minutes
    assert all(int(minute) % 5 for minute in minutes)
