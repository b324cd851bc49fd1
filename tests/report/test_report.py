"""Markdown, HTML and the final screen, from the same records."""

from __future__ import annotations

import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from mlops.core.judgement import Interval, Judgement, Outcome, Override, Verdict
from mlops.core.records import Evaluated, Judged, SplitStatistics, Validated
from mlops.core.run import Run
from mlops.report import html, markdown
from mlops.report.screen import screen
from tests.support.evidence import RETENTION, make_rows, make_rule
from tests.support.run_directories import judge_run, make_run

RULES = (
    make_rule(baseline="champion", test="paired_bootstrap"),
    make_rule("target.perplexity", baseline="base", margin=0.1, critical=False),
    make_rule("retention.kl_base", ceiling=0.5),
    make_rule("retention.nll", ceiling=2.45),
)


@pytest.fixture(scope="module")
def judged_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run of this module's rules, which the fixture ``run`` copies."""
    run = make_run(tmp_path_factory.mktemp("judged") / "run")
    judge_run(run, *RULES)
    return run.directory


def judgement(**changes: Any) -> Judgement:
    fields: dict[str, Any] = {
        "rule": "target.nll: not worse than the base", "metric": "target.nll", "direction": "lower", "test": "paired_bootstrap", "seed": 1,
        "baseline": "base", "compared_with": "base", "critical": True, "candidate": 1.8, "reference": 2.0, "difference": -0.2,
        "interval": Interval(low=-0.3, high=-0.1, confidence=0.95), "margin": 0.1, "n": 1234, "mde": 0.14, "outcome": Outcome.SHOWN,
        "reason": "It is.",
    }  # fmt: skip
    return Judgement(**{**fields, **changes})


class Page(HTMLParser):
    """Collects the tags and the text of a page, and refuses improper nesting."""

    VOID = frozenset({"meta", "br", "circle", "line"})

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self._open: list[str] = []
        self.feed(text)
        self.close()
        assert not self._open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in self.VOID:
            self._open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        if tag not in self.VOID:
            assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self._open[-1:] != ["style"]:
            self.text += data


def test_the_rule_table_has_every_number() -> None:
    row = markdown.rule_table([judgement()]).splitlines()[2]
    cells = [cell.strip() for cell in row.strip("|").split("|")]
    assert cells == [
        "target.nll: not worse than the base", "1.8", "2 (base)", "-0.2 [-0.3, -0.1]", "0.1", "1,234", "0.14", "0.2431 %", "✅ shown",
        "It is.",
    ]  # fmt: skip


def test_unknown_numbers_are_dashes() -> None:
    unknown = judgement(candidate=None, reference=None, difference=None, interval=None, margin=None, n=None, mde=None, compared_with="none")
    assert markdown.rule_table([unknown]).splitlines()[2].count("–") == 7


def test_cells_cannot_break_the_table() -> None:
    row = markdown.rule_table([judgement(reason="a | b\nc <img src=x>")]).splitlines()
    assert len(row) == 3
    assert row[2].endswith(r"| a &#124; b c &lt;img src=x> |")


def test_gate_page(run: Run) -> None:
    page = (run.directory / "gate.md").read_text()
    assert page == markdown.gate_page(run.read(Judged), run.read(Evaluated))
    assert page.startswith("## Gate: PROMOTE\n")
    assert "| metric | candidate | champion | base |" in page
    assert "(not critical)" in page
    assert "`retention.facts.nll`" in page
    assert "seed" in page


def test_a_first_run_is_reported(tmp_path: Path) -> None:
    run = make_run(tmp_path, {"candidate": make_rows("candidate", shift=-0.4), "base": make_rows("base")})
    judge_run(run, *RULES)
    assert "Endpoint chat serves nothing: this is a first run." in (tmp_path / "gate.md").read_text()
    assert "Endpoint chat serves nothing: this is a first run." in Page((tmp_path / "report.html").read_text()).text
    assert "Endpoint chat serves nothing: this is a first run." in " ".join(screen(run).split())


def test_a_wilcoxon_rule_shows_the_typical_row() -> None:
    typical = judgement(test="wilcoxon", difference=0.5, typical_difference=-0.2)
    assert "| 0.5; typical row -0.2 [-0.3, -0.1] |" in markdown.rule_table([typical])
    plot = html.plot(typical)
    assert plot is not None
    assert plot.low is not None
    assert plot.high is not None
    assert plot.low < plot.point < plot.high


OVERRIDE = Override(
    reason="the old one <b>is down</b>", actor="octocat", approvers=("hubot",), environment="gate-override", workflow_run="RUN-URL"
)


