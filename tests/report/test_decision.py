from __future__ import annotations

from pathlib import Path
from typing import Any

from mlops.core.records import Evaluated, Judged, Sample
from mlops.core.run import Run
from mlops.report import comment, markdown, screen
from mlops.report.decision import decision, find_largest_change, find_nearest, find_worse
from tests.support.evidence import RETENTION, make_rows, make_rule
from tests.support.run_directories import judge_run, make_run


def test_every_report_begins_with_the_decision(run: Run) -> None:
    judged, evaluated = run.read(Judged), run.read(Evaluated)
    lines = decision(judged, list(run.records()))
    assert [label for label, _ in lines] == ["target", "candidate", "closest rule", "also worse", "cost"]
    assert dict(lines)["cost"] == "estimated 14.68 USD, 0.5 GPU hours of training"
    candidate = dict(lines)["candidate"]
    baselines = "champion azureml://models/champion and base azureml://models/base"
    assert candidate == f"{judged.candidate_model} @ 0123456789ab, compared with {baselines}"
    pages = {
        "comment": comment.text(run, planned=True, workflow_run=""),
        "gate page": markdown.gate_page(judged, evaluated, lines),
        "terminal": screen.screen(run),
        "report": (run.directory / "report.html").read_text(),
    }
    for name, page in pages.items():
        flat = " ".join(page.replace("**", "").split())
        places = [flat.index(label) for label, _ in lines]
        assert places == sorted(places), name
        assert places[0] < flat.index(" ".join(judged.reasons[0].split()).replace("<", "&lt;")), name


def test_the_closest_rule_has_the_least_room(run: Run) -> None:
    judged = run.read(Judged)
    nearest = find_nearest(judged.judgements)
    assert nearest is not None
    # 20 % better where 5 % is required leaves less room than "not worse".
    assert nearest.rule == "target.nll: at least 5 % better than the base"
    assert "inside its margin, 95 % interval from" in dict(decision(judged, []))["closest rule"]
    assert find_nearest([each for each in judged.judgements if each.distance_interval is None]) is None


def test_metrics_that_got_worse_are_named_unless_a_rule_is_about_them(tmp_path: Path) -> None:
    scores: dict[Any, Any] = {
        role: make_rows(role, shift=-0.4 if role == "candidate" else 0.0) for role in ("candidate", "champion", "base")
    }
    for row in scores["candidate"]:
        if row["rouge_l"] is not None:
            row |= {"rouge_l": row["rouge_l"] / 4, "looping": 1.0}
    run = make_run(tmp_path, scores)
    judged = judge_run(run, make_rule(baseline="champion"), RETENTION)
    worse = find_worse(judged, run.read(Evaluated))
    assert worse[0].startswith("target.looping 0 → 1 (Δ 1)")
    assert worse[1].startswith("target.rouge_l 0.")
    asked = judge_run(
        run,
        make_rule(baseline="champion"),
        RETENTION,
        make_rule("target.looping", baseline="champion", margin=0.25, margin_kind="absolute"),
    )
    reported = [each if each.metric == "target.nll" else each.model_copy(update={"critical": False}) for each in asked.judgements]
    only_reported = asked.model_copy(update={"judgements": tuple(reported)})
    assert any("looping" in text for text in find_worse(only_reported, run.read(Evaluated))), "a rule that doesn't decide stops nothing"
    assert not any("looping" in text for text in find_worse(asked, run.read(Evaluated)))


def test_the_answers_that_changed_most_are_shown(run: Run) -> None:
    evaluated = run.read(Evaluated)

    def answers(*texts: str) -> tuple[Sample, ...]:
        return tuple(Sample(prompt=f"question {number}", answer=text) for number, text in enumerate(texts))

    models = {
        "champion": evaluated.models["champion"].model_copy(update={"samples": answers("the same", "Rain is water.", "Yes, it is.")}),
        "candidate": evaluated.models["candidate"].model_copy(update={"samples": answers("the same", "xxxx xxxx", "Yes, it was.")}),
    }
    current, changed = find_largest_change(evaluated.model_copy(update={"models": models}))
    assert changed is not None
    assert (current, changed.prompt) == ("champion", "question 1")
    assert find_largest_change(None) == ("base", None)
