"""Score files whose rows are no evidence: a metric that only one model was scored for, copies without inputs, and means of outliers."""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import numpy as np
import pytest

from mlops.core.judgement import Outcome, Verdict
from mlops.judging.score_copies import describe_copies
from mlops.judging.score_files import judge_scores, read_rules
from mlops.judging.score_outliers import find_outliers
from mlops.judging.score_rows import read_scores
from mlops.judging.verdict import Decision

Row = dict[str, object]
COUNT = 300


def rule(metric: str, direction: str, text: str = "", test: str = "paired_bootstrap", baseline: str = "base") -> str:
    """A rule in TOML, which tolerates a loss of 5 % unless the text says otherwise."""
    margin = 'margin = 0.05\nmargin_kind = "absolute"' if test == "tango" else "margin = 0.05"
    lines = [f'[rules.{metric}]\nmetric = "{metric}"\ndirection = "{direction}"\nmin_rows = 20', text]
    lines += [f'baseline = "{baseline}"', f'test = "{test}"', "" if "margin" in text else margin] if baseline != "none" else []
    return "\n".join(lines) + "\n"


LOSS, ACCURACY = rule("loss", "lower"), rule("accuracy", "higher", test="tango")
GRADE = rule("grade", "higher")


@pytest.fixture
def judge(tmp_path: Path) -> Callable[..., Decision]:
    def judge(rules: str, candidate: Sequence[Row], base: Sequence[Row] | None = None) -> Decision:
        (tmp_path / "rules.toml").write_text(rules)
        scores = []
        for name, rows in (("candidate", candidate), ("base", base)):
            if rows is not None:
                path = tmp_path / f"{name}.jsonl"
                path.write_text("".join(json.dumps(row) + "\n" for row in rows))
                scores.append(read_scores(path))
        return judge_scores(read_rules(tmp_path / "rules.toml"), *scores, *([None] if base is None else []))

    return judge


def table(**columns: Iterable[float]) -> list[Row]:
    """Rows with ids."""
    names = list(columns)
    return [{"id": f"q{number}", **dict(zip(names, row, strict=True))} for number, row in enumerate(zip(*columns.values(), strict=True))]


def noise(mean: float, spread: float, seed: int, count: int = COUNT) -> list[float]:
    """Numbers around a mean."""
    source = random.Random(seed)
    return [source.gauss(mean, spread) for _ in range(count)]


def chance(share: float, seed: int, count: int = COUNT) -> list[int]:
    """1 in a share of the rows, else 0."""
    source = random.Random(seed)
    return [int(source.random() < share) for _ in range(count)]


def grades(seed: int, weights: Sequence[int] = (1, 2, 3, 4, 3), count: int = COUNT) -> list[int]:
    """Whole numbers from 1 to 5."""
    return random.Random(seed).choices(range(1, 6), weights, k=count)


# One metric that is the same in both files.


@pytest.mark.parametrize(
    ("rules", "same"),
    [
        (ACCURACY, {"accuracy": chance(0.6, 0)}),
        (ACCURACY, {"accuracy": chance(0.95, 0)}),
        (rule("accuracy", "higher", 'margin = 0.02\nmargin_kind = "absolute"'), {"accuracy": chance(0.6, 0)}),
        (rule("accuracy", "higher", test="none"), {"accuracy": chance(0.6, 0)}),
        (GRADE, {"grade": grades(0)}),
        (rule("grade", "higher", test="wilcoxon"), {"grade": grades(0)}),
    ],
    ids=["0 or 1", "mostly 1", "a bootstrap of shares", "no test", "grades", "signed ranks of grades"],
)
def test_a_metric_that_both_files_share_is_no_evidence(rules: str, same: dict[str, list[int]], judge: Callable[..., Decision]) -> None:
    candidate, base = (table(**same, ms=noise(20, 2, seed)) for seed in (1, 2))
    decision = judge(rules, candidate, base)
    assert decision.verdict is Verdict.HOLD
    assert "the candidate is the base: they have the same" in decision.reasons[0]