def render_hold(path: Path, **changes: Any) -> tuple[str, str, str]:
    """Return the Markdown page, the text of the HTML page, and the screen of a HOLD."""
    run = make_run(path, {"candidate": make_rows("candidate", shift=-0.1), "champion": make_rows("champion"), "base": make_rows("base")})
    judged = judge_run(run, make_rule(baseline="base", margin=-0.05, test="paired_bootstrap"), RETENTION, **changes)
    assert judged.verdict is Verdict.HOLD
    return (path / "gate.md").read_text(), " ".join(Page((path / "report.html").read_text()).text.split()), " ".join(screen(run).split())


def test_an_override_is_prominent(tmp_path: Path) -> None:
    page, html_text, screen_text = render_hold(tmp_path, override=OVERRIDE)
    assert page.startswith("## Gate: HOLD, overridden\n\n> [!WARNING]\n> This HOLD was OVERRIDDEN by octocat at ")
    assert "HOLD OVERRIDDEN This HOLD was OVERRIDDEN by octocat" in html_text
    assert screen_text.startswith(
        "HOLD: the evidence is insufficient, but the candidate proceeds because of an override ! This HOLD was OVERRIDDEN"
    )
    for text in (page.replace("&lt;", "<"), html_text, screen_text):
        assert "the old one <b>is down</b>. Approved by hubot in environment gate-override (RUN-URL)." in text
        assert "nothing is registered" not in text


def test_a_refused_override_is_reported(tmp_path: Path) -> None:
    for text in render_hold(tmp_path, override_refused="REJECT has no override."):
        assert "An override was requested and refused: REJECT has no override." in text
        assert "OVERRIDDEN" not in text


def test_nothing_is_printed_without_one(tmp_path: Path) -> None:
    for text in render_hold(tmp_path):
        assert "verrid" not in text


def test_the_self_test_is_one_line_and_a_folded_table(run: Run) -> None:
    line = markdown.self_test_line(run.read(Judged).self_test)
    assert re.fullmatch(r"Self-test: the gate detected (\d+) of \1 mutations of this evidence\.", line)
    page = (run.directory / "gate.md").read_text()
    assert f"<details><summary>{line}</summary>" in page
    mutation = "| a metric value of the candidate is NaN | every judged metric value of the candidate is NaN |"
    assert f"{mutation} every rule that depends on it is invalid |" in page
    assert line in Page((run.directory / "report.html").read_text()).text
    assert line in " ".join(screen(run).split())
    assert markdown.self_test_line(()) == "Self-test: not run."


def test_notes_on_the_models_are_shown(tmp_path: Path) -> None:
    for text in render_hold(tmp_path, notes=("The champion was trained on other data.",)):
        assert "The champion was trained on other data." in text


def test_html_is_one_self_contained_page(run: Run) -> None:
    text = (run.directory / "report.html").read_text()
    page = Page(text)
    assert not [tag for tag, attributes in page.tags if tag in ("script", "link", "img", "iframe") or {"src", "href"} & attributes.keys()]
    assert "http" not in re.sub(r"https://ml\.azure\.com/\S*", "", text)
    for expected in ("PROMOTE", "target.rouge_l", "14.68 USD", "0.5 GPU hours", "train-1", "says the champion"):
        assert expected in page.text


def unfolded(page: str) -> str:
    return Page(re.sub(r"<details>.*?</details>", "", page, flags=re.DOTALL)).text


def test_only_the_decision_and_the_critical_rules_in_doubt_are_not_folded(run: Run) -> None:
    page = (run.directory / "report.html").read_text()
    judged = run.read(Judged)
    assert "Rain, says the champion" in unfolded(page)
    assert "Rain, says the candidate" in unfolded(page)
    assert "reference" not in unfolded(page)
    assert judged.judgements
    for judgement in judged.judgements:
        assert judgement.reason in Page(page).text
        assert judgement.reason not in unfolded(page)
    doubtful = [
        judgement.model_copy(update={"outcome": Outcome.UNPROVEN, "critical": critical})
        for judgement, critical in zip(judged.judgements, [True, False], strict=False)
    ]
    records = [record if record.stage != "gate" else judged.model_copy(update={"judgements": tuple(doubtful)}) for record in run.records()]
    page = html.render(records)
    assert [judgement.reason in unfolded(page) for judgement in doubtful] == [judgement.critical for judgement in doubtful]


def test_html_escapes_answers_of_models(run: Run) -> None:
    text = (run.directory / "report.html").read_text()
    assert "<script>" not in text
    assert "<b>rain</b>" not in text
    assert "Rain, says the base & <script>alert(1)</script>" in Page(text).text


