from __future__ import annotations

from pathlib import Path

from mlops.core.records import Evaluated, Sample
from mlops.report.samples import Exchange, exchanges
from tests.support.run_directories import make_run


def asked(evaluated: Evaluated, **answers: dict[str, str]) -> Evaluated:
    """The same evaluation with these answers: role → question → answer."""
    models = {
        role: evaluated.models[role].model_copy(
            update={"samples": tuple(Sample(prompt=prompt, answer=answer) for prompt, answer in given.items())}
        )
        for role, given in answers.items()
    }
    return evaluated.model_copy(update={"models": models})


def test_what_changed_comes_first_and_only_what_both_were_asked(tmp_path: Path) -> None:
    evaluated = make_run(tmp_path).read(Evaluated)
    before = {"a": "1", "b": "2", "d": "4"}
    after = {"a": "1", "b": "two", "c": "3"}
    wanted = [Exchange("b", "2", "two"), Exchange("a", "1", "1")]
    assert exchanges(asked(evaluated, champion=before, base=after, candidate=after)) == ("champion", wanted)
    assert exchanges(asked(evaluated, base=before, candidate=after)) == ("base", wanted)


def test_without_an_answer_before_or_after_there_is_nothing_to_show(tmp_path: Path) -> None:
    evaluated = make_run(tmp_path).read(Evaluated)
    assert exchanges(asked(evaluated, candidate={"a": "1"})) == ("base", [])
    assert exchanges(asked(evaluated, champion={"a": "1"})) == ("champion", [])
    assert exchanges(None) == ("base", [])
