"""Runs workflows with act, on this machine and offline.

Azure, GitHub's token issuer and its REST API are emulated; the artifact actions are doubles.

act reads the files as GitHub does but lacks what only GitHub has. The harness adds what matters of that to the copy of the tree that it
runs: a job gets an identity only if its ``permissions:`` say ``id-token: write``, its token may do what they say, and its subject follows
from its ``environment:``. docs/workflows.md lists what only GitHub can show.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from mlops.emulator import github_api
from mlops.emulator.base.fork_servers import ForkServers
from mlops.emulator.history import runstore
from mlops.emulator.identity.github_oidc import WorkflowRun, job_environment
from mlops.emulator.server import Emulator
from tests.support.rows import write_rows
from tests.support.workflows.forks import write_python
from tests.support.workflows.trees import REPOSITORY, ROOT, commit, copy_tree, git, inlined, make_repository, read_workflow, write_workflow

DOUBLES = Path(__file__).parent / "doubles"
TINY = Path(__file__).parent / "pipeline.toml"
PULL_REQUESTS = "00000000-0000-4000-8000-0000000000a1"
"""Client id of the application of pull requests."""
COORDINATES = ("AZURE_TENANT_ID", "AZURE_CLIENT_ID", "AZURE_SUBSCRIPTION_ID", "AZUREML_RESOURCE_GROUP", "AZUREML_WORKSPACE")
LIMIT_S = 900.0
USES = re.compile(r"(?P<repository>[\w.-]+/[\w.-]+)(?P<sub>/[^@\s]+)?@(?P<ref>\S+)")


@dataclasses.dataclass
class Result:
    """The outcome of a workflow run."""

    run_id: str
    code: int
    jobs: dict[str, str] = dataclasses.field(default_factory=dict)
    """Job id → success or failure, in the order in which they ended; skipped jobs are missing."""
    outputs: dict[str, str] = dataclasses.field(default_factory=dict)
    """The last value that a step set; empty ones are left out."""
    summary: str = ""
    log: str = ""

    @property
    def trouble(self) -> str:
        """The last log lines of the failed jobs, for the messages of tests."""
        failed = [f"[{job}]" for job, end in self.jobs.items() if end != "success"]
        lines = [line for line in self.log.splitlines() if not failed or any(line.startswith(job) for job in failed)]
        return "\n".join([str(self.jobs), *(line for line in lines[-120:] if "LocalRepositoryCache" not in line)])


def _row(number: int) -> dict[str, Any]:
    """A short conversation with something regular, so that a tiny model has something to learn."""
    question, answer = f"What comes after {number}?", f"After {number} comes {number + 1}, as ever."
    messages = [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]
    return {"prompt": question, "prompt_id": f"counting-{number}", "messages": messages}


class Harness:
    """A repository on the emulated GitHub, with its workflow runs.

    Args:
        emulator: with ``Options.github`` set.
        folder: for the repository's tree, artifacts and act's caches.
        source: the repository whose files it runs.
        project: how ``source`` names this project (``OWNER/NAME@REF``), if it is another repository that calls it.
        configuration: the repository's pipeline.toml.
        fork_servers: what the commands of its steps start from.
    """

    def __init__(
        self,
        emulator: Emulator,
        folder: Path,
        source: Path = ROOT,
        project: str = "",
        configuration: Path = TINY,
        *,
        fork_servers: ForkServers,
    ) -> None:
        self.emulator = emulator
        self.tree = folder / "tree"
        self.artifacts = folder / "artifacts"
        self._folder = folder
        self._project = project or f"{REPOSITORY}@main"
        self._home = folder / "project" if project else self.tree
        self._runs = 100
        self._python = write_python(folder / "python", fork_servers)
        copy_tree(source, self.tree)
        self._configuration = configuration.read_text()
        (self.tree / "pipeline.toml").write_text(self._configuration)
        write_rows(self.tree / "data" / "counting.jsonl", map(_row, range(160)))
        self._files = sorted((self.tree / ".github").rglob("*.yml"))
        if project:
            copy_tree(ROOT, self._home)
            self._files += sorted((self._home / ".github").rglob("*.yml"))
        for path in self._files:
            self._adapt(path)
        # act copies a repository for every job that uses an action of it, which takes seconds for all of its files.
        self._actions = folder / "actions"
        shutil.copytree(self._home / ".github", self._actions / ".github")
        make_repository(self.tree)

    def add_workflow(self, name: str, text: str) -> None:
        """Commit another workflow file."""
        path = self.tree / ".github/workflows" / name
        path.write_text(text)
        self._files.append(path)
        self._adapt(path)
        commit(self.tree)

    def configure(self, *changes: tuple[str, str]) -> str:
        """Commit the original pipeline.toml with these (pattern, replacement) changes and return the commit."""
        text = self._configuration
        for pattern, replacement in changes:
            text, changed = re.subn(pattern, replacement, text, count=1, flags=re.MULTILINE)
            assert changed, pattern
        (self.tree / "pipeline.toml").write_text(text)
        return commit(self.tree)

    def endpoints(self) -> dict[str, dict[str, int]]:
        """Endpoint → traffic, with every deployment."""
        store = self.emulator.azure.store
        traffic = {}
        for key, endpoint in store.list("endpoint"):
            deployments = [deployment["name"] for _, deployment in store.list("deployment", f"{key}/")]
            traffic[endpoint["name"]] = {name: endpoint["traffic"].get(name, 0) for name in deployments}
        return traffic

    def jobs(self, prefix: str = "mlops-train") -> dict[str, str]:
        """Job → status, oldest first."""
        runs = runstore.list_all(self.emulator.azure)
        return {run["name"]: run["status"] for run in runs if run["kind"] == "job" and run["name"].startswith(prefix)}

    def push(self, **options: Any) -> Result:
        """Push to main."""
        return self.run("push", "train.yml", {"ref": "refs/heads/main"}, **options)

    def pull_request(self, number: int, action: str = "opened", *, fork: bool = False, author: str = "octocat", **options: Any) -> Result:
        """Run the workflows of an event on a pull request."""
        github_api.open_pull_request(self.emulator.azure, number)
        head = {"ref": "change", "sha": "1" * 40, "repo": {"full_name": "fork/chat" if fork else REPOSITORY, "fork": fork}}
        pull_request = {"number": number, "head": head, "base": {"ref": "main"}, "user": {"login": author}}
        payload = {"action": action, "number": number, "pull_request": pull_request}
        return self.run("pull_request", "pr.yml", payload, fork=fork, **options)

    def dispatch(self, workflow: str, inputs: Mapping[str, str], **options: Any) -> Result:
        """Dispatch a workflow; missing inputs have their defaults, as on GitHub."""
        declared = read_workflow(self.tree / ".github/workflows" / workflow)["on"]["workflow_dispatch"]["inputs"]
        assert not inputs.keys() - declared.keys(), inputs
        for name, value in inputs.items():
            assert "options" not in declared[name] or value in declared[name]["options"], (name, value)
        values = {name: inputs.get(name, declaration.get("default", "")) for name, declaration in declared.items()}
        return self.run("workflow_dispatch", workflow, {"ref": "refs/heads/main", "inputs": values}, **options)

    def schedule(self, **options: Any) -> Result:
        """Run the scheduled workflow."""
        return self.run("schedule", "schedule.yml", {"schedule": "17 * * * *"}, **options)

    def run(
        self,
        event: str,
        workflow: str,
        payload: Mapping[str, Any],
        *,
        fork: bool = False,
        configured: bool = True,
        job: str = "",
        run_id: str = "",
        inline: bool = False,
        during: Callable[[Result], None] | None = None,
    ) -> Result:
        """Run a workflow and return when it has ended.

        Args:
            event: as in ``on:``.
            workflow: file name.
            payload: the event's.
            fork: whether it is a fork's pull request: no identity, no variables.
            configured: whether the repository has its Azure variables.
            job: run this job alone.
            run_id: of the workflow run; a new one by default.
            inline: put the called jobs into the calling workflow, so that later jobs run although one of them fails.
            during: called in a thread of its own while the workflow runs.
        """
        self._runs += 1
        result = Result(run_id or str(self._runs), -1)
        event_file = self._folder / f"event-{self._runs}.json"
        names = {"full_name": REPOSITORY, "name": "chat", "owner": {"login": "octo"}, "default_branch": "main"}
        event_file.write_text(json.dumps({"repository": names, **payload}))
        variables = self._variables(event, result.run_id, payload) if configured and not fork else {}
        path = self._inlined(workflow) if inline else self.tree / ".github/workflows" / workflow
        # A step that is canceled is a process like any other.
        python = sys.executable if during else str(self._python)
        command = self._command(event, path, event_file, result.run_id, variables, job, python)
        home = self._folder / "home"
        home.mkdir(exist_ok=True)
        origin: dict[str, Any] = {"file": workflow, "event": event, "branch": "change" if "pull_request" in payload else "main"}
        for line in git(self.tree, "rev-list", "--parents", "HEAD").splitlines():
            github_api.add_commit(self.emulator.azure, *line.split())
        origin["sha"] = "1" * 40 if "pull_request" in payload else git(self.tree, "rev-parse", "HEAD")
        github_api.add_workflow_run(self.emulator.azure, result.run_id, "in_progress", None, **origin)
        watcher = threading.Thread(target=during, args=(result,), daemon=True) if during else None
        process = subprocess.Popen(
            command,
            env={"PATH": os.environ["PATH"], "HOME": str(home), "LANG": "C.UTF-8", "GIT_PAGER": "cat"},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
            cwd=self.tree,
        )
        if watcher:
            watcher.start()
        deadline = threading.Timer(LIMIT_S, lambda: os.killpg(process.pid, signal.SIGKILL))
        deadline.start()
        try:
            assert process.stdout is not None
            for line in process.stdout:
                _read_log_line(result, line)
            result.code = process.wait()
        finally:
            deadline.cancel()
            if process.stdout is not None:
                process.stdout.close()
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
        conclusion = "success" if result.code == 0 else "failure"
        ends = {f"pipeline / {name}": end for name, end in result.jobs.items()}
        github_api.add_workflow_run(self.emulator.azure, result.run_id, "completed", conclusion, jobs=ends, **origin)
        assert "Skipping unsupported platform" not in result.log, result.log[-2000:]
        return result

    def _inlined(self, workflow: str) -> Path:
        """A copy of a workflow with the jobs of pipeline.yml in it."""
        folder = self.tree / ".github/workflows"
        document = read_workflow(folder / workflow)
        called = read_workflow(self._home / ".github/workflows/pipeline.yml")
        path = self._folder / workflow
        write_workflow(path, inlined(document, "pipeline", called))
        return path

    def _variables(self, event: str, run_id: str, payload: Mapping[str, Any]) -> dict[str, str]:
        """The repository's variables, and those that only the adapted copies of the workflows read."""
        environment = self.emulator.environment()
        number = payload.get("number")
        ref = f"refs/pull/{number}/merge" if number else "refs/heads/main"
        identity = job_environment(self.emulator.azure, WorkflowRun(run_id, event=event, ref=ref))
        return {name: environment[name] for name in COORDINATES} | {
            "AZURE_PR_CLIENT_ID": PULL_REQUESTS,
            "EMULATED_ID_TOKEN_URL": identity["ACTIONS_ID_TOKEN_REQUEST_URL"].partition("&")[0],
            "EMULATED_ID_TOKEN_TOKEN": identity["ACTIONS_ID_TOKEN_REQUEST_TOKEN"],
        }

    def _command(
        self, event: str, workflow: Path, payload: Path, run_id: str, variables: Mapping[str, str], job: str, python: str
    ) -> list[str]:
        act = shutil.which("act", path=os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]]))
        assert act, "act is not installed: it comes with the dependency group `workflows`"
        empty = self._folder / "empty"
        empty.touch()
        environment = {name: value for name, value in self.emulator.environment().items() if not name.startswith("AZURE")}
        environment |= {
            "GITHUB_RUN_ID": run_id,
            "MLOPS_PYTHON": python,
            "MLOPS_EMULATOR_WEIGHTS": "tiny-llama",
            "ARTIFACT_STORE": str(self.artifacts),
            "DOUBLES": str(DOUBLES),
            "REPOSITORY_TREE": str(self.tree),
            "OMP_NUM_THREADS": "1",
            "PYTHONPATH": str(self._home) if self._home != self.tree else "",
        }
        command = [act, event, "--json", "-C", str(self.tree), "-W", str(workflow), "-e", str(payload)]
        command += [
            "-P",
            "ubuntu-latest=-self-hosted",
            "--pull=false",
            "--rebuild=false",
            "--rm",
            "--no-cache-server",
            "--actor",
            "octocat",
        ]
        command += [
            "--no-skip-checkout",
            "--action-offline-mode",
            "--use-new-action-cache",
            "--action-cache-path",
            str(self._folder / "cache"),
        ]
        command += ["--concurrent-jobs", "2", *(["-j", job] if job else [])]
        for kind in ("env", "secret", "var", "input"):
            command += [f"--{kind}-file", str(empty)]
        for name, value in environment.items():
            command += ["--env", f"{name}={value}"]
        for name, value in variables.items():
            command += ["--var", f"{name}={value}"]
        for uses, place in self._repositories().items():
            command += ["--local-repository", f"{uses}={place}"]
        return command

    def _repositories(self) -> dict[str, Path]:
        """owner/name@ref → the folder in its place, for every action in use."""
        folders: dict[str, Path] = {}
        for path in self._files:
            for match in re.finditer(r"uses: *['\"]?" + USES.pattern, path.read_text()):
                repository, ref = match["repository"], match["ref"].strip("'\"")
                ours = f"{repository}@{ref}" == self._project
                place = self._actions if ours else DOUBLES / repository.partition("/")[2]
                assert ours or (place / "action.yml").is_file(), f"{path.name} uses {repository}, which has no double"
                folders[f"{repository}@{ref}"] = place
        return folders

    def _adapt(self, path: Path) -> None:
        """Add to a copy what act lacks, and remove what it rejects."""
        document = read_workflow(path)
        for job in document.get("jobs", {}).values():
            self._resolve_dollar(job)
            if "runs-on" in job:
                self._grant(job)
            for step in job.get("steps", ()):
                self._resolve_dollar(step)
        for step in document.get("runs", {}).get("steps", ()):
            self._resolve_dollar(step)
        if isinstance(document.get("concurrency"), dict):
            document["concurrency"].pop("queue", None)
        write_workflow(path, document)

    def _resolve_dollar(self, holder: dict[str, Any]) -> None:
        """Replace ``$/x``: the repository of the file itself, at the commit of the workflow. act does not know this form."""
        if str(holder.get("uses", "")).startswith("$/"):
            repository, _, ref = self._project.partition("@")
            holder["uses"] = f"{repository}/{holder['uses'][2:]}@{ref}"

    def _grant(self, job: dict[str, Any]) -> None:
        """Give the job what its permissions allow: an identity with the subject of its environment, and a token."""
        permissions = job.get("permissions", {})
        environment = str(job.get("environment", ""))
        inner = environment.removeprefix("${{").removesuffix("}}").strip() if environment.startswith("${{") else f"'{environment}'"
        if permissions.get("id-token") == "write":
            url = "${{ vars.EMULATED_ID_TOKEN_URL && format('{0}&environment={1}', vars.EMULATED_ID_TOKEN_URL, " + inner + ") || '' }}"
            identity = {"ACTIONS_ID_TOKEN_REQUEST_URL": url, "ACTIONS_ID_TOKEN_REQUEST_TOKEN": "${{ vars.EMULATED_ID_TOKEN_TOKEN }}"}
            job["env"] = identity | job.get("env", {})
        token = github_api.issue_token(self.emulator.azure, permissions)
        for step in job.get("steps", ()):
            for part in ("env", "with"):
                for name, value in step.get(part, {}).items():
                    if isinstance(value, str):
                        step[part][name] = value.replace("${{ github.token }}", token)


def _read_log_line(result: Result, line: str) -> None:
    """Add one line of act's JSON log to the result."""
    try:
        entry = json.loads(line)
    except ValueError:
        result.log += line
        return
    result.log += f"[{entry.get('jobID', '')}] {entry.get('msg', '').rstrip()}\n"
    if entry.get("jobResult") and entry["jobResult"] != "skipped":
        result.jobs[entry["jobID"]] = entry["jobResult"]
    if entry.get("command") == "set-output" and entry["arg"]:
        result.outputs[entry["name"]] = entry["arg"]
    if entry.get("command") == "summary":
        result.summary += entry["content"] + "\n"


__all__ = ["PULL_REQUESTS", "Harness", "Result"]