@pytest.mark.parametrize(
    ("rules", "same"),
    [
        (rule("empty", "lower", test="tango"), {"empty": [0] * COUNT}),
        (rule("empty", "lower", test="tango"), {"empty": [int(number < 5) for number in range(COUNT)]}),
        (rule("errors", "lower", 'margin = 0.002\nmargin_kind = "absolute"', test="none"), {"errors": [0] * (COUNT - 2) + [1, 2]}),
        (rule("errors", "lower", "ceiling = 0.0", baseline="none"), {"errors": [0] * COUNT}),
    ],
    ids=["no empty answer", "few empty answers", "few errors", "a ceiling"],
)
def test_a_metric_that_hardly_varies_may_be_the_same(rules: str, same: dict[str, list[int]], judge: Callable[..., Decision]) -> None:
    candidate, base = (table(**same, loss=noise(2, 0.05, seed)) for seed in (1, 2))
    decision = judge(rules + LOSS, candidate, base)
    assert decision.verdict is Verdict.PROMOTE, decision.reasons


def test_few_rows_that_both_files_share_are_no_evidence(judge: Callable[..., Decision]) -> None:
    candidate, base = (table(accuracy=[0, 1, 1, 1, 0, 1, 0, 1, 0, 0], ms=noise(20, 2, seed, 10)) for seed in (1, 2))
    rules = rule("accuracy", "higher", test="none").replace("min_rows = 20", "min_rows = 5")
    assert "they have the same accuracy" in judge(rules, candidate, base).reasons[0]


# Copies of rows with other ids, without inputs.


def pairs(count: int) -> tuple[list[Row], list[Row]]:
    """Rows of a candidate and of a base, as good as each other. Different in every column."""
    difficulty = noise(2, 0.3, 0, count)
    return tuple(  # type: ignore[return-value]
        table(
            loss=[each + change for each, change in zip(difficulty, noise(0, 0.01, seed, count), strict=True)],
            accuracy=chance(0.7, seed, count),
            grade=grades(seed, count=count),
            rounded=[round(each + change, 2) for each, change in zip(difficulty, noise(0, 0.01, seed + 9, count), strict=True)],
        )
        for seed in (1, 2)
    )


def repeat(rows: Sequence[Row], order: Sequence[int]) -> list[Row]:
    """The rows in this order, with ids of their own."""
    return [{**rows[index], "id": f"copy{number}"} for number, index in enumerate(order)]


def shuffle(order: Sequence[int]) -> list[int]:
    return random.Random(3).sample(order, len(order))


EVEN = [number % 25 for number in range(500)]
ORDERS: dict[str, tuple[int, list[int]]] = {
    "25 rows × 20": (25, EVEN),
    "25 rows × 20, shuffled": (25, shuffle(EVEN)),
    "each row 20 times in a row": (25, sorted(EVEN)),
    "25 rows, drawn by chance": (25, random.Random(4).choices(range(25), k=500)),
    "each row twice": (150, [*range(150)] * 2),
    "a third of the rows again": (210, [*range(210), *range(70)]),
    "one row in 18 again": (285, [*range(285), *range(16)]),
    "few rows often, and many others": (300, [*range(300), *list(range(8)) * 20]),
}


@pytest.mark.parametrize("name", ORDERS)
def test_copies_with_other_ids_are_no_evidence(name: str, judge: Callable[..., Decision]) -> None:
    count, order = ORDERS[name]
    candidate, base = (repeat(rows, order) for rows in pairs(count))
    decision = judge(LOSS, candidate, base)
    assert decision.verdict is Verdict.HOLD
    assert "repeat the scores of another row to nine digits" in decision.reasons[0]
    assert "remove the copies from" in decision.reasons[0]


def test_few_copies_with_other_ids_are_tolerated(judge: Callable[..., Decision]) -> None:
    candidate, base = (repeat(rows, [*range(295), *range(5)]) for rows in pairs(295))
    decision = judge(LOSS, candidate, base)
    assert decision.verdict is Verdict.PROMOTE, decision.reasons


