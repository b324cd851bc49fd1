"""An evaluation of the test's own: records up to training's, suites, an endpoint, and a scorer that needs no model library.

The jobs are real: submitted, run and downloaded through the emulator. Only the code that they run is not ``mlops/remote``, so that a test
of which models are scored, when, and with which result takes a second. ``tests/remote`` tests what ``mlops/remote`` computes.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from mlops.cloud.workspace import Workspace
from mlops.core.judgement import Verdict
from mlops.core.records import Evaluated, Judged, Registered, Suite, Trained, Validated
from mlops.core.settings import ComputeConfig, Config
from mlops.emulator.history import runstore
from mlops.emulator.server import Emulator
from mlops.emulator.storage import blobs
from mlops.evaluate import evaluate
from tests.support.deployments import ready_to_train

ENDPOINT = "judged"
ALL = ["base", "candidate", "champion"]
MODEL_NAME = "judged"
VERSIONS = {"blue": "1", "green": "2"}
"""Deployment of the common endpoint → version of the model that it serves."""
FINGERPRINT_OF_OTHER_DATA = "0" * 64
SCORER = """
import argparse, hashlib, json, math, pathlib, time

HOW = {how}  # role → what it does instead of what it should; for {unique}
parser = argparse.ArgumentParser()
for name in ("model", "base", "target", "retention", "output", "model-id", "base-id", "role", "key", "evaluation-version",
             "generate-rows", "task-rows", "max-tokens", "max-new-tokens", "batch-tokens", "precision"):
    parser.add_argument("--" + name)
parser.add_argument("--trust-remote-code", choices=["true", "false"], required=True)
arguments = parser.parse_args()
how = HOW.get(arguments.role, "")
if how == "wait":
    time.sleep(120)
if how == "fail":
    raise RuntimeError("broken on purpose")


def digest(folder):
    files = sorted(path for path in pathlib.Path(folder).rglob("*") if path.is_file())
    return hashlib.sha256(b"".join(path.read_bytes() for path in files)).hexdigest()


SUITES = {{suite: pathlib.Path(getattr(arguments, suite)) for suite in ("target", "retention")}}
model = digest(arguments.model)
rows = []
for suite in SUITES:
    for line in SUITES[suite].read_text().splitlines():
        row = json.loads(line)
        worth = int(hashlib.sha256((model + row["prompt_id"]).encode()).hexdigest()[:4], 16) / 65536
        rows.append({{"suite": suite, "id": row["prompt_id"], "kind": row.get("kind", ""), "input": row["prompt_id"], "tokens": 4,
                     "nll": 4 + worth, "greedy_tokens": 2,
                     "kl": worth if suite == "retention" else None}})
        if suite == "target":
            rows[-1]["answer"] = arguments.role + " says " + row["prompt_id"]
if how == "foreign":
    rows[0]["id"] = "of another suite"
if how == "nan":
    rows[0]["nll"] = math.nan
metrics = {{suite + ".nll": sum(row["nll"] for row in rows if row["suite"] == suite) / sum(4 for row in rows if row["suite"] == suite)
           for suite in SUITES}}
result = {{
    "schema_version": 2, "key": arguments.key, "evaluation_version": arguments.evaluation_version, "weights_digest": model,
    "base_weights_digest": "another base" if how == "other base" else digest(arguments.base or arguments.model), "mlflow_run_id": "",
    "metrics": metrics, "samples": [], "notes": ["a note of the job"] if how == "note" else [],
    "rows": {{suite: sum(row["suite"] == suite for row in rows) for suite in SUITES}},
    "suite_digests": {{suite: hashlib.sha256(path.read_bytes()).hexdigest() for suite, path in SUITES.items()}},
}}
if how != "empty":
    output = pathlib.Path(arguments.output)
    output.mkdir(parents=True, exist_ok=True)
    (output / "scores.jsonl").write_text("".join(json.dumps(row) + "\\n" for row in rows))
    result["scores_sha256"] = hashlib.sha256((output / "scores.jsonl").read_bytes()).hexdigest()
    (output / "result.json").write_text(json.dumps(result))
