"""Run directories as the stages before the gate leave them, with synthetic scores."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from mlops.core.evaluation_version import evaluation_version
from mlops.core.records import Evaluated, Judged, ModelScores, Prepared, Sample, Suite, Trained, Validated
from mlops.core.run import Run
from mlops.core.settings import Config, GateConfig, Rule
from mlops.judging.judge import judge
from mlops.remote.metrics import aggregate
from mlops.report import html, markdown
from tests.support.evidence import KINDS, make_rows, name_rules

Role = Literal["candidate", "champion", "base"]
MODEL = "azureml://jobs/train-1/outputs/trained_model"


def conversation(row_id: str, kind: str = "", text: str = "") -> dict[str, Any]:
    answer = f"It is {text or row_id}, and as far as anybody knows it always was."
    messages = [{"role": "user", "content": f"What is {text or row_id}?"}, {"role": "assistant", "content": answer}]
    row = {"prompt": messages[0]["content"], "prompt_id": row_id, "messages": messages}
    return row | ({"kind": kind} if kind else {})


def write_jsonl(path: Path, lines: Sequence[Mapping[str, Any]]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    return path


def make_run(
    directory: Path,
    scores: Mapping[Role, Sequence[Mapping[str, Any]]] | None = None,
    *,
    n: int = 60,
    copies: int = 1,
    overlap: Literal["", "exact", "normalized", "answer", "pieces"] = "",
    mlflow_run: str = "train-1",
    experiment: str = "e",
) -> Run:
    """Make a run directory with all records up to Evaluated.

    Args:
        directory: the run directory.
        scores: role → rows of scores.jsonl; by default those of all three models, with a candidate that is clearly better.
        n: number of rows per suite.
        copies: how often each input occurs, under different ids.
        overlap: how a row of the target suite is in the training data: as it is, in capitals, or as the end of a longer chat; or
            pieces of all rows.
        mlflow_run: the training's run.
        experiment: the training's experiment.
    """
    run = Run(directory)
    target = [conversation(f"target-{number:05d}", text=f"target {number // copies}") for number in range(n)]
    retention = [conversation(f"retention-{number:05d}", KINDS[number % 2]) for number in range(n)]
    training = [conversation(f"train-{number}") for number in range(20)]
    if overlap == "pieces":
        target = [conversation(f"target-{number:05d}", text=_long_text(number)) for number in range(n)]
        for number in range(n):
            words = _long_text(number).split()
            training += [conversation(f"{number}-{start}", text=" ".join(words[start : start + 26])) for start in (*range(0, 74, 13), 74)]
    elif overlap:
        training.append(_leak(target[0], overlap))
    train = run.describe_file(write_jsonl(run.path("data", "train_sft.jsonl"), training), len(training))
    prepared = run.write(
        Prepared(files={"train_sft": train}, dataset="synthetic", revision="1", percent=100.0, seed=1, fingerprint="f" * 64)
    )
    files = {"target": write_jsonl(run.path("suites", "target.jsonl"), target)}
    files["retention"] = write_jsonl(run.path("suites", "retention.jsonl"), retention)
    digests = {name: run.describe_file(path, n) for name, path in files.items()}
    validated = run.write(
        _validated(prepared, {name: Suite(name=name, path=file.path, digest=file.sha256, rows=n) for name, file in digests.items()})
    )
    trained = run.write(_trained(prepared, validated, mlflow_run, experiment))
    default: dict[Role, Sequence[Mapping[str, Any]]] = {
        "candidate": make_rows("candidate", n=n, shift=-0.4),
        "champion": make_rows("champion", n=n),
        "base": make_rows("base", n=n),
    }
    write_evaluated(run, validated, trained, default if scores is None else scores)
    return run


def _long_text(number: int) -> str:
    return " ".join(f"word{number}x{place}" for place in range(100))


def _leak(row: dict[str, Any], overlap: str) -> dict[str, Any]:
    if overlap == "exact":
        return row
    change = str.upper if overlap == "normalized" else str
    messages = [message | {"content": change(message["content"])} for message in row["messages"]]
    before = conversation("before")["messages"] if overlap == "answer" else []
    return row | {"prompt_id": "leak", "messages": [*before, *messages]}


def judge_run(run: Run, *rules: Rule, **changes: Any) -> Judged:
    """Judge by these rules and write what the gate writes, without calling any service."""
    judged = judge(Config(target="test", gate=GateConfig(rules=name_rules(rules))), run).model_copy(update=changes)
    run.path("gate.md").write_text(markdown.gate_page(judged, run.read(Evaluated)))
    run.write(judged)
    html.write(run)
    return judged


def write_evaluated(run: Run, validated: Validated, trained: Trained, scores: Mapping[Role, Sequence[Mapping[str, Any]]]) -> Evaluated:
    files = {
        f"scores.{role}": run.describe_file(write_jsonl(run.path("evaluate", f"{role}.jsonl"), rows), len(rows))
        for role, rows in scores.items()
    }
    return run.write(
        Evaluated(
            inputs={Validated.stage: validated.digest(), Trained.stage: trained.digest()},
            files=files,
            evaluation_version=evaluation_version(Config(target="test"), validated),
            models={role: _scores(role, rows, validated) for role, rows in scores.items()},
            champion_note="" if "champion" in scores else "Endpoint chat serves nothing: this is a first run.",
        )
    )


def _scores(role: Role, rows: Sequence[Mapping[str, Any]], validated: Validated) -> ModelScores:
    return ModelScores(
        role=role,
        model=MODEL if role == "candidate" else f"azureml://models/{role}",
        weights_digest=f"weights-{role}",
        job=f"score-{role}",
        mlflow_run_id=f"score-{role}",
        metrics=aggregate(rows),
        rows={name: suite.rows for name, suite in validated.suites.items()},
        suite_digests={name: suite.digest for name, suite in validated.suites.items()},
        scores=f"scores.{role}",
        samples=(Sample(prompt="What is <b>rain</b>?", answer=f"Rain, says the {role} & <script>alert(1)</script>", reference="Water."),),
    )


def _validated(prepared: Prepared, suites: dict[str, Suite]) -> Validated:
    return Validated(
        inputs={Prepared.stage: prepared.digest()},
        data_fingerprint=prepared.fingerprint,
        rows_checked={"train_sft": 20},
        suites=suites,
        base_model="azureml://registries/azureml/models/Phi-4/versions/8",
        component="azureml://registries/azureml/components/chat_completion_pipeline/versions/0.0.82",
        compute="gpu",
        compute_size="Standard_NC24ads_A100_v4",
        gpus_per_node=1,
        endpoint_sku="Standard_NC24ads_A100_v4",
        cost_estimate_usd=14.68,
        cost_note="4 hours at 3.67 USD",
    )


def _trained(prepared: Prepared, validated: Validated, mlflow_run: str, experiment: str) -> Trained:
    return Trained(
        inputs={Prepared.stage: prepared.digest(), Validated.stage: validated.digest()},
        run_key="k" * 64,
        job="train-1",
        display_name="train",
        experiment=experiment,
        status="Completed",
        studio_url="https://ml.azure.com/runs/train-1",
        mlflow_run_id=mlflow_run,
        model_output=MODEL,
        base_model=validated.base_model,
        component=validated.component,
        data_fingerprint=validated.data_fingerprint,
        parameters=(),
        commit="0123456789abcdef0123456789abcdef01234567",
        gpus=1,
        gpu_hours=0.5,
    )
