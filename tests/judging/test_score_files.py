"""The gate without the pipeline: any two score files, judged by rules."""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from pathlib import Path

import pytest

from mlops.__main__ import main
from mlops.core.errors import ConfigError, EvidenceError, SelfTestFailed
from mlops.core.records import Outcome, Verdict
from mlops.judging.score_files import judge_scores, read_rules, read_scores

LOSS = """
[rules.loss]
metric = "loss"
direction = "lower"
baseline = "base"
margin = 0.02
test = "paired_bootstrap"
min_rows = 100
"""
ACCURACY = """
[rules.accuracy]
metric = "accuracy"
direction = "higher"
baseline = "base"
margin = 0.12
margin_kind = "absolute"
test = "tango"
"""
Row = Mapping[str, object]


def rows(loss: float, accuracy: float, count: int = 300) -> list[Row]:
    """Rows of a model; the difficulty of a row is the same for all models."""
    noise = random.Random(f"{loss} {accuracy}")
    difficulty = random.Random(0)
    return [
        {"id": number, "loss": loss + difficulty.random() + noise.gauss(0, 0.02), "accuracy": noise.random() < accuracy}
        for number in range(count)
    ]


BASE = rows(2.0, 0.6)


@pytest.fixture
def write(tmp_path: Path) -> Callable[..., Path]:
    def write(name: str, content: list[Row] | str) -> Path:
        path = tmp_path / name
        path.write_text(content if isinstance(content, str) else "".join(json.dumps(row) + "\n" for row in content))
        return path

    return write


@pytest.mark.parametrize(
    ("candidate", "verdict"),
    [
        (rows(1.9, 0.7), Verdict.PROMOTE),
        (rows(2.0001, 0.61), Verdict.PROMOTE),
        (rows(2.2, 0.7), Verdict.REJECT),
        (rows(1.9, 0.3), Verdict.REJECT),
        (rows(2.05, 0.6), Verdict.HOLD),
    ],
    ids=["better", "equal", "a higher loss", "a lower accuracy", "at the margin"],
)
def test_the_rules_decide(candidate: list[Row], verdict: Verdict, write: Callable[..., Path]) -> None:
    rules = read_rules(write("rules.toml", LOSS + ACCURACY))
    decision = judge_scores(rules, read_scores(write("c.jsonl", candidate)), read_scores(write("b.jsonl", BASE)))
    assert decision.verdict is verdict, decision.reasons
    assert [judgement.name for judgement in decision.judgements] == ["loss", "accuracy"]


CHANGES: dict[str, tuple[Callable[[list[Row]], list[Row]], str]] = {
    "a row is missing": (lambda content: content[1:], "different rows"),
    "another row": (lambda content: [{**content[0], "id": "new"}, *content[1:]], "different rows"),
    "a value is missing": (lambda content: [{"id": 0, "accuracy": True}, *content[1:]], "no finite loss"),
    "a value is null": (lambda content: [{**content[0], "loss": None}, *content[1:]], "no finite loss"),
    "a value is infinite": (lambda content: [{**content[0], "loss": float("inf")}, *content[1:]], "no finite loss"),
    "a value is not a number": (lambda content: [{**content[0], "loss": float("nan")}, *content[1:]], "no finite loss"),
    "no row has the metric": (lambda content: [{"id": row["id"], "los": row["loss"]} for row in content], "did you mean 'los'?"),
    "other inputs": (lambda content: [{**row, "input": f"x{row['id']}"} for row in content], "different inputs"),
    "the base itself": (lambda _: BASE, "the candidate is the base"),
}


@pytest.mark.parametrize("name", CHANGES)
def test_without_valid_evidence_nothing_is_promoted(name: str, write: Callable[..., Path]) -> None:
    change, why = CHANGES[name]
    rules = read_rules(write("rules.toml", LOSS))
    candidate = write("c.jsonl", change(rows(1.9, 0.7)))
    decision = judge_scores(rules, read_scores(candidate), read_scores(write("b.jsonl", BASE)))
    assert decision.verdict is Verdict.HOLD
    assert decision.judgements[0].outcome is Outcome.INVALID
    assert why in decision.judgements[0].reason


