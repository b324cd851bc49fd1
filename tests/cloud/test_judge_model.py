"""A judge model on loopback, honest and not."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import pytest
from azure.core.credentials import AccessToken

from mlops.cloud.judge_model import KEY, JudgeModel, Pair, agreement, read_labeled_pairs
from mlops.core.errors import AzureError, ConfigError, EvidenceError
from mlops.core.settings import JudgeConfig
from tests.support import judge_server
from tests.support.judge_server import JudgeServer

LABELS = Path(__file__).parents[2] / "data" / "judge_pairs.jsonl"
PAIRS = [Pair("user: What is two and two?", "four", "five"), Pair("user: Name a color.", "brick", "red"), Pair("user: Hi", "same", "same")]
BETTER = {"four", "red"}


def honest(_: str, first: str, second: str) -> str:
    return "FIRST" if first in BETTER else "Second." if second in BETTER else "TIE"


@pytest.fixture
def key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(KEY, judge_server.KEY)


def settings(server: JudgeServer) -> JudgeConfig:
    return JudgeConfig(url=server.url, model="judge-1")


@pytest.mark.parametrize(
    ("reply", "scores"),
    [
        (honest, [1.0, 0.0, 0.5]),
        (lambda *_: "first", [0.5, 0.5, 0.5]),  # prefers what it reads first
        (lambda *_: "TIE", [0.5, 0.5, 0.5]),
        (lambda _, one, other: "FIRST" if len(one) > len(other) else "SECOND", [0.5, 1.0, 0.5]),
    ],
    ids=["honest", "position", "undecided", "length"],
)
@pytest.mark.usefixtures("key")
def test_an_opinion_counts_if_it_is_the_same_in_both_orders(reply: Callable[[str, str, str], str], scores: list[float]) -> None:
    with JudgeServer(reply) as server:
        assert JudgeModel(settings(server), None).compare(PAIRS) == scores
        # Equal answers need no opinion.
        assert server.requests == 4


@pytest.mark.usefixtures("key")
def test_a_request_to_a_busy_judge_is_repeated() -> None:
    with JudgeServer(honest) as server:
        server.refuse_first = 3
        assert JudgeModel(settings(server), None).compare(PAIRS[:1]) == [1.0]
        assert server.requests == 5


@pytest.mark.parametrize(
    ("reply", "error", "says"),
    [
        ("I like both very much.", EvidenceError, "instead of FIRST, SECOND or TIE"),
        ("", EvidenceError, "replies ''"),
        (400, AzureError, "HTTP 400: .*broken on purpose"),
    ],
)
@pytest.mark.usefixtures("key")
def test_anything_but_an_opinion_is_an_error(reply: str | int, error: type[Exception], says: str) -> None:
    with JudgeServer(lambda *_: reply) as server, pytest.raises(error, match=says):
        JudgeModel(settings(server), None).compare(PAIRS)


def test_a_key_that_is_missing_or_wrong_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    with JudgeServer(honest) as server:
        monkeypatch.delenv(KEY, raising=False)
        with pytest.raises(ConfigError, match=f"{KEY} is not set"):
            JudgeModel(settings(server), None)
        monkeypatch.setenv(KEY, "another-key")
        with pytest.raises(AzureError, match="HTTP 401"):
            JudgeModel(settings(server), None).compare(PAIRS)


@pytest.mark.usefixtures("key")
def test_a_judge_that_does_not_respond_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mlops.cloud.judge_model.RETRIES", 0)
    judge = JudgeModel(JudgeConfig(url="http://127.0.0.1:9/v1", model="judge-1"), None)
    with pytest.raises(AzureError, match="does not respond"):
        judge.compare(PAIRS)


class Credential:
    """A credential that remembers for what it was used."""

    def __init__(self) -> None:
        self.scopes: list[str] = []

    def get_token(self, *scopes: str, **_: object) -> AccessToken:
        self.scopes += scopes
        return AccessToken("token", int(time.time()) + 3600)


@pytest.mark.parametrize("url", ["https://x.openai.azure.com:9/openai/v1", "https://x.services.ai.azure.com:9/openai/v1"])
def test_a_judge_of_azure_openai_needs_no_key(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(KEY, raising=False)
    monkeypatch.setattr("mlops.cloud.judge_model.RETRIES", 0)
    credential = Credential()
    judge = JudgeModel(JudgeConfig(url=url, model="judge-1"), credential)
    with pytest.raises(AzureError, match="does not respond"):
        judge.compare(PAIRS[:1])
    assert credential.scopes == ["https://cognitiveservices.azure.com/.default"]
    for other in ("https://openai.azure.com.example/v1", "https://example.com/x.openai.azure.com"):
        with pytest.raises(ConfigError, match="outside Azure"):
            JudgeModel(JudgeConfig(url=other, model="judge-1"), credential)


@pytest.mark.parametrize("url", ["http://example.com/v1", "ftp://example.com", "example.com"])
def test_answers_are_sent_over_tls_only(url: str) -> None:
    with pytest.raises(ValueError, match="url"):
        JudgeConfig(url=url)


def test_the_labels_of_this_project_can_be_read() -> None:
    pairs = read_labeled_pairs(LABELS)
    assert len(pairs) == 40
    # A judge that prefers long or short answers must not pass.
    longer = sum(len(pair.first) > len(pair.second) for pair in pairs)
    assert agreement([float(len(pair.first) > len(pair.second)) for pair in pairs]).low < 0.6
    assert agreement([float(len(pair.first) < len(pair.second)) for pair in pairs]).low < 0.7
    assert 0 < longer < 40


@pytest.mark.parametrize(
    "line",
    [
        "[]",
        "{",
        '{"prompt": "a", "better": "b"}',
        '{"prompt": "a", "better": "b", "worse": "b"}',
        '{"prompt": "a", "better": "", "worse": "b"}',
    ],
)
def test_a_line_that_is_not_a_labeled_pair_is_named(line: str, tmp_path: Path) -> None:
    path = tmp_path / "pairs.jsonl"
    path.write_text('{"prompt": "a", "better": "b", "worse": "c"}\n' + line)
    with pytest.raises(ConfigError, match=r"pairs\.jsonl:2 is not a labeled pair"):
        read_labeled_pairs(path)
    with pytest.raises(ConfigError, match="can't be read"):
        read_labeled_pairs(tmp_path / "missing.jsonl")


@pytest.mark.parametrize(("right", "pairs", "low"), [(40, 40, 0.9119), (38, 40, 0.8308), (0, 10, 0.0)])
def test_the_agreement_has_an_exact_interval(right: int, pairs: int, low: float) -> None:
    measured = agreement([1.0] * right + [0.5] * (pairs - right))
    assert (measured.right, measured.pairs) == (right, pairs)
    assert measured.low == pytest.approx(low, abs=1e-4)


def test_without_labels_there_is_no_agreement() -> None:
    with pytest.raises(ConfigError, match="no labeled pairs"):
        agreement([])
