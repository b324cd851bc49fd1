"""The canary: sends the same requests to the old and the new deployment, and stops a promotion if the new one answers worse.

The requests are the rows of the frozen target suite, each once, in the order of the file, which is random, and before them, where the user
allows it, requests that users have sent to the old deployment. The deployment header chooses who answers, so nobody gets an answer of the
new deployment before it has passed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from mlops.cloud import traffic
from mlops.cloud.answers import ForeignAnswer
from mlops.cloud.collected import CollectedRequests, digest, read_requests
from mlops.cloud.endpoint_views import EndpointView
from mlops.cloud.invoke import EndpointClient, build_payload
from mlops.cloud.traffic_change import nonzero
from mlops.cloud.workspace import Workspace
from mlops.core import console
from mlops.core.errors import CanaryStopped, RecordError
from mlops.core.records import CanaryEvidence, CanaryMeasure, Validated
from mlops.core.run import Run, file_sha256
from mlops.core.settings import Config, PromotionConfig
from mlops.dataset.questions import Question, fault, questions
from mlops.judging.canary import Canary, LatencyLimit, Measurement, fewest_pairs
from mlops.judging.statistics.sequential import Finding
from mlops.remote.health import is_loop
from mlops.remote.rouge import rouge_l

__all__ = ["Rollout", "pairs_of_steps", "rows_needed"]

SUITE = "target"
PAIRS_PER_STEP = 5
"""Number of requests reserved for each step at which both deployments take traffic."""
UNKNOWN = Question(({"role": "user", "content": ""},), "")
"""Stands for a user's question, which is never examined."""
STEPS_FIX = "read the answers of both deployments; to promote without a comparison, set promotion.steps = [100] in pipeline.toml"


