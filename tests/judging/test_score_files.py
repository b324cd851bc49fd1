"""The gate without the pipeline: any two score files, judged by rules."""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import pytest

from mlops.__main__ import main
from mlops.core.errors import ConfigError, EvidenceError, SelfTestFailed
from mlops.core.judgement import Outcome, Verdict
from mlops.judging import score_files
from mlops.judging.score_files import judge_scores, read_rules
from mlops.judging.score_rows import describe_rows, read_scores
from mlops.judging.verdict import Decision

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
min_rows = 100
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
    def write(name: str, content: Sequence[Row] | str) -> Path:
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


def judge(rules: str, candidate: Sequence[Row], base: Sequence[Row] | None, write: Callable[..., Path]) -> Decision:
    """Judge rows by rules in TOML."""
    scores = [read_scores(write(name, content)) for name, content in (("c.jsonl", candidate), ("b.jsonl", base)) if content is not None]
    return judge_scores(read_rules(write("rules.toml", rules)), scores[0], scores[1] if base is not None else None)


def floor(text: str, metric: str = "f1", direction: str = "higher") -> str:
    """A rule without a baseline."""
    return f'[rules.only]\nmetric = "{metric}"\ndirection = "{direction}"\nmin_rows = 20\n{text}\n'


def compare(text: str, metric: str = "f1", direction: str = "higher", test: str = "paired_bootstrap") -> str:
    """A rule that compares with the base."""
    return floor(f'baseline = "base"\ntest = "{test}"\n{text}', metric, direction)


