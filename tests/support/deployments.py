"""A run directory with everything up to the gate's record, for the tests of the stages after it.

From a training, register, deploy, smoke-test and promote need a Completed job with an MLflow model in its output. The job here copies a
model without weights, so containers start fast.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

from mlops.cloud.tags import RUN_KEY, TRAINING_JOB, VERDICT
from mlops.cloud.workspace import Workspace
from mlops.core.evaluation_version import evaluation_version
from mlops.core.judgement import Override, Verdict
from mlops.core.records import Evaluated, ModelScores, Prepared, Suite, Trained, Validated
from mlops.core.run import Run
from mlops.core.settings import ComputeConfig, Config, GateConfig, Rule
from mlops.judging.judge import judge
from mlops.remote.metrics import aggregate

EXPERIMENT = "serving"
BASE = "azureml://registries/azureml/models/Phi-4/versions/8"
MLMODEL = """flavors:
  python_function:
    code: code
    loader_module: answering
    python_version: 3.11.0
metadata:
  task: chat-completion
"""
RULES = """
[targets.test.gate.rules.target]
metric = "target.nll"
direction = "lower"
baseline = "champion"
margin = -0.1
[targets.test.gate.rules.drift]
metric = "target.nll"
direction = "lower"
baseline = "anchor"
"""
"""In pipeline.toml, the rules that judge the runs of this module."""
CONFIG = Config(
    target="test",
    gate=GateConfig(
        rules={
            "target": Rule(metric="target.nll", direction="lower", baseline="champion", margin=-0.1),
            "drift": Rule(metric="target.nll", direction="lower", baseline="anchor"),
        }
    ),
)
"""The same as settings."""
ANSWERING = """class Answering:
    def predict(self, payload, params=None):
        return {"output": "That is a fine number."}


def _load_pyfunc(_path):
    return Answering()
"""


def model_job(workspace: Workspace, folder: Path) -> str:
    """Run a job whose output ``trained_model`` is a servable MLflow model, and return its name once it is Completed."""
    workspace.compute.ensure(ComputeConfig(name="cluster"))
    code = folder / "model" / "code" / "answering.py"
    code.parent.mkdir(parents=True)
    code.write_text(ANSWERING)
    (folder / "model" / "MLmodel").write_text(MLMODEL)
    job = workspace.jobs.submit_command(
        name_hint="copy",
        code=folder,
        command="mkdir -p ${{outputs.trained_model}} && cp -r model/. ${{outputs.trained_model}}",
        inputs={},
        outputs={"trained_model": "mlflow_model"},
        environment="azureml://registries/azureml/environments/acft-hf-nlp-gpu/versions/112",
        compute="cluster",
        tags={RUN_KEY: hashlib.sha256(b"copy").hexdigest()},
        experiment=EXPERIMENT,
        display_name="copy a model",
    )
    workspace.wait(job, 120)
    return job


def registered_model(workspace: Workspace, job: str) -> str:
    """Return the full id of a registered model of this job, which the gate admits."""
    tags = {TRAINING_JOB: job, VERDICT: "PROMOTE"}
    model = workspace.assets.find_model("answering", tags) or workspace.assets.register_model(
        name="answering", version="1", path=f"azureml://jobs/{job}/outputs/trained_model", description="", tags=tags
    )
    return model.id


def ready_to_train(directory: Path, rows: int = 12) -> Run:
    """Write the records up to validation's."""
    run = Run(directory)
    prepared = _prepared(run, rows)
    run.write(
        Validated(
            inputs={"prepare": prepared.digest()},
            data_fingerprint=prepared.fingerprint,
            rows_checked={"test_gen": rows},
            suites={"target": Suite(name="target", path="data/test_sft.jsonl", digest=prepared.files["test_sft"].sha256, rows=rows)},
            base_model=BASE,
            component="azureml://registries/azureml/components/chat_completion_pipeline/versions/0.0.82",
            compute="cluster",
            compute_size="Standard_NC24ads_A100_v4",
            gpus_per_node=1,
            endpoint_sku="Standard_NC24ads_A100_v4",
            cost_estimate_usd=None,
            cost_note="",
        )
    )
    return run