def test_copies_of_an_input_count_once(write: Callable[..., Path]) -> None:
    def copied(content: list[Row]) -> list[Row]:
        return [{**row, "input": str(number // 10)} for number, row in enumerate(content)]

    files = [read_scores(write(name, copied(content))) for name, content in (("c.jsonl", rows(1.9, 0.7)), ("b.jsonl", BASE))]
    decision = judge_scores(read_rules(write("rules.toml", LOSS)), *files)
    assert decision.verdict is Verdict.HOLD
    assert "requires 100 rows, but only 30 count" in decision.reasons[0]


def test_one_file_is_judged_by_floors_and_ceilings(write: Callable[..., Path]) -> None:
    rules = read_rules(write("rules.toml", '[rules.a]\nmetric = "accuracy"\ndirection = "higher"\nfloor = 0.5\n'))
    good, bad = (judge_scores(rules, read_scores(write("c.jsonl", rows(2.0, share))), None) for share in (0.7, 0.3))
    assert (good.verdict, bad.verdict) == (Verdict.PROMOTE, Verdict.REJECT)


@pytest.mark.parametrize(("ceiling", "is_refused"), [(3.9, False), (4.1, True)])
def test_a_ruined_candidate_is_as_far_above_the_worst_value_as_that_is_above_zero(
    ceiling: float, is_refused: bool, write: Callable[..., Path]
) -> None:
    scores = read_scores(write("c.jsonl", [{"id": number, "loss": 1 + number % 2} for number in range(30)]))
    rules = read_rules(write("rules.toml", f'[rules.n]\nmetric = "loss"\ndirection = "lower"\nceiling = {ceiling}\n'))
    with pytest.raises(SelfTestFailed) if is_refused else nullcontext():
        judge_scores(rules, scores, None)


@pytest.mark.parametrize(
    "rule",
    [
        '[rules.n]\nmetric = "loss"\ndirection = "higher"\nfloor = -1e9\n',
        '[rules.n]\nmetric = "loss"\ndirection = "lower"\nceiling = 1e300\n',
    ],
)
def test_rules_that_a_ruined_candidate_satisfies_give_no_verdict(rule: str, write: Callable[..., Path]) -> None:
    with pytest.raises(SelfTestFailed, match="worst values in every row"):
        judge_scores(read_rules(write("rules.toml", rule)), read_scores(write("c.jsonl", BASE)), None)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "has no rules"),
        ("[rule.a]\n", "did you mean 'rules'?"),
        ("[rules.a]\n", "rules.a.metric: Field required"),
        ('[rules.a]\nmetric = "x"\ndirection = "up"\n', "rules.a.direction"),
        ('[rules.a]\nmetric = "x"\ndirection = "lower"\nbaseline = "champion"\n', "there is no champion"),
        ('[rules.a]\nmetric = "x"\ndirection = "lower"\nbaseline = "anchor"\n', "there is no anchor"),
        ("rules = 3\n", "valid dictionary"),
        ("[rules", "can't be read"),
    ],
)
def test_invalid_rules_are_refused(text: str, message: str, write: Callable[..., Path]) -> None:
    with pytest.raises(ConfigError, match=message.replace("?", r"\?")):
        read_rules(write("rules.toml", text))


@pytest.mark.parametrize(
    "rule",
    [LOSS.replace("paired_bootstrap", "tango"), LOSS.replace("0.02", "5"), LOSS.replace('baseline = "base"', "")],
    ids=["a test of shares", "5 for 5 %", "a margin without a baseline"],
)
def test_rules_that_can_mean_nothing_are_refused(rule: str, write: Callable[..., Path]) -> None:
    files = [read_scores(write(name, content)) for name, content in (("c.jsonl", rows(1.9, 0.7)), ("b.jsonl", BASE))]
    with pytest.raises(ConfigError, match=r"rules\.loss: "):
        judge_scores(read_rules(write("rules.toml", rule)), *files)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{", "Expecting property name"),
        ("[1]", "not a JSON object"),
        ('{"loss": 1}', "no id"),
        ('{"id": "", "loss": 1}', "no id"),
        ('{"id": true, "loss": 1}', "no id"),
        ('{"id": "a", "loss": 1}', "appears twice"),
        ('{"id": "b", "loss": "1"}', "a metric is a number"),
        ('{"id": "b", "loss": 1, "loss": 2}', "a field appears twice"),
    ],
)
def test_invalid_rows_are_refused_with_their_line(line: str, message: str, write: Callable[..., Path]) -> None:
    path = write("c.jsonl", '{"id": "a", "loss": 1}\n\n' + line + "\n")
    with pytest.raises(EvidenceError, match=f"{path}:3: .*{message}"):
        read_scores(path)


def test_files_that_cannot_be_read_are_named(tmp_path: Path, write: Callable[..., Path]) -> None:
    with pytest.raises(EvidenceError, match="No such file"):
        read_scores(tmp_path / "nothing.jsonl")
    with pytest.raises(EvidenceError, match="has no rows"):
        read_scores(write("empty.jsonl", "\n"))


def test_the_command_prints_the_verdict_and_exits_with_its_code(
    write: Callable[..., Path], monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("output", "summary"):
        monkeypatch.setenv(f"GITHUB_{name.upper()}".replace("SUMMARY", "STEP_SUMMARY"), str(tmp_path / name))
    good, base, rules = write("c.jsonl", rows(1.9, 0.7)), write("b.jsonl", BASE), write("rules.toml", LOSS)
    assert main(["gate", str(good), str(base), "--rules", str(rules)]) == 0
    assert "PROMOTE: All 1 critical rules" in capsys.readouterr().err
    assert "PROMOTE" in (tmp_path / "output").read_text()
    assert "| loss: loss: at most 2 % worse than the base | 2.414 | 2.512 |" in (tmp_path / "summary").read_text()
    assert main(["gate", str(base), str(good), "--rules", str(rules), "--json"]) == 20
    assert json.loads(capsys.readouterr().out)["verdict"] == "REJECT"


@pytest.mark.parametrize("arguments", [["a.jsonl"], ["--rules", "r.toml"], ["a", "b", "c", "--rules", "r.toml"]])
def test_wrong_arguments_are_refused(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["gate", *arguments]) == 2
    assert "error:" in capsys.readouterr().err