class Rollout:
    """The comparison of the live deployment with the one that will replace it.

    Args:
        config: the settings.
        run: has the frozen suite.
        workspace: where the endpoint is.
        endpoint: as it is before the promotion.
        old, new: its deployments.
        identity: of the new one, as it was tested.

    Raises:
        CanaryStopped: the suite is too small to show anything.
        RecordError: the suite is missing or has changed.
    """

    def __init__(self, config: Config, run: Run, workspace: Workspace, endpoint: EndpointView, old: str, new: str, identity: str) -> None:
        self._config, self._workspace, self._endpoint = config, workspace, endpoint
        self._old, self._new, self._identity = old, new, identity
        self._live = CollectedRequests((), 0)
        suite = run.read(Validated).suites[SUITE]
        path = run.directory / suite.path
        if not path.is_file() or file_sha256(path) != suite.digest:
            raise RecordError(f"{path} is missing or is not the suite that validation froze.", "run `mlops validate` again")
        rows = questions(path, config.evaluation.target_rows, config.data.seed)
        self._kept = pairs_of_steps(config.promotion)
        needed = rows_needed(config)
        if len(rows) < needed:
            raise CanaryStopped(
                f"{new} was not compared with {old}: {len(rows)} rows of the target suite are too few to show that it is not"
                f" {_points(config)} worse; at least {needed} are needed."
                f" The traffic is unchanged: {nonzero(endpoint.traffic)}.",
                "raise evaluation.target_rows (and the rows of test_sft), or set promotion.steps = [100] in pipeline.toml",
            )
        self._first, self._rest = rows[: len(rows) - self._kept], iter(rows[len(rows) - self._kept :])
        self._client = workspace.endpoints.open_client(endpoint, timeout_s=config.endpoint.client_timeout_s(config.smoke.max_latency_ms))
        if config.promotion.live_requests:
            self._live = self._read_live([build_payload(each.messages, config.evaluation.max_new_tokens) for each in rows])
        limit = LatencyLimit(config.promotion.latency_factor, config.promotion.latency_floor_ms, config.smoke.max_latency_ms)
        self._canary = Canary(config.promotion.margin, limit, live=bool(self._live.payloads))
        self._answered_live = 0

    def compare(self) -> None:
        """Compare before the new deployment takes any traffic, until it is shown to be worse or not to be worse.

        With ``promotion.mirror``, it gets a copy of a part of the users' requests meanwhile.

        Raises:
            CanaryStopped: it is worse, or all requests are too few to show that it isn't.
            TrafficError: the endpoint mirrors traffic already, or the mirroring could not be ended. The traffic is unchanged.
        """
        with traffic.mirror_traffic(self._workspace, self._endpoint, self._new, self._config.promotion.mirror, self._identity):
            self._compare()

    def _compare(self) -> None:
        console.info(f"  comparing {self._new} with {self._old}: the same requests to both, {self._new} at 0 %")
        if self._live.payloads:
            with console.Progress("pairs of users' requests", len(self._live.payloads)) as progress:
                for payload in self._live.payloads:
                    self._ask(payload)
                    self._answered_live += 1
                    progress.advance()
                    self._stop_if_worse(self._unchanged_message)
        with console.Progress("pairs", len(self._first)) as progress:
            for question in self._first:
                self._ask(question)
                progress.advance()
                if self._canary.finding is not Finding.OPEN:
                    break
        console.info(f"  {self._canary}")
        self._stop_if_worse(self._unchanged_message)
        if self._canary.finding is Finding.OPEN:
            raise CanaryStopped(
                f"{self._canary.pairs} pairs don't show that {self._new} is not {_points(self._config)} worse than"
                f" {self._old} ({self._canary}). {self._unchanged_message}",
                f"raise evaluation.target_rows or promotion.margin; {STEPS_FIX}",
            )

    def watch(self, share: int) -> None:
        """Compare further, while the new deployment takes a share of the traffic.

        Raises:
            CanaryStopped: it is worse. The caller restores the traffic.
        """
        for _, question in zip(range(PAIRS_PER_STEP), self._rest, strict=False):
            self._ask(question)
            self._stop_if_worse(f"It had {share} % of the traffic.")
        console.info(f"  {self._new} takes {share} %: {self._canary}")

    @property
    def evidence(self) -> CanaryEvidence:
        """Return the comparison as it is recorded."""
        old, new = self._canary.latencies_p95_ms
        measures = tuple(
            CanaryMeasure(name=each.name, pairs=each.pairs, difference=each.difference, finding=each.finding.value)
            for each in self._canary.measures
        )
        return CanaryEvidence(
            margin=self._config.promotion.margin,
            pairs=self._canary.pairs,
            measures=measures,
            latency_p95_old_ms=old,
            latency_p95_new_ms=new,
            latency_limit_ms=self._canary.latency_limit_ms,
            live_requested=self._config.promotion.live_requests,
            live=self._answered_live,
            live_digest=self._live.digest,
            mirrored=self._config.promotion.mirror,
        )

    @property
    def _unchanged_message(self) -> str:
        return f"It had no traffic. The traffic is unchanged: {nonzero(self._endpoint.traffic)}."

    def _read_live(self, own: Sequence[Mapping[str, Any]]) -> CollectedRequests:
        """Read the newest requests of users that the old deployment has collected, without those that the comparison itself sends."""
        count, old = self._config.promotion.live_requests, self._old
        deployment = self._workspace.endpoints.find_deployment(self._endpoint.name, old)
        if deployment is None or not deployment.collects:
            console.notice(
                f"Users' requests are not compared: {old} does not collect them. It was deployed without endpoint.collect_requests = true."
            )
            return CollectedRequests((), 0)
        collected = read_requests(self._workspace.outputs, self._endpoint.name, old, count, {digest(payload) for payload in own})
        unreadable = f" {collected.unreadable} lines could not be read." if collected.unreadable else ""
        if not collected.payloads:
            raise CanaryStopped(
                f"{old} collects its requests, but there are no users' requests in the workspace's storage.{unreadable}"
                f" {self._unchanged_message}",
                "wait until users have sent requests, or set promotion.live_requests = 0 in pipeline.toml",
            )
        if len(collected.payloads) < count:
            console.notice(f"Only {len(collected.payloads)} of {count} users' requests are compared: {old} has no more.{unreadable}")
        return collected

    def _ask(self, request: Question | Mapping[str, Any]) -> None:
        # In every other pair the old deployment answers first, so that caches and slow moments favor neither.
        order = (self._old, self._new) if self._canary.pairs % 2 == 0 else (self._new, self._old)
        answers = {deployment: _measure(self._config, self._client, request, deployment) for deployment in order}
        self._canary.add(answers[self._old], answers[self._new], live=not isinstance(request, Question))

    def _stop_if_worse(self, consequence: str) -> None:
        if self._canary.finding is not Finding.WORSE:
            return
        worse = "; ".join(str(measure) for measure in self._canary.measures if measure.finding is Finding.WORSE)
        old_ms, new_ms = self._canary.latencies_p95_ms
        latency = (
            f"the 95th percentile of its answers is {new_ms:.0f} ms, that of the old one's {old_ms:.0f} ms;"
            f" the limit is {self._canary.latency_limit_ms:.0f} ms"
        )
        raise CanaryStopped(f"{self._new} is worse than {self._old} ({worse}; {latency}). {consequence}", STEPS_FIX)


def rows_needed(config: Config) -> int:
    """Return how many rows of the target suite a promotion needs; 0 if it makes no comparison."""
    promotion = config.promotion
    if config.endpoint.ephemeral or promotion.steps == (100,):
        return 0
    return fewest_pairs(promotion.margin) + pairs_of_steps(promotion)


def pairs_of_steps(promotion: PromotionConfig) -> int:
    """Return how many requests are reserved for the steps at which both deployments take traffic."""
    return PAIRS_PER_STEP * (len(promotion.steps) - 1)


def _points(config: Config) -> str:
    return f"{100 * config.promotion.margin:g} points"


def _measure(config: Config, client: EndpointClient, request: Question | Mapping[str, Any], deployment: str) -> Measurement:
    """Let a deployment answer a row of the suite, or a user's payload, which must not be printed."""
    if isinstance(request, Question):
        question, payload = request, build_payload(request.messages, config.evaluation.max_new_tokens)
    else:
        question, payload = UNKNOWN, dict(request)
    response = client.invoke(payload, deployment)
    text = ""
    if response.status == 200:
        try:
            text = response.answer().text
        except ForeignAnswer as foreign:
            console.info(f"  {deployment}: {foreign if question is request else 'an answer to a user has none of the known shapes'}")
    is_usable = bool(text) and not fault(question, text) and not is_loop(text)
    return Measurement(
        usable=float(is_usable),
        rouge_l=rouge_l(text, question.reference) if question.reference else None,
        latency_ms=response.latency_ms,
    )
