"""The pull request's comment."""

from __future__ import annotations

import html
import re
from pathlib import Path

import pytest

from mlops.core.judgement import Outcome, Override, Verdict
from mlops.core.record import FileDigest
from mlops.core.records import Deployed, Evaluated, Judged, Prepared, Registered, Sample, Smoked, TornDown
from mlops.core.run import Run
from mlops.report.comment import LIMIT, MARKER
from mlops.report.comment import text as render
from mlops.report.html import write
from mlops.report.markdown import self_test_line
from tests.support.run_directories import make_run

URL = "https://github.com/octo/chat/actions/runs/5"


def text(run: Run, *, planned: bool = True) -> str:
    """Render the comment for workflow run 5."""
    return render(run, planned=planned, workflow_run=URL)


def samples(run: Run, role: str, answer: str) -> None:
    """Give a model an answer to show."""
    evaluated = run.read(Evaluated)
    scores = evaluated.models[role].model_copy(update={"samples": (Sample(prompt="Why | how?", answer=answer),)})
    run.write(evaluated.model_copy(update={"models": {**evaluated.models, role: scores}}))


def test_it_has_verdict_table_metrics_cost_and_links(run: Run) -> None:
    comment = text(run)
    assert comment.startswith(f"{MARKER}\n\n## ")
    judged = run.read(Judged)
    assert f"{judged.verdict}: " in comment.splitlines()[2]
    for part in (
        "| rule | candidate |",
        "target.nll",
        "<summary>Metrics</summary>",
        "- Estimated cost: ",
        "(https://github.com/octo/chat/actions/runs/5)",
    ):
        assert part in comment, part
    assert "offline" not in comment


@pytest.mark.parametrize(
    "foreign",
    [
        "thanks @octocat", "see #12", "GH-12", "octo/chat#12", "https://evil.example", "HTTP://evil.example", "www.evil.example",
        "mail a@evil.example", "![x](https://evil.example/x.png)", "[click](//evil.example)", "[click][1]", "[1]: //evil.example",
        "<img src=//evil.example>", "a \\| b",
    ],
)  # fmt: skip
def test_foreign_text_is_inert(run: Run, foreign: str) -> None:
    samples(run, "champion", foreign)
    samples(run, "candidate", "ok")
    line, folded = [line for line in text(run).splitlines() if line.startswith("| Why")]
    assert line == folded
    active = r"@\w|(?<!&)#\d|GH-\d|https?://|www\.|\]\(|\]\[|\]:|<\w"
    assert not re.search(active, line, re.IGNORECASE)
    assert line.count("|") == 4
    shown = html.unescape(line).replace("\u200b", "")
    assert foreign in shown


OVERRIDE = Override(
    reason="The suite is small, and two people have read <all> answers",
    actor="octocat",
    approvers=("lead",),
    environment="gate-override",
    workflow_run="https://github.com/octo/chat/actions/runs/7",
)


def test_an_override_is_shown_first(run: Run) -> None:
    run.write(run.read(Judged).model_copy(update={"verdict": Verdict.HOLD, "override": OVERRIDE}))
    _, heading, warning, *_ = text(run).split("\n\n")
    assert heading.startswith("## ⚠️ HOLD, overridden: ")
    assert warning.startswith("> [!WARNING]\n> This HOLD was OVERRIDDEN by octocat at ")
    assert "two people have read &lt;all> answers. Approved by lead in environment gate-override" in warning
    run.record_failure("deploy", "It is not healthy.")
    assert "The gate's verdict was HOLD, overridden." in text(run)
    assert "OVERRIDDEN by octocat" in text(run)


def test_a_refused_override_is_reported(run: Run) -> None:
    run.write(run.read(Judged).model_copy(update={"verdict": Verdict.REJECT, "override_refused": "REJECT has no override."}))
    _, heading, warning, *_ = text(run).split("\n\n")
    assert heading.startswith("## ❌ REJECT: ")
    assert warning == "> [!WARNING]\n> An override was requested and refused: REJECT has no override."


def test_it_has_notes_and_the_self_test(run: Run) -> None:
    judged = run.read(Judged)
    assert judged.self_test
    run.write(judged.model_copy(update={"notes": ("The champion has seen\nother data.",)}))
    comment = text(run).splitlines()
    assert "- The champion has seen other data." in comment
    assert f"- {self_test_line(judged.self_test)}" in comment