def behind_the_gate(
    directory: Path,
    job: str,
    verdict: Verdict = Verdict.PROMOTE,
    champion: str | None = None,
    override: Override | None = None,
    identity: str = "",
    rows: int = 12,
) -> Run:
    """Write the records up to the gate's, about this job; ``identity`` tells it from another one of the same name.

    The gate has really judged: the stages after it derive the verdict again, by the rules of the target ``test``. Its settings must have
    :data:`RULES`.
    """
    run = ready_to_train(directory, rows)
    prepared, validated = run.read(Prepared), run.read(Validated)
    trained = run.write(
        Trained(
            inputs={"prepare": prepared.digest(), "validate": validated.digest()},
            run_key=hashlib.sha256(job.encode()).hexdigest(),
            job=job,
            identity=identity,
            display_name="copy",
            experiment=EXPERIMENT,
            status="Completed",
            studio_url="",
            mlflow_run_id=job,
            model_output=f"azureml://jobs/{job}/outputs/trained_model",
            base_model=BASE,
            component=validated.component,
            data_fingerprint=prepared.fingerprint,
            parameters=(),
            gpus=1,
        )
    )
    write_evaluation(run, trained, verdict, champion)
    judged = judge(CONFIG, run)
    assert judged.verdict is verdict
    run.write(judged.model_copy(update={"override": override}))
    return run


def write_evaluation(run: Run, trained: Trained, verdict: Verdict, champion: str | None) -> None:
    """Write scores with which the gate reaches this verdict by :data:`RULES`."""
    validated = run.read(Validated)
    loss = {Verdict.PROMOTE: 1.0, Verdict.HOLD: 1.0, Verdict.REJECT: 4.0}[verdict]
    models: dict[str, tuple[str, float]] = {"candidate": (trained.model_output, loss), "base": (BASE, 2.0)}
    # A champion that exists and has no scores keeps the evidence from being sufficient.
    missing = {"champion": "it is gone"} if verdict is Verdict.HOLD else {}
    if champion is not None and not missing:
        models["champion"] = (champion, 2.5)
    files, scores = {}, {}
    for role, (model, value) in models.items():
        rows = [_score(number, value) for number in range(validated.suites["target"].rows)]
        path = run.path("evaluate", f"{role}.jsonl")
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
        files[f"scores.{role}"] = run.describe_file(path, len(rows))
        scores[role] = ModelScores.model_validate(
            {
                "role": role, "model": model, "weights_digest": hashlib.sha256(model.encode()).hexdigest(), "job": f"score-{role}",
                "mlflow_run_id": "score", "metrics": aggregate(rows), "rows": {"target": len(rows)},
                "suite_digests": {"target": validated.suites["target"].digest}, "scores": f"scores.{role}",
            }
        )  # fmt: skip
    run.write(
        Evaluated(
            inputs={"validate": validated.digest(), "train": trained.digest()},
            files=files,
            evaluation_version=evaluation_version(CONFIG, validated),
            models=scores,
            missing=missing,
            champion=champion or "",
        )
    )


def _prepared(run: Run, rows: int) -> Prepared:
    files = {}
    for split in ("train_sft", "test_sft", "train_gen", "test_gen"):
        path = run.path("data", f"{split}.jsonl")
        path.write_text("".join(json.dumps(_talk(split, number)) + "\n" for number in range(rows)))
        files[split] = run.describe_file(path, rows)
    fingerprint = hashlib.sha256("".join(file.sha256 for file in files.values()).encode()).hexdigest()
    return run.write(Prepared(dataset="test", revision="", percent=100, seed=42, fingerprint=fingerprint, files=files))


def _talk(split: str, number: int) -> dict[str, object]:
    prompt = f"Tell me something about the number {number} of {split}, please."
    messages = [{"role": "user", "content": prompt}]
    if split.endswith("_sft"):
        messages.append({"role": "assistant", "content": f"It comes right after {number - 1}."})
    return {"prompt": prompt, "prompt_id": f"{split}-{number}", "messages": messages}


def _score(number: int, loss: float) -> dict[str, object]:
    tokens = 6 + number % 3
    return {
        "suite": "target", "id": f"test_sft-{number}", "kind": "", "input": f"input {number}", "tokens": tokens,
        "nll": tokens * (loss + number / 100), "kl": None, "greedy_tokens": 1, "rouge_l": None,
    }  # fmt: skip