@pytest.mark.parametrize("mean", [0.01, 2, 14, 3000])
def test_copies_of_scores_of_any_size_are_noticed_up_to_rounding(mean: float) -> None:
    for precision in (np.float64, np.float32):
        scores = np.array(noise(mean, mean / 20, 0, 25), dtype=precision).astype(float)
        copies = np.tile(scores, 20) * (1 + 1e-12 * np.arange(500))
        assert "rows repeat the scores" in str(describe_copies([copies], [str(number) for number in range(500)])), precision


@pytest.mark.parametrize("metric", ["accuracy", "grade", "rounded"])
def test_copies_are_noticed_by_any_column(metric: str, judge: Callable[..., Decision]) -> None:
    candidate, base = (repeat(rows, EVEN) for rows in pairs(25))
    rules = ACCURACY if metric == "accuracy" else rule(metric, "higher")
    assert judge(rules, candidate, base).judgements[0].outcome is Outcome.INVALID


def test_copies_are_noticed_beside_times_that_always_differ(judge: Callable[..., Decision]) -> None:
    timed = []
    for seed, rows in enumerate(pairs(25)):
        timed.append([{**row, "ms": ms} for row, ms in zip(repeat(rows, EVEN), noise(20, 2, seed, 500), strict=True)])
    assert judge(LOSS, *timed).judgements[0].outcome is Outcome.INVALID


def test_copies_are_noticed_in_a_single_file(judge: Callable[..., Decision]) -> None:
    candidate = repeat(pairs(25)[0], EVEN)
    assert judge(rule("loss", "lower", "ceiling = 2.5", baseline="none"), candidate).judgements[0].outcome is Outcome.INVALID


@pytest.mark.parametrize("metric", ["grade", "rounded"])
def test_copies_of_scores_with_few_values_are_noticed_by_their_frequencies(metric: str, judge: Callable[..., Decision]) -> None:
    candidate, base = ([{"id": row["id"], metric: row[metric]} for row in repeat(rows, shuffle(EVEN))] for rows in pairs(25))
    decision = judge(rule(metric, "higher"), candidate, base)
    assert decision.verdict is Verdict.HOLD
    assert "combinations of scores occur 20 times each, or a multiple of it" in decision.reasons[0]


def test_rows_with_inputs_are_told_apart_by_them(judge: Callable[..., Decision]) -> None:
    candidate, base = ([{**row, "input": row["id"]} for row in repeat(rows, EVEN)] for rows in pairs(25))
    assert judge(LOSS, candidate, base).verdict is Verdict.PROMOTE


def change(scores: Sequence[float], step: float) -> list[float]:
    """Scores of a similar model, which gets a tenth of the rows better by a step, and a few worse."""
    source = random.Random(5)
    return [each + step * source.choices((0, 1, -1), (86, 11, 3))[0] for each in scores]


TWELFTHS = [min(max(round(each * 12), 1), 11) / 12 for each in noise(0.5, 0.2, 0)]
TIED: dict[str, tuple[str, list[float], float]] = {
    "grades": ("higher", [*grades(1)], 1),
    "grades of 1,000 rows": ("higher", [*grades(1, count=1000)], 1),
    "mostly one grade": ("higher", [*grades(1, (0, 0, 1, 20, 1))], 1),
    "fractions": ("higher", TWELFTHS, 1 / 12),
    "numbers with one digit": ("lower", [round(each, 1) for each in noise(3, 0.3, 0)], -0.1),
    "counts": ("lower", [*map(float, random.Random(6).choices(range(4), (5, 6, 3, 1), k=COUNT))], -1),
    "yes or no": ("higher", [each / 2 for each in chance(0.7, 0)], 0.5),
    "a loss with a largest value": ("lower", [min(each, 13.815510557964274) for each in noise(12, 2, 0)], -0.1),
}


@pytest.mark.parametrize("name", TIED)
@pytest.mark.parametrize("test", ["paired_bootstrap", "wilcoxon", "none"])
def test_scores_with_many_ties_are_evidence(name: str, test: str, judge: Callable[..., Decision]) -> None:
    direction, base, step = TIED[name]
    decision = judge(rule("score", direction, test=test), table(score=change(base, step)), table(score=base))
    assert decision.verdict is Verdict.PROMOTE, decision.reasons


