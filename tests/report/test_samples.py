from __future__ import annotations

from pathlib import Path

from mlops.core.records import Evaluated, Sample
from mlops.report.samples import Exchange, exchanges
from tests.support.run_directories import make_run


def with_answers(evaluated: Evaluated, **answers: dict[str, str]) -> Evaluated:
    """Return the evaluation with these answers: role → question → answer."""
    models = {
        role: evaluated.models[role].model_copy(
            update={"samples": tuple(Sample(prompt=prompt, answer=answer) for prompt, answer in samples.items())}
        )
        for role, samples in answers.items()
    }
    return evaluated.model_copy(update={"models": models})


def test_changed_answers_come_first_and_only_common_questions_count(tmp_path: Path) -> None:
    evaluated = make_run(tmp_path).read(Evaluated)
    before = {"a": "1", "b": "2", "d": "4"}
    after = {"a": "1", "b": "two", "c": "3"}
    expected = [Exchange("b", "2", "two"), Exchange("a", "1", "1")]
    assert exchanges(with_answers(evaluated, champion=before, base=after, candidate=after)) == ("champion", expected)
    assert exchanges(with_answers(evaluated, base=before, candidate=after)) == ("base", expected)


def test_without_an_answer_before_or_after_there_is_nothing_to_show(tmp_path: Path) -> None:
    evaluated = make_run(tmp_path).read(Evaluated)
    assert exchanges(with_answers(evaluated, candidate={"a": "1"})) == ("base", [])
    assert exchanges(with_answers(evaluated, champion={"a": "1"})) == ("champion", [])
    assert exchanges(None) == ("base", [])
