"""Ask the new deployment real questions before it takes any traffic.

python -m mlops.smoke_test --target local
"""

from __future__ import annotations

import hashlib
import json
import math
import re
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mlops.cli import stage
from mlops.core import console
from mlops.core.config import Config
from mlops.core.errors import MlopsError, RecordError, SmokeTestFailed
from mlops.core.records import Deployed, Prepared, Sample, Smoked
from mlops.core.run import Run, write_atomically

if TYPE_CHECKING:
    from mlops.cloud.invoke import Answer
    from mlops.cloud.workspace import Workspace

__all__ = ["Question", "fault", "main", "percentile", "questions", "smoke_test"]

SPLIT = "test_gen"
SHOWN = 3
MARKER = re.compile(r"<\|[a-z_0-9]+\|>|</?s>|\[/?INST\]", re.IGNORECASE)
"""Chat templates' markers. In an answer they mean that the model ran on past the end of its turn."""


@dataclass(frozen=True)
class Question:
    """A conversation up to a user's turn, and what followed in the data."""

    messages: tuple[Mapping[str, str], ...]
    reference: str

    @property
    def prompt(self) -> str:
        """The user's last turn."""
        return self.messages[-1]["content"]


def smoke_test(config: Config, run: Run, workspace: Workspace) -> Smoked:
    """Send sampled rows of ``test_gen`` to the new deployment by header, so that its traffic doesn't matter, and judge the answers.

    Raises:
        SmokeTestFailed: more failures than ``smoke.max_failures``, or a 95th percentile of latency above ``smoke.max_latency_ms``. The
            deployment is gone then (unless it takes traffic), so that nothing is left billing.
    """
    prepared, deployed = run.read(Prepared), run.read(Deployed)
    before, found = run.find(Smoked), workspace.endpoints.deployment(deployed.endpoint, deployed.deployment)
    if found is None:
        raise SmokeTestFailed(f"Endpoint {deployed.endpoint} has no deployment {deployed.deployment} any more.", "run `mlops deploy`")
    if before is not None and found.state == "Succeeded":
        console.info(f"  nothing to do: {before.deployment} passed at {before.made_at:%Y-%m-%d %H:%M} UTC")
        return before
    asked = questions(_file(run, prepared), config.smoke.requests, config.data.seed)
    endpoint = workspace.endpoints.get(deployed.endpoint)
    scorer = workspace.endpoints.scorer(
        endpoint, timeout_s=max(config.smoke.max_latency_ms, config.endpoint.request_timeout_ms) / 1000 + 10
    )

    from mlops.cloud.invoke import payload

    rows: list[dict[str, Any]] = []
    progress = console.Progress("answers", len(asked))
    for question in asked:
        answer = scorer.ask(payload(question.messages, config.smoke.max_new_tokens), deployed.deployment)
        rows.append(_row(question, answer))
        progress.advance()
    progress.close()

    path = run.path("smoke.jsonl")
    write_atomically(path, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows).encode())
    smoked = Smoked(
        inputs={"prepare": prepared.digest(), "deploy": deployed.digest()},
        files={"answers": run.keep(path, rows=len(rows))},
        endpoint=deployed.endpoint,
        deployment=deployed.deployment,
        requests=len(rows),
        failures=sum(1 for row in rows if row["fault"]),
        latency_p50_ms=percentile([row["latency_ms"] for row in rows], 50),
        latency_p95_ms=percentile([row["latency_ms"] for row in rows], 95),
        samples=tuple(Sample(prompt=row["prompt"], answer=row["answer"], reference=row["reference"]) for row in rows if not row["fault"])[
            :SHOWN
        ],
    )
    console.info(
        f"  {smoked.requests} requests, {smoked.failures} failures, p50 {smoked.latency_p50_ms:.0f} ms, p95 {smoked.latency_p95_ms:.0f} ms"
    )
    if reasons := _reasons(config, smoked, rows):
        raise SmokeTestFailed(
            f"Deployment {deployed.deployment} is not good enough: {'; '.join(reasons)}. {_removed(config, run, workspace, deployed)}",
            f"read {path}; then `mlops run --from deploy` tries again",
        )
    return run.write(smoked)