def test_with_many_rules_those_in_doubt_are_shown_and_the_table_is_folded(run: Run) -> None:
    judged = run.read(Judged)
    shown = judged.judgements[0].model_copy(update={"rule": "a good rule", "outcome": Outcome.SHOWN})
    doubtful = shown.model_copy(update={"rule": "a doubtful rule", "outcome": Outcome.UNPROVEN})
    run.write(judged.model_copy(update={"judgements": (shown,) * 8 + (doubtful,)}))
    above, folded = text(run).split("<details><summary>All 9 rules, 1 of them not shown to hold</summary>")
    assert above.count("a doubtful rule") == 1
    assert "| rule-1: a good rule |" not in above
    assert folded.count("a good rule") == 8
    assert folded.count("a doubtful rule") == 1


def test_equal_records_give_equal_text(run: Run) -> None:
    assert text(run) == text(run)


def test_answers_before_and_after_do_not_break_the_table(run: Run) -> None:
    samples(run, "champion", "Because\nit | was <b>so</b>.")
    samples(run, "candidate", "x" * 5000)
    comment = text(run)
    line, folded = [line for line in comment.splitlines() if line.startswith("| Why")]
    assert line == folded
    assert line.startswith("| Why &#124; how? | Because it &#124; was &lt;b>so&lt;/b>. | xxx")
    assert len(line) < 1000


def test_it_shows_what_was_served_and_deleted(run: Run) -> None:
    judged = run.read(Judged)
    registered = run.write(Registered(inputs={"gate": judged.digest()}, name="chat", version="1", model="m", tags={}))
    deployed = run.write(
        Deployed(
            inputs={"register": registered.digest()}, endpoint="chat-pr-12", endpoint_created=True, scoring_uri="x", deployment="d-1",
            model="m", sku="s", instances=1, traffic_before={}, traffic_now={"d-1": 0},
        )
    )  # fmt: skip
    smoked = Smoked(
        inputs={"deploy": deployed.digest()}, endpoint="chat-pr-12", deployment="d-1", requests=4, failures=1, latency_p50_ms=10,
        latency_p95_ms=20, samples=(),
    )  # fmt: skip
    run.write(smoked)
    run.write(TornDown(deleted=("endpoint chat-pr-12",), refused={}, remaining=()))
    comment = text(run)
    assert "4 requests, 1 failures, p50 10 ms, p95 20 ms" in comment
    assert 'Endpoint `chat-pr-12`, deployment `d-1`, traffic {"d-1": 0}.' in comment
    assert "Torn down: `endpoint chat-pr-12`. Remaining: nothing." in comment


def test_a_failure_is_shown_above_the_verdict_and_stays_in_its_block(run: Run) -> None:
    run.record_failure("deploy", "It is not healthy.\n```\n<script>\n```\nFix: look at the log.")
    comment = text(run)
    assert "## ❌ deploy failed\n\n````text\nIt is not healthy.\n```\n<script>\n```\nFix: look at the log.\n````" in comment
    assert f"The gate's verdict was {run.read(Judged).verdict}." in comment


def test_without_a_plan_it_ran_offline(run: Run) -> None:
    assert "**offline, on the emulator**" in text(run, planned=False)


def test_without_records_it_says_so(tmp_path: Path) -> None:
    assert "## No verdict" in text(Run(tmp_path), planned=False)


def test_it_is_never_too_long_for_github(run: Run) -> None:
    judged = run.read(Judged)
    run.write(judged.model_copy(update={"reasons": tuple(f"reason {number} {'x' * 500}" for number in range(300))}))
    comment = text(run)
    assert len(comment) < LIMIT + 200
    assert comment.endswith("the full report is in the artifact `run` of the workflow run.\n")
    assert comment.startswith(MARKER), "the marker identifies the comment"


def test_the_comment_says_how_many_rows_were_left_out_and_why(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run")
    file = FileDigest(path="data/x.jsonl", sha256="0" * 64, rows=1200)
    record = run.read_unchecked(Prepared).model_copy(
        update={
            "dataset": "chats.jsonl",
            "formats": {"train_sft": "ShareGPT"},
            "files": {"train_sft": file, "quarantine": file},
            "dropped": {"train_sft": {"with errors": 3, "repeated": 1}, "test_sft": {"repeated": 4}},
        }
    )
    run.write(record)
    assert (
        "- Data: chats.jsonl (ShareGPT): 1,200 rows; left out: 5 repeated, 3 with errors (listed in `run/data/quarantine.jsonl`)"
        in render(run, planned=True, workflow_run="")
    )
    page = write(run)
    assert "5 repeated, 3 with errors" in page.read_text()
