from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from mlops.core.config import load
from mlops.core.settings import Config
from mlops.report.rule_changes import compare, render

FILE = """
[defaults.gate.rules.target]
metric = "target.nll"
direction = "lower"
baseline = "champion"
margin = 0.01
test = "paired_bootstrap"
min_rows = 200
max_gain = 0.5
[defaults.gate.rules.drift]
metric = "retention.kl_base"
direction = "lower"
ceiling = 0.5
[defaults.evaluation]
target_rows = 500
[targets.prod]
[targets.pr]
gate.rules.target = { margin = 0.02 }
"""


def configs(folder: Path, text: str) -> dict[str, Config]:
    path = folder / "pipeline.toml"
    path.write_text(text)
    return {target: load(path, target, environment={}) for target in ("prod", "pr")}


def changes(folder: Path, old: str, new: str) -> list[tuple[str, str, Any, Any, bool]]:
    assert old in FILE
    found = compare(configs(folder, FILE), configs(folder, FILE.replace(old, new)))
    return [(change.target, change.key, change.before, change.after, change.is_weaker) for change in found]


@pytest.mark.parametrize(
    ("old", "new", "key", "weaker"),
    [
        ("margin = 0.01", "margin = 0.03", "gate.rules.target.margin", True),
        ("margin = 0.01", "margin = 0.0", "gate.rules.target.margin", False),
        ("min_rows = 200", "min_rows = 20", "gate.rules.target.min_rows", True),
        ("min_rows = 200", "critical = false\nmin_rows = 200", "gate.rules.target.critical", True),
        ("min_rows = 200", "enabled = false\nmin_rows = 200", "gate.rules.target.enabled", True),
        ("min_rows = 200", "confidence = 0.8\nmin_rows = 200", "gate.rules.target.confidence", True),
        ("max_gain = 0.5", "max_gain = inf", "gate.rules.target.max_gain", True),
        ("ceiling = 0.5", "ceiling = 0.9", "gate.rules.drift.ceiling", True),
        ("ceiling = 0.5", "ceiling = 0.4", "gate.rules.drift.ceiling", False),
        ("target_rows = 500", "target_rows = 50", "evaluation.target_rows", True),
        ("target_rows = 500", "retention_rows = 50\ntarget_rows = 500", "evaluation.retention_rows", True),
        ("[targets.prod]", "[targets.prod.data]\nseed = 7", "data.seed", True),
        ("[targets.prod]", "[targets.prod.data]\npercent = 1.0", "data.percent", True),
        ("[targets.prod]", "[targets.prod.gate]\ncorrect_retries = false", "gate.correct_retries", True),
        ("[targets.prod]", "[targets.prod.gate]\noverride_environment = 'dev'", "gate.override_environment", True),
        ("[targets.prod]", "[targets.prod.endpoint]\nephemeral = true", "endpoint.ephemeral", True),
        ("target_rows = 500", "target_rows = 500\nmax_new_tokens = 8", "evaluation.max_new_tokens", True),
        ("target_rows = 500", "target_rows = 500\nmax_new_tokens = 512", "evaluation.max_new_tokens", False),
        ("target_rows = 500", "target_rows = 500\nmax_tokens = 128", "evaluation.max_tokens", True),
        ("target_rows = 500", "target_rows = 500\njudge.min_agreement = 0.6", "evaluation.judge.min_agreement", True),
        ("target_rows = 500", "target_rows = 500\nchampion_endpoint = 'other'", "evaluation.champion_endpoint", True),
        ('baseline = "champion"', 'baseline = "base"', "gate.rules.target.baseline", True),
        ('test = "paired_bootstrap"', 'test = "none"', "gate.rules.target.test", True),
        ('test = "paired_bootstrap"', 'test = "wilcoxon"', "gate.rules.target.test", True),
        ("margin = 0.01", 'margin = 0.01\nmargin_kind = "absolute"', "gate.rules.target.margin_kind", True),
        ('metric = "target.nll"', 'metric = "target.tokens"', "gate.rules.target.metric", True),
        ('direction = "lower"', 'direction = "higher"', "gate.rules.target.direction", True),
        ("ceiling = 0.5", "ceiling = 0.5\nfloor = 0.0", "gate.rules.drift.floor", False),
        ("ceiling = 0.5", 'ceiling = 0.5\nbaseline = "base"', "gate.rules.drift.baseline", False),
        ("ceiling = 0.5", 'test = "tail"\nmax_share = 0.1', "gate.rules.drift.ceiling", True),
    ],
)
def test_a_change_of_a_setting_that_decides_is_listed(old: str, new: str, key: str, weaker: bool, tmp_path: Path) -> None:
    found = changes(tmp_path, old, new)
    assert ("prod", key) in [change[:2] for change in found]
    assert {change[4] for change in found if change[1] == key} == {weaker}


def test_a_rule_that_is_removed_is_a_weakening_and_a_new_one_is_not(tmp_path: Path) -> None:
    rule = FILE[FILE.index("[defaults.gate.rules.drift]") : FILE.index("[defaults.evaluation]")]
    before, after = configs(tmp_path, FILE), configs(tmp_path, FILE.replace(rule, ""))
    assert any(change.is_weaker for change in compare(before, after))
    assert not any(change.is_weaker for change in compare(after, before))
    assert compare(after, before)


def test_a_target_keeps_its_own_value(tmp_path: Path) -> None:
    assert {change[0] for change in changes(tmp_path, "margin = 0.01", "margin = 0.03")} == {"prod"}


def test_the_weakest_come_first_and_the_title_says_so(tmp_path: Path) -> None:
    before, after = configs(tmp_path, FILE), configs(tmp_path, FILE.replace("ceiling = 0.5", "ceiling = 0.9").replace("500", "600"))
    text = render(compare(before, after), "main")
    assert text.startswith("> [!WARNING]\n> This pull request **weakens the rules that judge it** (2 of 4 changes against `main`).")
    assert "| prod | `gate.rules.drift.ceiling` | 0.5 | 0.9 | ⚠️ weaker |" in text
    assert text.index("ceiling") < text.index("target_rows")
    unknown = configs(tmp_path, FILE.replace("[targets.prod]", "[targets.prod.data]\nseed = 7"))
    text = render(compare(before, unknown), "main")
    assert "> This pull request **may weaken the rules that judge it** (1 of 1 changes against `main`)." in text
    assert "| ⚠️ may be weaker |" in text
    stronger = configs(tmp_path, FILE.replace("500", "600"))
    assert "This pull request changes settings that affect its own verdict; all become stricter (2" in render(
        compare(before, stronger), "main"
    )
    assert not any(change.is_weaker for change in compare({"prod": before["prod"]}, before)), "a further target judges only itself"
    assert all(change.is_weaker for change in compare(before, {"prod": before["prod"]}) if change.key.startswith("gate.rules."))
    assert render(compare(before, before), "main") == ""
