"""Send real questions to the new deployment before it takes any traffic.

mlops smoke-test --target local
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from typing import Any

from mlops.cli import stage
from mlops.cloud.answers import SHAPES, ForeignAnswer
from mlops.cloud.errors import Forbidden
from mlops.cloud.invoke import ScoringResponse, build_payload
from mlops.cloud.workspace import Workspace
from mlops.core import console
from mlops.core.errors import MlopsError, RecordError, SmokeTestFailed
from mlops.core.records import Deployed, Prepared, Sample, Smoked
from mlops.core.reuse import reuse_key
from mlops.core.run import Run, write_atomically
from mlops.core.settings import Config
from mlops.dataset.questions import Question, fault, questions
from mlops.judging.statistics.percentile import percentile

__all__ = ["EXCLUDED", "main", "settings_key", "smoke_test"]

SPLIT = "test_gen"
MAX_SAMPLES = 3
"""Number of answers that are stored in the record."""
FOREIGN = "foreign"
"""Stands for an unknown shape in smoke.jsonl."""
EXCLUDED: dict[str, str] = {}
"""Settings of [smoke] that don't affect whether a deployment passes, and why. There are none."""


def smoke_test(config: Config, run: Run, workspace: Workspace) -> Smoked:
    """Send sampled rows of ``test_gen`` to the new deployment, whatever its traffic, and judge the answers.

    Raises:
        SmokeTestFailed: an answer has an unknown shape, more than ``smoke.max_failures`` fail, the 95th percentile of latency is above
            ``smoke.max_latency_ms``, or our identity may not read the endpoint's key. The deployment is then deleted (unless it takes
            traffic), so that it stops costing money.
        RecordError: the deployment isn't the one that deploy recorded, but only has its name.
    """
    prepared, deployed = run.read(Prepared), run.read(Deployed)
    deployment = workspace.endpoints.find_deployment(deployed.endpoint, deployed.deployment)
    if deployment is None:
        raise SmokeTestFailed(f"Endpoint {deployed.endpoint} no longer has deployment {deployed.deployment}.", "run `mlops deploy`")
    if deployment.identity != deployed.identity:
        raise RecordError(
            f"Deployment {deployed.deployment} of endpoint {deployed.endpoint} was created again after `mlops deploy` recorded it.",
            "run `mlops deploy` again",
        )
    key, before = settings_key(config), run.find(Smoked)
    if before is not None and before.settings == key and deployment.state == "Succeeded":
        console.info(f"  nothing to do: {before.deployment} passed at {before.created_at:%Y-%m-%d %H:%M} UTC")
        return before
    sampled = questions(prepared.path(SPLIT, run.directory), config.smoke.requests, config.data.seed)
    endpoint = workspace.endpoints.get(deployed.endpoint)
    client = workspace.endpoints.open_client(endpoint, timeout_s=config.endpoint.client_timeout_s(config.smoke.max_latency_ms))

    rows: list[dict[str, Any]] = []
    with console.Progress("answers", len(sampled)) as progress:
        for question in sampled:
            try:
                response = client.invoke(build_payload(question.messages, config.smoke.max_new_tokens), deployed.deployment)
            except Forbidden as problem:
                # The deployment can't be tested by this identity, so it would only cost money.
                raise SmokeTestFailed(f"{problem.what} {_remove_deployment(config, run, workspace, deployed)}", problem.fix) from problem
            rows.append(_row(question, response))
            progress.advance()
            if rows[-1]["shape"] == FOREIGN:
                break  # every other answer has the shape of the same serving image

    path = run.path("smoke.jsonl")
    write_atomically(path, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows).encode())
    smoked = Smoked(
        inputs={"prepare": prepared.digest(), "deploy": deployed.digest()},
        files={"answers": run.describe_file(path, rows=len(rows))},
        settings=key,
        endpoint=deployed.endpoint,
        deployment=deployed.deployment,
        requests=len(rows),
        failures=sum(1 for row in rows if row["fault"]),
        answer_shapes=tuple(sorted({row["shape"] for row in rows if row["shape"] in SHAPES})),
        latency_p50_ms=percentile([row["latency_ms"] for row in rows], 50),
        latency_p95_ms=percentile([row["latency_ms"] for row in rows], 95),
        samples=tuple(Sample(prompt=row["prompt"], answer=row["answer"], reference=row["reference"]) for row in rows if not row["fault"])[
            :MAX_SAMPLES
        ],
    )
    console.info(
        f"  {smoked.requests} requests, {smoked.failures} failures, p50 {smoked.latency_p50_ms:.0f} ms, p95 {smoked.latency_p95_ms:.0f} ms"
    )
    for shape in smoked.answer_shapes:
        console.info(f"  shape of the answers: {shape}, {SHAPES[shape]}")
    if reasons := _reasons(config, smoked, rows):
        raise SmokeTestFailed(
            f"Deployment {deployed.deployment} failed: {'; '.join(reasons)}. {_remove_deployment(config, run, workspace, deployed)}",
            f"read {path}; `mlops run --from deploy` tries again",
        )
    return run.write(smoked)