def questions(path: Path, count: int, seed: int) -> list[Question]:
    """``count`` rows of a JSON Lines file (all of them, if there are fewer), chosen by a hash with the seed, cut after the last user turn.

    Raises:
        RecordError: no row has a user's turn.
    """
    chosen: list[tuple[str, Question]] = []
    with path.open(encoding="utf-8") as lines:
        for line in lines:
            if line.strip() and (question := _question(json.loads(line)["messages"])) is not None:
                chosen.append((hashlib.sha256(f"{seed}\n{line}".encode()).hexdigest(), question))
    if not chosen:
        raise RecordError(f"{path} has no conversation with a user's turn to ask.", "run `mlops prepare` with more rows of test_gen")
    return [question for _, question in sorted(chosen, key=lambda pair: pair[0])[:count]]


def fault(question: Question, answer: Answer) -> str:
    """What is wrong with an answer; empty where nothing is."""
    if answer.status != 200:
        return answer.reason
    if answer.text is None:
        return f"the answer has not the shape {{'output': text}}: {json.dumps(answer.body)[:200]}"
    said, asked = _plain(answer.text), _plain(question.prompt)
    if not said:
        return "the answer is empty"
    # A greeting is answered with the same greeting by people, too.
    if len(asked) >= 20 and said.startswith(asked):
        return "the answer repeats the question"
    if found := MARKER.search(answer.text):
        return f"the answer runs on past its end: it contains {found[0]!r}"
    return ""


def percentile(values: Sequence[float], percent: float) -> float:
    """The smallest value that at least ``percent`` % of the values don't exceed (nearest rank)."""
    ordered = sorted(values)
    return ordered[max(0, math.ceil(percent / 100 * len(ordered)) - 1)]


def _file(run: Run, prepared: Prepared) -> Path:
    try:
        return run.directory / prepared.files[SPLIT].path
    except KeyError:
        raise RecordError(f"The prepared data has no split {SPLIT}.", "run `mlops prepare` with a data set that has one") from None


def _question(messages: Sequence[Mapping[str, str]]) -> Question | None:
    users = [number for number, message in enumerate(messages) if message["role"] == "user"]
    if not users:
        return None
    last = users[-1]
    reference = messages[last + 1]["content"] if last + 1 < len(messages) else ""
    return Question(tuple(messages[: last + 1]), reference)


def _row(question: Question, answer: Answer) -> dict[str, Any]:
    return {
        "prompt": question.prompt,
        "answer": answer.text or "",
        "reference": question.reference,
        "messages": list(question.messages),
        "status": answer.status,
        "latency_ms": round(answer.latency_ms, 1),
        "fault": fault(question, answer),
        "raw": answer.body,
    }


def _reasons(config: Config, smoked: Smoked, rows: Sequence[Mapping[str, Any]]) -> list[str]:
    reasons = []
    if smoked.failures > config.smoke.max_failures:
        first = next(row["fault"] for row in rows if row["fault"])
        reasons.append(f"{smoked.failures} of {smoked.requests} answers failed (at most {config.smoke.max_failures} may), first: {first}")
    if smoked.latency_p95_ms > config.smoke.max_latency_ms:
        reasons.append(f"95 % of the answers took up to {smoked.latency_p95_ms:.0f} ms (limit {config.smoke.max_latency_ms:.0f})")
    return reasons


def _removed(config: Config, run: Run, workspace: Workspace, deployed: Deployed) -> str:
    """Take the deployment away, and the endpoint if it is ours and nobody else's; says what became of them."""
    try:
        endpoint = workspace.endpoints.get(deployed.endpoint)
        if endpoint.traffic.get(deployed.deployment):
            return f"It takes {endpoint.traffic[deployed.deployment]} % of the traffic already and was left alone."
        others = endpoint.traffic.keys() - {deployed.deployment}
        if workspace.session.owns(endpoint.tags) and not others and (config.endpoint.ephemeral or deployed.endpoint_created):
            workspace.endpoints.delete(deployed.endpoint)
            what = f"Endpoint {deployed.endpoint}, which served nothing else, was deleted."
        else:
            workspace.endpoints.delete_deployment(deployed.endpoint, deployed.deployment)
            what = f"It was deleted; traffic of {deployed.endpoint} is as it was."
    except MlopsError as problem:
        return f"It could not be deleted and goes on costing money: {problem.what} {problem.fix}"
    run.forget(Deployed)
    return what


def _plain(text: str) -> str:
    return " ".join(text.split()).casefold()


main = stage.command(smoke_test, needs=(Prepared, Deployed))


if __name__ == "__main__":
    sys.exit(main())