def test_equal_shares_of_other_rows_are_evidence(judge: Callable[..., Decision]) -> None:
    decision = judge(ACCURACY, table(accuracy=chance(0.9, 1)), table(accuracy=chance(0.9, 2)))
    assert decision.verdict is Verdict.PROMOTE, decision.reasons


def test_scores_that_are_drawn_independently_are_hardly_ever_called_copies() -> None:
    """The promised rate is one in 1,000 files."""
    source = np.random.default_rng(0)
    alarms = 0
    for trial in range(1000):
        count, kinds = int(source.integers(50, 400)), int(source.integers(1, 30))
        shares = source.dirichlet(np.full(kinds, source.choice([0.3, 1.0, 30.0])))
        columns = [source.choice(kinds, count, p=shares).astype(float) for _ in range(1 + trial % 2)]
        alarms += describe_copies(columns, [str(number) for number in range(count)]) is not None
    assert alarms <= 4


@pytest.mark.parametrize(
    "values",
    [
        [0.1 + 0.2, 1 / 3, 1e-9, 1 / 997, 5 + 2 / 7],
        [13.0, 123456789.0, -7.5, 1e50, 37.0451],
        [*np.array([1 / 3, 0.7, 2 / 7, 1e-9, 87.31], dtype=np.float32).tolist()],
    ],
)
def test_rounded_numbers_and_fractions_repeat_by_chance(values: list[float]) -> None:
    columns = [np.array([*values, *values, *values, 5.0, 6.0, 7.0, 8.0] * 2 + [9.0])]
    assert describe_copies(columns, [str(number) for number in range(len(columns[0]))]) is None


# Means that few rows decide, where no test sees it.

WORSE = {"candidate": noise(2.3, 0.1, 1), "base": noise(2.0, 0.1, 2)}


def outlying(name: str, value: float, rows: Sequence[int] = (7,)) -> dict[str, list[float]]:
    """The scores of a worse candidate, with other values in some rows of one model."""
    return {each: [value if each == name and row in rows else score for row, score in enumerate(WORSE[each])] for each in WORSE}


MEANS = rule("loss", "lower", "margin = 0.01", test="none")
OUTLIERS: dict[str, tuple[str, dict[str, list[float]]]] = {
    "of the candidate": (MEANS, outlying("candidate", -1e6)),
    "of the candidate, not far": (MEANS, outlying("candidate", -120.0)),
    "of the base": (MEANS, outlying("base", 1e6)),
    "of three rows": (MEANS, outlying("candidate", -1e4, (7, 70, 270))),
    "of both, which widens a relative margin": (MEANS, {name: [1e6, *scores[1:]] for name, scores in WORSE.items()}),
    "of whole numbers": (MEANS, {"candidate": [-1e6, *[3.0] * 299], "base": [2.0] * 300}),
    "of a base that is 0 in all other rows": (MEANS, {"candidate": [1.0, 2.0] * 150, "base": [1e6, *[0.0] * 299]}),
    "of exactly as many rows as are required": (MEANS.replace("min_rows = 20", "min_rows = 300"), outlying("candidate", -1e6)),
    "of small numbers": (MEANS, {name: [each / 1000 for each in scores] for name, scores in outlying("base", 900).items()}),
    "above a floor": (rule("loss", "higher", "floor = 5.0", baseline="none"), outlying("candidate", 1e6)),
    "below a ceiling": (rule("loss", "lower", "ceiling = 1.0", baseline="none"), outlying("candidate", -1e6)),
    "below the ceiling of a rule with a test": (
        rule("loss", "lower", "ceiling = 1.0\nmargin = 0.2"),
        outlying("candidate", -1e6),
    ),
}


@pytest.mark.parametrize("name", OUTLIERS)
def test_a_mean_that_few_rows_decide_is_no_evidence(name: str, judge: Callable[..., Decision]) -> None:
    rules, scores = OUTLIERS[name]
    decision = judge(rules, table(loss=scores["candidate"]), table(loss=scores["base"]))
    assert decision.verdict is Verdict.HOLD
    assert "rows that are far from all others, and does not hold without them" in decision.reasons[0]