def settings_key(config: Config) -> str:
    """Return the sha256 over everything that affects whether the test passes, except for the deployment and the data."""
    return reuse_key({"smoke": config.smoke}, EXCLUDED, seed=config.data.seed)


def _row(question: Question, response: ScoringResponse) -> dict[str, Any]:
    text, shape, problem = "", "", response.reason
    if response.status == 200:
        try:
            answer = response.answer()
            text, shape, problem = answer.text, answer.shape, fault(question, answer.text)
        except ForeignAnswer as foreign:
            shape, problem = FOREIGN, str(foreign)
    return {
        "prompt": question.prompt,
        "answer": text,
        "shape": shape,
        "reference": question.reference,
        "messages": list(question.messages),
        "status": response.status,
        "latency_ms": round(response.latency_ms, 1),
        "fault": problem,
        "raw": response.content.decode("utf-8", "backslashreplace"),
    }


def _reasons(config: Config, smoked: Smoked, rows: Sequence[Mapping[str, Any]]) -> list[str]:
    reasons = []
    if foreign := next((row["fault"] for row in rows if row["shape"] == FOREIGN), ""):
        # No number of such failures is tolerable: no client could read the answers.
        reasons.append(foreign)
    elif smoked.failures > config.smoke.max_failures:
        first = next(row["fault"] for row in rows if row["fault"])
        reasons.append(f"{smoked.failures} of {smoked.requests} answers failed (at most {config.smoke.max_failures} may), first: {first}")
    if smoked.latency_p95_ms > config.smoke.max_latency_ms:
        reasons.append(f"95 % of the answers took up to {smoked.latency_p95_ms:.0f} ms (limit {config.smoke.max_latency_ms:.0f})")
    return reasons


def _remove_deployment(config: Config, run: Run, workspace: Workspace, deployed: Deployed) -> str:
    """Delete the deployment, and the endpoint if it is ours and serves nothing else; describe the outcome."""
    try:
        endpoint = workspace.endpoints.get(deployed.endpoint)
        if share := endpoint.traffic.get(deployed.deployment):
            return f"It already takes {share} % of the traffic and was not deleted."
        others = endpoint.traffic.keys() - {deployed.deployment}
        created_here = deployed.endpoint_created and endpoint.identity == deployed.endpoint_identity
        if workspace.session.owns(endpoint.tags) and not others and (config.endpoint.ephemeral or created_here):
            workspace.endpoints.delete(deployed.endpoint)
            outcome = f"Endpoint {deployed.endpoint}, which served nothing else, was deleted."
        else:
            workspace.endpoints.delete_deployment(deployed.endpoint, deployed.deployment)
            outcome = f"It was deleted; the traffic of {deployed.endpoint} is unchanged."
    except MlopsError as problem:
        return f"It could not be deleted and keeps costing money: {problem.in_one_line}"
    run.delete(Deployed)
    return outcome


main = stage.command(smoke_test, needs=(Prepared, Deployed))


if __name__ == "__main__":
    sys.exit(main())