SPACES = " \t\u00a0\u2003\u200b"
ACCENTS = ("\u00e9", "e\u0301", "\u00c9")
COPIES: dict[str, tuple[str, Callable[[int], object]]] = {
    "equal inputs": ("input", lambda number: f"question {number % 25}"),
    "upper and lower case": ("input", lambda number: f"{'QUESTION' if number > 149 else 'question'} {number % 150}"),
    "spaces at the end": ("input", lambda number: f"question {number % 25}" + " " * (number // 25)),
    "other spaces": ("input", lambda number: f"question{SPACES[number // 25 % 5]}{number % 25}"),
    "punctuation at the end": ("input", lambda number: f"question {number % 100}{('', '?', '…')[number // 100]}"),
    "composed and decomposed characters": ("input", lambda number: f"{ACCENTS[number // 150]} {number % 150}"),
    "wide characters": ("input", lambda number: f"{('question', 'ｑｕｅｓｔｉｏｎ')[number // 150]} {number % 150}"),
    "invisible characters": ("input", lambda number: f"question {number % 100}" + "\u200b" * (number // 100)),
    "numbers and texts": ("input", lambda number: number % 150 if number > 149 else str(number % 150)),
    "conversations": ("input", lambda number: [{"role": "user", "content": f"question {number % 25}"}]),
    "ids that look the same": ("id", lambda number: f"{ACCENTS[number // 100]}{number % 100}"),
}


@pytest.mark.parametrize("name", COPIES)
def test_copies_are_not_evidence(name: str, write: Callable[..., Path]) -> None:
    field, value = COPIES[name]

    def copied(content: Sequence[Row]) -> list[Row]:
        return [{**row, field: value(number)} for number, row in enumerate(content)]

    decision = judge(LOSS, copied(rows(1.9, 0.7)), copied(BASE), write)
    assert decision.verdict is Verdict.HOLD
    assert f"repeat the {field} of another row" in decision.reasons[0]


def test_few_copies_count_once(write: Callable[..., Path]) -> None:
    def copied(content: Sequence[Row]) -> list[Row]:
        return [{**row, "input": f"question {max(number, 6)}"} for number, row in enumerate(content)]

    decision = judge(LOSS, copied(rows(1.9, 0.7)), copied(BASE), write)
    assert decision.verdict is Verdict.PROMOTE, decision.reasons
    assert decision.judgements[0].n == 294


def test_inputs_that_differ_in_a_sign_are_different(write: Callable[..., Path]) -> None:
    def sums(content: Sequence[Row]) -> list[Row]:
        return [{**row, "input": f"{number // 2} {'+-'[number % 2]} 3"} for number, row in enumerate(content)]

    assert judge(LOSS, sums(rows(1.9, 0.7)), sums(BASE), write).verdict is Verdict.PROMOTE


@pytest.mark.parametrize("empty", [None, "", " \u200b"])
def test_without_inputs_the_rule_must_say_how_many_rows_are_enough(empty: object, write: Callable[..., Path]) -> None:
    candidate, base = ([{**row, "input": empty} for row in content] for content in (rows(1.9, 0.7), BASE))
    assert judge(LOSS, candidate, base, write).verdict is Verdict.PROMOTE
    for rules in (LOSS.replace("min_rows = 100", ""), LOSS.replace("min_rows = 100", "min_rows = 1")):
        decision = judge(rules, candidate, base, write)
        assert decision.verdict is Verdict.HOLD
        assert "copies can't be recognized" in decision.reasons[0]
    assert "300 different ids; they have no input" in describe_rows(read_scores(write("c.jsonl", candidate)))


def test_inputs_need_no_minimum(write: Callable[..., Path]) -> None:
    candidate, base = ([{**row, "input": f"question {row['id']}"} for row in content] for content in (rows(1.9, 0.7), BASE))
    assert judge(LOSS.replace("min_rows = 100", ""), candidate, base, write).verdict is Verdict.PROMOTE
    assert describe_rows(read_scores(write("c.jsonl", candidate))) == "300 with 300 different inputs"


def test_a_row_without_an_input_among_others_is_named(write: Callable[..., Path]) -> None:
    candidate, base = ([{**row, "input": row["id"] if row["id"] else None} for row in content] for content in (rows(1.9, 0.7), BASE))
    decision = judge(LOSS, candidate, base, write)
    assert decision.verdict is Verdict.HOLD
    assert "1 rows of" in decision.reasons[0]
    assert "have no input, the first one is 0" in decision.reasons[0]


def test_one_file_is_judged_by_floors_and_ceilings(write: Callable[..., Path]) -> None:
    good, bad = (judge(floor("floor = 0.5", "accuracy"), rows(2.0, share), None, write) for share in (0.7, 0.3))
    assert (good.verdict, bad.verdict) == (Verdict.PROMOTE, Verdict.REJECT)


@pytest.mark.parametrize(("ceiling", "verdict"), [(3.9, Verdict.PROMOTE), (4.0, Verdict.HOLD)])
def test_a_ruined_candidate_is_as_far_above_the_worst_value_as_that_is_above_zero(
    ceiling: float, verdict: Verdict, write: Callable[..., Path]
) -> None:
    scores = [{"id": number, "loss": 1 + number % 2} for number in range(30)]
    assert judge(floor(f"ceiling = {ceiling}", "loss", "lower"), scores, None, write).verdict is verdict


def values(metric: str, mean: float, spread: float = 0.01, seed: int = 0, count: int = 300) -> list[Row]:
    """Rows with one metric around a mean."""
    noise = random.Random(seed)
    return [{"id": number, metric: mean + noise.uniform(-spread, spread)} for number in range(count)]


GOOD, BETTER = values("f1", 0.9), values("f1", 0.92, seed=1)
SLOW, FAST = values("ms", 20.0, 2.0), values("ms", 18.0, 2.0, seed=1)
LOW, HIGH = ([{"id": number, "accuracy": int(number % 100 < right)} for number in range(300)] for right in (90, 95))
ABSOLUTE = 'margin_kind = "absolute"\nmargin = '
LENIENT: dict[str, tuple[str, Sequence[Row], Sequence[Row] | None]] = {
    "a floor that no score is below": (floor("floor = -0.5"), BETTER, None),
    "a floor of the worst score": (floor("floor = 0.0"), BETTER, None),
    "a ceiling that no score is above": (floor("ceiling = 1.9", direction="lower"), BETTER, None),
    "a ceiling beyond all numbers": (floor("ceiling = 1e300", "ms", "lower"), FAST, None),
    "a floor far below": (floor("floor = -1e9", "ms"), FAST, None),
    "a ceiling where more is better": (floor("ceiling = 0.95"), BETTER, None),
    "a margin as wide as the scores": (compare(f"{ABSOLUTE}1.0"), BETTER, GOOD),
    "a margin of half of the score": (compare(f"{ABSOLUTE}0.45"), BETTER, GOOD),
    "a margin of a quarter": (compare(f"{ABSOLUTE}0.27"), BETTER, GOOD),
    "a wide margin without a test": (compare(f"{ABSOLUTE}0.3", test="none"), BETTER, GOOD),
    "an absolute margin larger than the value": (compare(f"{ABSOLUTE}30", "ms", "lower"), FAST, SLOW),
    "a relative margin of 40 %": (compare("margin = 0.4", "ms", "lower"), FAST, SLOW),
    "a signed-rank test with a wide margin": (compare(f"{ABSOLUTE}8", "ms", "lower", "wilcoxon"), FAST, SLOW),
    "only rows that are much worse": (compare(f"{ABSOLUTE}10\nmax_share = 0.1", "ms", "lower", "tail"), FAST, SLOW),
    "shares of which half may be lost": (
        compare(f"{ABSOLUTE}0.16", "accuracy", test="tango"),
        HIGH,
        [{"id": number, "accuracy": int(number % 100 < 20)} for number in range(300)],
    ),
    "shares of which hardly any is left": (
        compare(f"{ABSOLUTE}0.2", "accuracy", test="tango"),
        HIGH,
        [{"id": number, "accuracy": int(number % 100 < 10)} for number in range(300)],
    ),
}


@pytest.mark.parametrize("name", LENIENT)
def test_a_rule_that_a_plainly_worse_candidate_satisfies_promotes_nothing(name: str, write: Callable[..., Path]) -> None:
    decision = judge(*LENIENT[name], write)
    assert decision.verdict is Verdict.HOLD, decision.reasons
    assert "the self-test failed, because rule only would promote a candidate" in decision.reasons[0]


FAIR: dict[str, tuple[str, Sequence[Row], Sequence[Row] | None]] = {
    "a floor": (floor("floor = 0.5"), BETTER, None),
    "a ceiling": (floor("ceiling = 30.0", "ms", "lower"), FAST, None),
    "a floor and a ceiling of one metric": (
        floor("floor = 10.0", "ms") + floor("ceiling = 30.0", "ms", "lower").replace("only", "b"),
        FAST,
        None,
    ),
    "a small margin": (compare(f"{ABSOLUTE}0.03"), BETTER, GOOD),
    "a relative margin of 10 %": (compare("margin = 0.1", "ms", "lower"), FAST, SLOW),
    "a wide margin with a floor": (compare(f"{ABSOLUTE}0.4\nfloor = 0.85"), BETTER, GOOD),
    "rows that are much worse, and the mean": (
        compare(f"{ABSOLUTE}10\nmax_share = 0.1", "ms", "lower", "tail") + compare("", "ms", "lower").replace("only", "b"),
        FAST,
        SLOW,
    ),
    "shares": (compare(f"{ABSOLUTE}0.05", "accuracy", test="tango"), HIGH, LOW),
    "a base that gets nothing right": (
        compare(f"{ABSOLUTE}0.05", "accuracy", test="tango"),
        HIGH,
        [{"id": number, "accuracy": 0} for number in range(300)],
    ),
    "a log-probability": (compare("margin = 0.01", "logprob"), values("logprob", -1.9), values("logprob", -2.0, seed=1)),
    "a log-probability that is hardly worse": (
        compare("margin = 0.02", "logprob", test="wilcoxon"),
        values("logprob", -2.01),
        values("logprob", -2.0, seed=1),
    ),
}


@pytest.mark.parametrize("name", FAIR)
def test_a_good_candidate_is_promoted_by_a_rule_that_means_something(name: str, write: Callable[..., Path]) -> None:
    decision = judge(*FAIR[name], write)
    assert decision.verdict is Verdict.PROMOTE, decision.reasons


def test_a_rule_about_another_metric_does_not_hide_a_lenient_one(write: Callable[..., Path]) -> None:
    candidate, base = ([{**row, **right} for row, right in zip(*each, strict=True)] for each in ((BETTER, HIGH), (GOOD, LOW)))
    accuracy = compare(f"{ABSOLUTE}0.05", "accuracy", test="tango").replace("only", "accuracy")
    decision = judge(accuracy + compare(f"{ABSOLUTE}0.9"), candidate, base, write)
    assert decision.verdict is Verdict.HOLD
    assert [judgement.outcome for judgement in decision.judgements] == [Outcome.SHOWN, Outcome.INVALID]


def test_a_rule_that_does_not_decide_does_not_hide_a_lenient_one(write: Callable[..., Path]) -> None:
    strict = compare(f"{ABSOLUTE}0.03\ncritical = false").replace("only", "strict")
    assert judge(strict + compare(f"{ABSOLUTE}0.9"), BETTER, GOOD, write).verdict is Verdict.HOLD


def test_a_rule_that_does_not_decide_may_be_lenient(write: Callable[..., Path]) -> None:
    lenient = floor("floor = -1.0\ncritical = false").replace("only", "lenient")
    assert judge(compare("") + lenient, BETTER, GOOD, write).verdict is Verdict.PROMOTE


def test_a_gate_that_promotes_a_candidate_without_values_gives_no_verdict(
    write: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(score_files, "combine", lambda _: (Verdict.PROMOTE, ()))
    with pytest.raises(SelfTestFailed, match="without any value"):
        judge(compare(""), BETTER, GOOD, write)


NEAR: dict[str, tuple[list[Row], list[Row], str]] = {
    "all values, up to rounding": (
        [{**row, "f1": float(str(row["f1"])) * (1 - 1e-9 * number / 300)} for number, row in enumerate(GOOD)],
        GOOD,
        "the same values in every row",
    ),
    "the metric, beside times that always differ": (
        [{**row, "ms": number % 7} for number, row in enumerate(GOOD)],
        [{**row, "ms": number % 5} for number, row in enumerate(GOOD)],
        "the same f1 in every row",
    ),
}


@pytest.mark.parametrize("name", NEAR)
def test_a_copy_of_the_base_is_not_promoted(name: str, write: Callable[..., Path]) -> None:
    candidate, base, why = NEAR[name]
    decision = judge(compare("margin = 0.01"), candidate, base, write)
    assert decision.verdict is Verdict.HOLD
    assert "the candidate is the base" in decision.reasons[0]
    assert why in decision.reasons[0]


def test_models_that_both_get_all_rows_right_are_not_the_same(write: Callable[..., Path]) -> None:
    candidate, base = ([{"id": number, "accuracy": 1, "ms": number % each} for number in range(300)] for each in (5, 7))
    assert judge(compare(f"{ABSOLUTE}0.05", "accuracy", test="tango"), candidate, base, write).verdict is Verdict.PROMOTE


@pytest.mark.parametrize("value", [1e308, -1e308, 1e60])
def test_numbers_too_large_to_add_up_are_not_evidence(value: float, write: Callable[..., Path]) -> None:
    for content in ([{"id": number, "f1": value} for number in range(40)], [{**GOOD[0], "f1": value}, *GOOD[1:]]):
        decision = judge(floor("floor = 0.5"), content, None, write)
        assert decision.verdict is Verdict.HOLD
        assert "have a f1 beyond 1e+50, the first one is 0" in decision.reasons[0]


@pytest.mark.parametrize("value", [None, float("nan")])
def test_a_row_without_a_value_of_a_share_is_named(value: float | None, write: Callable[..., Path]) -> None:
    decision = judge(compare(f"{ABSOLUTE}0.05", "accuracy", test="tango"), [*HIGH[:7], {"id": 7, "accuracy": value}, *HIGH[8:]], LOW, write)
    assert decision.verdict is Verdict.HOLD
    assert "have no finite accuracy, the first one is 7" in decision.reasons[0]


def test_a_value_that_is_neither_right_nor_wrong_is_named(write: Callable[..., Path]) -> None:
    with pytest.raises(ConfigError, match=r'rules\.only: test = "tango" .* accuracy is 0.5 in row 7 of .*b\.jsonl'):
        judge(compare(ABSOLUTE + "0.05", "accuracy", test="tango"), HIGH, [*LOW[:7], {"id": 7, "accuracy": 0.5}, *LOW[8:]], write)


@pytest.mark.parametrize("test", ["paired_bootstrap", "wilcoxon", "none"])
def test_a_margin_relative_to_values_of_both_signs_is_refused(test: str, write: Callable[..., Path]) -> None:
    candidate, base = (values("reward", 0.1, 1.0, seed) for seed in (1, 2))
    with pytest.raises(
        ConfigError, match=r'rules\.only: margin_kind = "relative" needs values of one sign, but reward of the base has both'
    ):
        judge(compare("margin = 0.01", "reward", test=test), candidate, base, write)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "has no rules"),
        ("[rule.a]\n", "did you mean 'rules'?"),
        ("[rules.a]\n", "rules.a.metric: Field required"),
        ('[rules.a]\nmetric = "x"\ndirection = "up"\n', "rules.a.direction"),
        (
            '[rules.a]\nmetric = "x"\ndirection = "lower"\nmax_share = 0.21\n',
            "rules.a.max_share: Input should be less than or equal to 0.2",
        ),
        ('[rules.a]\nmetric = "x"\ndirection = "lower"\nconfidence = 0.79\n', "rules.a.confidence: .* greater than or equal to 0.8"),
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
    printed = capsys.readouterr()
    assert "PROMOTE: All 1 critical rules" in printed.err
    labels = ["verdict", "candidate", "rows", "closest rule", "also changed", "unseen"]
    assert [line.split("  ")[1] for line in printed.out.splitlines()[:6]] == labels
    assert "PROMOTE" in printed.out.splitlines()[0]
    assert "accuracy 0." in printed.out.splitlines()[4]
    assert "up to 1 % of such rows can have faults that 300 rows don't show" in printed.out.splitlines()[5]
    assert "PROMOTE" in (tmp_path / "output").read_text()
    assert "- **rows:** 300 with 300 different ids; they have no input" in (tmp_path / "summary").read_text()
    assert "| loss: loss: at most 2 % worse than the base | 2.414 | 2.512 |" in (tmp_path / "summary").read_text()
    assert main(["gate", str(base), str(good), "--rules", str(rules), "--json"]) == 20
    assert json.loads(capsys.readouterr().out)["verdict"] == "REJECT"


@pytest.mark.parametrize("arguments", [["a.jsonl"], ["--rules", "r.toml"], ["a", "b", "c", "--rules", "r.toml"]])
def test_wrong_arguments_are_refused(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["gate", *arguments]) == 2
    assert "error:" in capsys.readouterr().err


@pytest.mark.parametrize("option", [["--override", "I really want it"], ["--what-if"], ["--explain"], ["--self-test"], ["--history"]])
def test_options_that_mean_nothing_for_score_files_are_refused(
    option: list[str], write: Callable[..., Path], capsys: pytest.CaptureFixture[str]
) -> None:
    files = [str(write("c.jsonl", BETTER)), str(write("b.jsonl", GOOD))]
    assert main(["gate", *files, "--rules", str(write("rules.toml", compare(""))), *option]) == 2
    assert f"{option[0]} does not apply to score files; nothing was judged" in capsys.readouterr().err