def test_the_first_outlier_is_named(judge: Callable[..., Decision]) -> None:
    scores = outlying("candidate", -1e4, (7, 70, 270))
    decision = judge(MEANS, table(loss=scores["candidate"]), table(loss=scores["base"]))
    assert "it depends on 3 of 300 rows" in decision.reasons[0]
    assert any(f"the first one is q{row}:" in decision.reasons[0] for row in (7, 70, 270))


BETTER = {"candidate": noise(1.9, 0.1, 1), "base": noise(2.0, 0.1, 2)}
TIMES = [2.0**each for each in noise(3, 1, 1)]
HARMLESS: dict[str, tuple[str, dict[str, list[float]]]] = {
    "without outliers": (MEANS, BETTER),
    "an outlier among exactly as many rows as are required": (
        MEANS.replace("min_rows = 20", "min_rows = 300"),
        {**BETTER, "base": [50.0, *BETTER["base"][1:]]},
    ),
    "counts of rare faults": (
        rule("loss", "lower", "margin = -0.5", test="none"),
        {"candidate": [0.0] * 299 + [1.0], "base": [1.0, 2.0, 1.0] + [0.0] * 297},
    ),
    "an outlier that makes the candidate worse": (
        rule("loss", "lower", "ceiling = 30.0", baseline="none"),
        {**BETTER, "candidate": [1e3, *BETTER["candidate"][1:]]},
    ),
    "an outlier beside a candidate that is better anyway": (MEANS, {**BETTER, "base": [50.0, *BETTER["base"][1:]]}),
    "times with a long tail": (
        rule("loss", "lower", "margin = 0.1", test="none"),
        {"candidate": TIMES, "base": [each * 1.02 for each in TIMES]},
    ),
    "a ceiling of times with a long tail": (
        rule("loss", "lower", "ceiling = 30.0", baseline="none"),
        dict.fromkeys(BETTER, TIMES),
    ),
    "shares of rare faults": (
        rule("loss", "lower", 'margin = 0.01\nmargin_kind = "absolute"', test="none"),
        {"candidate": [*map(float, chance(0.01, 1))], "base": [*map(float, chance(0.02, 2))]},
    ),
    "a share exactly on its floor": (rule("loss", "higher", "floor = 0.5", baseline="none"), {name: [1.0, 0.0] * 150 for name in BETTER}),
    "percentages that differ in few rows": (
        rule("loss", "higher", test="none"),
        {"candidate": [100.0 * each for each in chance(0.95, 1)], "base": [100.0 * each for each in chance(0.95, 2)]},
    ),
    "an equal difference in all rows": (MEANS, {"candidate": [each - 0.1 for each in BETTER["base"]], "base": BETTER["base"]}),
}


@pytest.mark.parametrize("name", HARMLESS)
def test_a_mean_that_all_rows_share_is_evidence(name: str, judge: Callable[..., Decision]) -> None:
    rules, scores = HARMLESS[name]
    decision = judge(rules, table(loss=scores["candidate"]), table(loss=scores["base"]))
    assert decision.verdict is Verdict.PROMOTE, decision.reasons


def test_outliers_are_few_and_far() -> None:
    values = np.array([*noise(0, 1, 0), 50.0, -50.0])
    assert np.flatnonzero(find_outliers(values)).tolist() == [300, 301]
    assert not find_outliers(np.array([*noise(0, 1, 0), *[50.0] * 60])).any()
    assert not find_outliers(np.array([1.0, 1.0, 1e9])).any(), "of three rows none is an outlier"
    assert find_outliers(np.array([1.0, 1.0, 1.0, 1e9])).tolist() == [False, False, False, True]
    assert not find_outliers(np.array([0.1] * 10 + [0.1 + 1e-9] * 2)).any(), "rounding"
    assert not find_outliers(np.array([0.0] * 297 + [1.0, 2.0, 9.0])).any(), "small counts"