"""


def write_scorer(folder: Path, unique: str, how: Mapping[str, str]) -> None:
    """Make ``folder`` hold the scorer. Its digest is part of every key, so ``unique`` keeps the jobs of tests apart."""
    folder.mkdir(exist_ok=True)
    (folder / "__main__.py").write_text(SCORER.format(how=dict(how), unique=unique))


def _row(row_id: str) -> dict[str, Any]:
    messages = [{"role": "user", "content": f"What is {row_id}?"}, {"role": "assistant", "content": f"It is {row_id}, as ever."}]
    return {"prompt": messages[0]["content"], "prompt_id": row_id, "messages": messages, "kind": "facts"}


class Evaluation:
    """A run directory with everything that ``evaluate`` needs, and the scoring jobs of the test.

    Args:
        directory: the run directory.
        config: its experiment must be used by this test only.
        workspace: the session.
        shared_emulator: the emulator behind it.
        job: the training job whose output ``trained_model`` is the candidate.
    """

    def __init__(self, directory: Path, config: Config, workspace: Workspace, shared_emulator: Emulator, job: str) -> None:
        self.config, self.workspace, self.emulator = config, workspace, shared_emulator
        self.store = shared_emulator.azure.store
        workspace.compute.ensure(ComputeConfig(name="cluster"))
        self.run = ready_to_train(directory)
        self.validated = self.freeze()
        self.trained = self._train(job)

    def freeze(self, target: int = 6, retention: int = 4) -> Validated:
        """Write validation's record with suites of so many rows, so that records made from others are out of date."""
        suites = {}
        for name, count in {"target": target, "retention": retention}.items():
            path = self.run.path("suites", f"{name}.jsonl")
            path.write_text("".join(json.dumps(_row(f"{name}-{number}")) + "\n" for number in range(count)))
            digest = hashlib.sha256(path.read_bytes()).hexdigest()
            suites[name] = Suite(name=name, path=f"suites/{name}.jsonl", digest=digest, rows=count)
        self.validated = self.run.write(self.run.read(Validated).model_copy(update={"suites": suites}))
        return self.validated

    def retrain(self, job: str, identity: str = "") -> None:
        """Write training's record again, for what is validated now; ``identity`` tells the job from another one of the same name."""
        self.trained = self._train(job, identity)

    def register(self, version: str, model: str, identity: str = "") -> None:
        """Write the records of a gate that has judged this evaluation, and of the registration of its candidate."""
        records = (self.run.read(Evaluated), self.validated, self.trained) if self.run.has(Evaluated) else ()
        judged = Judged(
            inputs={record.stage: record.digest() for record in records}, target="test", verdict=Verdict.PROMOTE, reasons=(), judgements=(),
            candidate_job=self.trained.job, candidate_model=self.trained.model_output, first_run=False,
        )  # fmt: skip
        self.run.write(judged)
        inputs = {"train": self.trained.digest(), "gate": judged.digest()}
        self.run.write(Registered(inputs=inputs, name=MODEL_NAME, version=version, model=model, identity=identity, tags={}))

    def _train(self, job: str, identity: str = "") -> Trained:
        validated = self.validated
        return self.run.write(
            Trained(
                inputs={"prepare": validated.inputs["prepare"], "validate": validated.digest()},
                run_key=hashlib.sha256(job.encode()).hexdigest(),
                job=job,
                identity=identity,
                display_name="copy",
                experiment=self.config.training.experiment,
                status="Completed",
                studio_url="",
                mlflow_run_id=job,
                model_output=f"azureml://jobs/{job}/outputs/trained_model",
                base_model=validated.base_model,
                component=validated.component,
                data_fingerprint=validated.data_fingerprint,
                parameters=(),
                gpus=1,
            )
        )

    def evaluate(self, config: Config | None = None, workspace: Workspace | None = None) -> Evaluated:
        return evaluate(config or self.config, self.run, workspace or self.workspace)

    def jobs(self) -> list[tuple[str, str]]:
        """(role, status) of this test's scoring jobs, oldest first."""
        runs = runstore.list_all(self.emulator.azure)
        return [(run["tags"]["mlops.role"], run["status"]) for run in runs if run["experiment"] == self.config.training.experiment]

    def scored(self) -> list[str]:
        """The roles that a scoring job was submitted for, sorted."""
        return sorted(role for role, _ in self.jobs())

    def expect_jobs(self, expected: list[tuple[str, str]]) -> None:
        """Wait until this test's jobs have these roles and statuses; canceling takes a moment."""
        deadline = time.monotonic() + 60
        while self.jobs() != expected and time.monotonic() < deadline:
            time.sleep(0.05)
        assert self.jobs() == expected

    def names(self, role: str) -> list[str]:
        """The jobs that scored this role, oldest first."""
        runs = runstore.list_all(self.emulator.azure)
        mine = [run for run in runs if run["experiment"] == self.config.training.experiment]
        return [run["name"] for run in mine if run["tags"]["mlops.role"] == role]

    def output(self, job: str) -> Path:
        """Where a scoring job's files are in the workspace's storage."""
        return blobs.path(self.emulator.azure, blobs.datastore_container(self.emulator.azure), f"azureml/{job}/scores")

    def traffic(self, **shares: int) -> None:
        """Split the traffic of the common endpoint; nothing for none at all."""
        self.workspace.endpoints.set_traffic(ENDPOINT, shares, allow_none=True)

    def model(self, deployment: str) -> str:
        """Full id of what a deployment of the common endpoint serves."""
        view = self.workspace.endpoints.find_deployment(ENDPOINT, deployment)
        assert view is not None
        return view.model

    @contextmanager
    def changed(self, kind: str, key: str, **fields: Any) -> Iterator[None]:
        """Change a resource of the workspace for a while; without fields, delete it."""
        before = self.store.get(kind, key)
        assert before is not None
        self.store.put(kind, key, before | fields) if fields else self.store.delete(kind, key)
        try:
            yield
        finally:
            self.store.put(kind, key, before)


Make = Callable[..., Evaluation]
"""``make("key=value", live="blue", candidate="wait")``: with these overrides, that deployment live, and that role's scoring doing that."""