def test_the_data_is_shown_as_charts(run: Run) -> None:
    validated = run.read(Validated)
    assert html.charts(validated) == []
    train = SplitStatistics(rows=3000, sampled=4, prompt_words={1: 1, 8: 3}, answer_words={64: 8}, messages={2: 2, 11: 1, 40: 1})
    splits = {
        "train_sft": train,
        "test_sft": SplitStatistics(rows=300, sampled=2, prompt_words={8: 2}, answer_words={1024: 2}, messages={12: 1, 14: 1}),
        "test_gen": train.model_copy(update={"rows": 30}),
        "train_gen": train.model_copy(update={"rows": 0, "sampled": 0}),
    }
    charts = html.charts(validated.model_copy(update={"statistics": splits}))
    rows, prompts, answers, messages = charts
    assert (rows.labels, rows.values["rows"]) == (("train_sft", "test_sft", "test_gen"), ("3,000", "300", "30"))
    assert rows.series["rows"] == (1.0, 0.1, 0.01)
    assert prompts.labels == ("1", "8–15")
    assert prompts.values == {"train_sft": ("25.0%", "75.0%"), "test_sft": ("", "100.0%")}
    assert prompts.series == {"train_sft": (0.25, 0.75), "test_sft": (0.0, 1.0)}
    assert answers.labels == ("64–127", "1,024–2,047")
    assert messages.labels == ("2", "11", "12 or more")
    assert messages.values == {"train_sft": ("50.0%", "25.0%", "25.0%"), "test_sft": ("", "", "100.0%")}

    run.write(validated.model_copy(update={"statistics": splits}))
    page = Page(html.write(run).read_text())
    bars = [attributes for tag, attributes in page.tags if tag == "rect" and attributes.get("class") in ("first", "second")]
    assert len(bars) == 3 + 2 * (2 + 2 + 3)
    assert all(94 + float(str(bar["width"])) <= 310 for bar in bars), "there is room for the number beside it"
    assert "1,024–2,047" in page.text


def test_html_of_an_unfinished_run(tmp_path: Path) -> None:
    run = make_run(tmp_path)
    page = Page(html.write(run).read_text())
    assert "PROMOTE" not in page.text
    assert "target.nll" in page.text
    assert "svg" not in {tag for tag, _ in page.tags}


@pytest.mark.parametrize(
    ("direction", "margin", "good_left"), [("lower", 0.1, True), ("lower", -0.1, True), ("higher", 0.1, False), ("higher", -0.1, False)]
)
def test_plot_shows_the_good_side_of_the_margin(direction: str, margin: float, good_left: bool) -> None:
    plot = html.plot(judgement(direction=direction, margin=margin))
    assert plot is not None
    assert plot.low is not None
    assert plot.high is not None
    assert 0 < plot.low < plot.point < plot.high < html.WIDTH
    assert plot.point < plot.zero
    # Worse is to the right where lower is better: a tolerated worsening lies there.
    worse_is_right = direction == "lower"
    assert (plot.limit > plot.zero) is ((margin > 0) is worse_is_right)
    if good_left:
        assert (plot.good_start, plot.good_width) == (0.0, plot.limit)
    else:
        assert plot.good_start == plot.limit
        assert plot.good_start + plot.good_width == pytest.approx(html.WIDTH)


@pytest.mark.parametrize("changes", [{"difference": None}, {"margin": None}, {"difference": float("nan")}, {"difference": float("inf")}])
def test_there_is_no_plot_without_finite_numbers(changes: dict[str, Any]) -> None:
    assert html.plot(judgement(**changes)) is None


def test_plot_of_equal_models() -> None:
    plot = html.plot(judgement(difference=0.0, margin=0.0, interval=None))
    assert plot is not None
    assert plot.point == plot.zero == plot.limit == html.WIDTH / 2


def test_screen(run: Run) -> None:
    text = screen(run, mlflow_page="mlflow ui")
    assert text.startswith("PROMOTE: every critical rule is shown to hold\n")
    assert re.search(r"\n +candidate +champion +base\ntarget.nll +\d", text)
    assert "old (champion)   Rain, says the champion" in text
    assert "new (candidate)  Rain, says the candidate" in text
    assert "14.68 USD (4 hours at 3.67 USD)" in text
    assert "0.5 GPU hours" in text
    assert f"report   {run.directory / 'report.html'}" in text
    assert "MLflow   mlflow ui" in text
    assert str(run.directory) in text


def test_screen_before_the_gate(tmp_path: Path) -> None:
    text = screen(make_run(tmp_path))
    assert text.startswith("No verdict yet")
    assert "https://ml.azure.com/runs/train-1" in text


def test_screen_of_nothing(tmp_path: Path) -> None:
    assert "No verdict yet" in screen(Run(tmp_path))


def test_the_screen_gives_the_reasons_for_a_rejection(tmp_path: Path) -> None:
    run = make_run(tmp_path, {"candidate": make_rows("candidate", shift=0.4), "champion": make_rows("champion"), "base": make_rows("base")})
    judged = judge_run(run, *RULES)
    assert judged.verdict is Verdict.REJECT
    assert screen(run).startswith("REJECT: a critical rule is shown to fail")
    assert "target.nll: The candidate must be not worse than the champion, but is not: 2.4" in " ".join(screen(run).split())
