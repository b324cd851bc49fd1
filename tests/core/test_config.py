from __future__ import annotations

import re
from pathlib import Path

import pytest

from mlops.core.config import json_schema, load
from mlops.core.errors import ConfigError

FILE = """\
[defaults.data]
percent = 5.0

[defaults.training.parameters]
learning_rate = 5e-6
apply_lora = "true"

[targets.pr.data]
percent = 1.0

[targets.prod]
"""


def write_file(folder: Path, text: str = FILE) -> Path:
    path = folder / "pipeline.toml"
    path.write_text(text)
    return path


def test_a_target_holds_differences_only(tmp_path: Path) -> None:
    path = write_file(tmp_path)
    pr, prod = (load(path, target, environment={}) for target in ("pr", "prod"))
    assert (pr.data.percent, prod.data.percent) == (1.0, 5.0)
    assert pr.training.parameters == prod.training.parameters == {"learning_rate": 5e-6, "apply_lora": "true"}


def test_the_command_line_wins_and_its_parameters_are_listed(tmp_path: Path) -> None:
    overrides = ["training.parameters.max_steps=5", "data.max_rows.train_sft=2", "compute.name=gpu-small"]
    config = load(write_file(tmp_path), "pr", overrides, environment={})
    assert config.training.parameters["max_steps"] == 5
    assert config.data.max_rows == {"train_sft": 2}
    assert config.compute.name == "gpu-small"
    assert config.command_line_parameters == ("max_steps",)


def test_coordinates_come_from_the_environment(tmp_path: Path) -> None:
    config = load(write_file(tmp_path), "pr", environment={"AZUREML_WORKSPACE": "ws", "AZURE_SUBSCRIPTION_ID": "s"})
    assert (config.workspace.name, config.workspace.subscription_id, config.workspace.resource_group) == ("ws", "s", "")


@pytest.mark.parametrize(
    ("text", "line", "message"),
    [
        pytest.param(FILE.replace("percent = 1.0", "percnt = 1.0"), 9, "did you mean 'percent'", id="unknown key"),
        pytest.param(FILE.replace("percent = 1.0", "percent = 0"), 9, "greater than 0", id="out of range"),
        pytest.param(FILE.replace("[targets.pr.data]", "[targets.pr.dat]"), 8, "did you mean 'data'", id="unknown table"),
        pytest.param(FILE + "[targets.pr.gate.rules.one]\nmetric = 'a'\ndirection = 'down'\n", 14, "'lower' or 'higher'", id="enum"),
    ],
)
def test_a_mistake_is_reported_with_its_line(tmp_path: Path, text: str, line: int, message: str) -> None:
    path = write_file(tmp_path, text)
    with pytest.raises(ConfigError) as caught:
        load(path, "pr", environment={})
    assert f"{path}:{line}:" in str(caught.value)
    assert message in str(caught.value)


def test_an_unknown_target_names_the_nearest(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"did you mean 'prod'"):
        load(write_file(tmp_path), "prd", environment={})


def test_an_override_without_a_value_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"path\.to\.key=value"):
        load(write_file(tmp_path), "pr", ["percent"], environment={})


@pytest.mark.parametrize(
    ("override", "key", "message"),
    [
        ("data.percet=3", "data.percet", "unknown key (did you mean 'percent'?)"),
        ("foo.bar=1", "foo", "unknown key"),
        ("data.percent=0", "data.percent", "Input should be greater than 0"),
        ("data={percent=0}", "data.percent", "Input should be greater than 0"),
        ("data.percent=true", "data.percent", "it must be a number, not true or false"),
        ("compute.max_instances=true", "compute.max_instances", "it must be a number, not true or false"),
        ("data.percent.x=1", "data.percent", "it is a setting with a value, not a table"),
        ("gate.rules.one.margin=1", "gate.rules.one.metric", "Field required"),
        ("gate.rules.a b={metric='a', direction='lower'}", "gate.rules.a b", "String should match pattern"),
    ],
)
def test_a_mistake_in_an_override_names_the_override(tmp_path: Path, override: str, key: str, message: str) -> None:
    path = write_file(tmp_path, FILE + "[targets.pr.endpoint]\nephemeral = true\n")
    for overrides, environment, origin in ([override], {}, "--set"), ([], {"MLOPS_SET": f"\n{override}\n"}, "MLOPS_SET"):
        with pytest.raises(ConfigError) as caught:
            load(path, "pr", overrides, environment)
        assert str(caught.value).startswith(f"{origin} {override}: {key}: {message}")


def test_overrides_come_from_the_environment_too_and_the_command_line_wins(tmp_path: Path) -> None:
    environment = {"MLOPS_SET": "compute.size=one\n\n training.experiment=two "}
    config = load(write_file(tmp_path), "pr", ["compute.size=three"], environment)
    assert (config.compute.size, config.training.experiment) == ("three", "two")
    assert config.locate("compute.size") == "--set compute.size=three"
    assert config.locate("training.experiment") == "MLOPS_SET training.experiment=two"


@pytest.mark.parametrize(
    "setting",
    [
        "data.dataset=mine", "data={dataset='mine'}", "smoke.max_failures=9", "endpoint.expires_after_hours=1", "endpoint.name=by-hand",
        "endpoint.keep_previous=false", "tags.team=b", "model.name=Weak", "workspace.name=other", "registration.name=x",
        "compute.name=planted", "compute.identity=''", "compute={name='planted'}", "compute={size='a', name='planted'}", "compute=1",
        "compute={}", "endpoint={expires_after_hours=1}",
    ],
)  # fmt: skip
def test_a_workflow_may_only_set_what_needs_no_review(tmp_path: Path, setting: str) -> None:
    path = write_file(tmp_path)
    environment = {"MLOPS_SET": f"training.parameters.max_steps=3\n{setting}"}
    with pytest.raises(ConfigError, match=r"MLOPS_SET [\w.]+ is refused for target pr"):
        load(path, "pr", [], environment)
    # A person at a terminal could edit the file as well.
    assert load(path, "pr", ["model.name=mine"], {"MLOPS_SET": "training.parameters.max_steps=3"}).model.name == "mine"


RULE = "gate.rules.one={metric='target.rows', direction='higher', floor=1}"


@pytest.mark.parametrize(
    "override",
    [RULE, "gate={}", "evaluation.target_rows=1", "data.seed=7", "data.max_rows={test_sft=5}", "endpoint.ephemeral=true",
     "endpoint={ephemeral=true}", "workspace.trusted_creators=['x']", "workspace={trusted_creators=['x']}", "compute.trusted=true",
     "compute={size='a', trusted=true}", "promotion={margin=0.1}"],
)  # fmt: skip
def test_settings_that_decide_about_something_permanent_can_only_be_set_in_the_file(tmp_path: Path, override: str) -> None:
    """Whoever may dispatch a workflow can pass settings to it, and nobody reviews them."""
    path = write_file(tmp_path, FILE + "[targets.try.endpoint]\nephemeral = true\n")
    with pytest.raises(ConfigError, match=r"is refused for target prod: only .* may set the gate's rules"):
        load(path, "prod", [override], environment={})
    assert load(path, "try", [override], environment={}).target == "try"
    assert load(path, "prod", ["endpoint.name=other"], environment={}).endpoint.name == "other"


@pytest.mark.parametrize("table", ["gate", "evaluation", "data", "budget", "endpoint", "workspace", "promotion", "compute"])
def test_a_table_can_not_be_replaced_to_forget_what_the_file_says(tmp_path: Path, table: str) -> None:
    """A number in place of a table, and then a table in place of the number, would leave only defaults."""
    with pytest.raises(ConfigError, match=f"--set {table} is refused for target prod"):
        load(write_file(tmp_path), "prod", [f"{table}=1", f"{table}={{}}"], environment={})


def test_a_table_may_be_set_as_a_whole_if_each_of_its_settings_may(tmp_path: Path) -> None:
    environment = {"MLOPS_SET": "compute={size='a', max_instances=3}\nendpoint={instance_count=2}\ndata={max_rows={train_sft=9}}"}
    with pytest.raises(
        ConfigError, match=r"MLOPS_SET data.max_rows.train_sft is refused for target prod: without a review, a workflow may only"
    ):
        load(write_file(tmp_path), "prod", environment=environment)
    config = load(write_file(tmp_path), "prod", [environment["MLOPS_SET"].splitlines()[2]], {"MLOPS_SET": "endpoint={instance_count=2}"})
    assert (config.endpoint.instance_count, config.data.max_rows) == (2, {"train_sft": 9})


@pytest.mark.parametrize("setting", ['critical = "no"', 'enabled = "off"', 'margin = "5"', "min_rows = 2.0", "critical = 0"])
def test_a_rule_with_a_value_of_another_type_is_refused(tmp_path: Path, setting: str) -> None:
    """Read leniently, "no" would switch a rule off."""
    path = write_file(tmp_path, f"[targets.pr.gate.rules.one]\nmetric = 'target.nll'\ndirection = 'lower'\nceiling = 3\n{setting}\n")
    with pytest.raises(ConfigError, match=rf"pipeline\.toml:5: .*{setting.split()[0]}"):
        load(path, "pr", environment={})


def test_a_byte_order_mark_is_skipped(tmp_path: Path) -> None:
    path = write_file(tmp_path, "\ufeff[targets.pr]\ndata.percent = 500\n")
    with pytest.raises(ConfigError, match=r"pipeline\.toml:2: data\.percent"):
        load(path, "pr", environment={})


def test_spaces_around_an_override_do_not_matter(tmp_path: Path) -> None:
    assert load(write_file(tmp_path), "pr", [" model.name = mine "], environment={}).model.name == "mine"


def test_broken_toml_and_a_missing_file_are_config_errors(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"pipeline\.toml"):
        load(write_file(tmp_path, "[defaults"), "pr", environment={})
    with pytest.raises(ConfigError, match="can't be read"):
        load(tmp_path / "nowhere.toml", "pr", environment={})


def test_settings_are_frozen(tmp_path: Path) -> None:
    config = load(write_file(tmp_path), "pr", environment={})
    with pytest.raises(ValueError, match="frozen"):
        config.data.percent = 3  # type: ignore[misc]


def test_the_schema_has_every_table() -> None:
    properties = json_schema()["$defs"]["Target"]["properties"]
    assert {"data", "model", "compute", "training", "evaluation", "gate", "endpoint", "smoke"} <= set(properties)
    assert "target" not in properties


@pytest.mark.parametrize("key", ["target", "file", "overrides", "command_line_parameters"])
def test_the_file_can_not_set_what_the_loader_adds(tmp_path: Path, key: str) -> None:
    with pytest.raises(ConfigError, match="unknown key"):
        load(write_file(tmp_path, f"[defaults]\n{key} = 'x'\n[targets.pr]\n"), "pr", environment={})


# Gate rules -----------------------------------------------------------------------------------------------------------------------

NAMED = """\
[defaults.gate.rules.loss]
metric = "target.nll"
direction = "lower"
max_gain = 0.5
[defaults.gate.rules.drift]
metric = "retention.kl_base"
direction = "lower"
ceiling = 0.5
[targets.pr.gate.rules]
loss.min_rows = 80
drift.enabled = false
[targets.lax.gate.rules.loss]
max_gain = inf
[targets.prod.gate.rules.extra]
metric = "retention.nll"
direction = "lower"
"""


def test_a_target_changes_drops_and_adds_rules_by_name(tmp_path: Path) -> None:
    path = write_file(tmp_path, NAMED)
    pr, lax, prod = (load(path, target, environment={}).gate for target in ("pr", "lax", "prod"))
    assert {name: rule.min_rows for name, rule in pr.enabled_rules.items()} == {"loss": 80}
    assert pr.rules["loss"].max_gain == 0.5
    assert lax.rules["loss"].max_gain is None
    assert list(prod.enabled_rules) == ["loss", "drift", "extra"]


def test_a_rule_is_located_by_its_name(tmp_path: Path) -> None:
    path = write_file(tmp_path, NAMED)
    config = load(path, "pr", environment={})
    assert config.locate("gate.rules.loss") == f"{path}:10"
    assert config.locate("gate.rules.loss.max_gain") == f"{path}:4"
    assert load(path, "prod", environment={}).locate("gate.rules.drift") == f"{path}:5"


@pytest.mark.parametrize("section", ["defaults", "targets.pr"])
def test_a_list_of_rules_is_refused_and_the_new_form_is_shown(tmp_path: Path, section: str) -> None:
    old = f"[[{section}.gate.rules]]\nmetric = 'target.nll'\nbaseline = 'base'\n[[{section}.gate.rules]]\nmetric = 'retention.*.nll'\n"
    path = write_file(tmp_path, f"{old}[targets.pr.data]\n")
    with pytest.raises(ConfigError) as caught:
        load(path, "pr", environment={})
    assert str(caught.value).startswith(f"{path}:4: gate.rules is a list, but each rule is now a table with a name.\nFix: ")
    assert f"[{section}.gate.rules.target-nll-base-1], [{section}.gate.rules.retention-each-nll-2]" in str(caught.value)


def effective_rule(metric: str, baseline: str, margin: float, min_rows: int, **changes: object) -> dict[str, object]:
    return {
        "enabled": True,
        "metric": metric,
        "direction": "lower",
        "baseline": baseline,
        "margin": margin,
        "margin_kind": "relative",
        "test": "paired_bootstrap",
        "confidence": 0.95,
        "min_rows": min_rows,
        "critical": True,
        "max_gain": None,
        "max_share": None,
        "floor": None,
        "ceiling": None,
    } | changes


SUFFIXED = """[targets.test]
endpoint = { name = "chat", workspace_suffix = true }
evaluation.champion_endpoint = "live"
"""
WORKSPACE = {"AZURE_SUBSCRIPTION_ID": "s", "AZUREML_RESOURCE_GROUP": "g", "AZUREML_WORKSPACE": "w"}


def test_endpoint_names_depend_on_the_workspace_if_requested(tmp_path: Path) -> None:
    path = tmp_path / "pipeline.toml"
    path.write_text(SUFFIXED)
    names = [load(path, "test", environment=WORKSPACE | {"AZUREML_WORKSPACE": name}).endpoint.name for name in ("w", "W", "other")]
    assert names[0] == names[1] != names[2]
    assert re.fullmatch(r"chat-[0-9a-f]{6}", names[0])
    config = load(path, "test", environment=WORKSPACE)
    assert config.champion_endpoint == names[0].replace("chat", "live")
    assert load(path, "test", environment={}).endpoint.name == "chat", "nobody knows the workspace yet"
    path.write_text(SUFFIXED.replace('evaluation.champion_endpoint = "live"', ""))
    assert load(path, "test", environment=WORKSPACE).champion_endpoint == names[0]
    path.write_text(SUFFIXED.replace('"chat"', f'"{"c" * 26}"'))
    with pytest.raises(ConfigError, match=r"endpoint\.name"):
        load(path, "test", environment=WORKSPACE)


RETENTION = effective_rule("retention.nll", "base", 0.05, 100)
CUT_OFF = [
    effective_rule(name, "none", 0.0, 1, test="none", ceiling=share)
    for name, share in (("target.overlong", 0.1), ("retention.*.overlong", 0.0))
]
DRIFT = effective_rule("retention.kl_base", "none", 0.0, 1, test="none", ceiling=0.5)
DRIFT_OF_KINDS = effective_rule("retention.*.kl_base", "none", 0.0, 1, test="none", ceiling=0.8)
ANSWERS = {"looping": 0.05, "empty": 0.03, "truncated": 0.1, "other_language": 0.03, "refused": 0.05}


def answer_rules(rows: int, **fields: object) -> list[dict[str, object]]:
    """Return the rules about generated answers, for so many of them."""
    changes: dict[str, object] = {"margin_kind": "absolute", **fields}
    return [
        effective_rule("target.rouge_l", "champion", 0.03, rows, direction="higher", **changes),
        *(effective_rule(f"target.{name}", "champion", margin, rows, test="tango", **changes) for name, margin in ANSWERS.items()),
    ]


def task_rule(metric: str, baseline: str, margin: float, rows: int, **fields: object) -> dict[str, object]:
    """Return a rule about answers that code checks."""
    return effective_rule(metric, baseline, margin, rows, test="tango", direction="higher", margin_kind="absolute", **fields)


def typical_and_tail(rows: int, tail_rows: int, share: float, **fields: object) -> list[dict[str, object]]:
    """Return the rules about the typical row, and about rows that got much worse."""
    return [
        effective_rule("target.nll", "champion", 0.01, rows, test="wilcoxon", **fields),
        effective_rule("target.nll", "champion", 1.0, tail_rows, test="tail", max_share=share, margin_kind="absolute", **fields),
    ]


PROJECT_RULES = {
    "prod": [
        effective_rule("target.nll", "champion", 0.01, 200, max_gain=0.25),
        effective_rule("target.nll", "anchor", 0.02, 200),
        *typical_and_tail(200, 400, 0.01),
        effective_rule("target.nll", "base", -0.005, 200),
        RETENTION,
        *CUT_OFF,
        effective_rule("retention.*.nll", "base", 0.15, 150, margin_kind="absolute"),
        DRIFT,
        DRIFT_OF_KINDS,
        *answer_rules(100),
        task_rule("retention.passed", "base", 0.05, 500),
        task_rule("retention.*.passed", "base", 0.15, 100),
        task_rule("retention.refusal.passed", "champion", 0.1, 100),
    ],
    "pr": [
        effective_rule("target.nll", "champion", 0.01, 200, critical=False),
        *typical_and_tail(200, 400, 0.01, critical=False),
        effective_rule("target.nll", "base", 0.01, 200, max_gain=0.25),
        RETENTION,
        *CUT_OFF,
        effective_rule("retention.*.nll", "base", 0.15, 150, margin_kind="absolute"),
        DRIFT,
        DRIFT_OF_KINDS,
        *answer_rules(100),
        task_rule("retention.passed", "base", 0.05, 500),
        task_rule("retention.*.passed", "base", 0.15, 100),
        task_rule("retention.refusal.passed", "champion", 0.1, 100),
    ],
    "local": [
        effective_rule("target.nll", "champion", 0.01, 80, max_gain=0.25),
        effective_rule("target.nll", "anchor", 0.02, 80),
        *typical_and_tail(80, 80, 0.1),
        effective_rule("target.nll", "base", -0.05, 80),
        RETENTION,
        *CUT_OFF,
        effective_rule("retention.*.nll", "base", 0.25, 16, margin_kind="absolute"),
        DRIFT,
        DRIFT_OF_KINDS,
        *answer_rules(20, critical=False),
        task_rule("retention.passed", "base", 0.05, 16, critical=False),
        task_rule("retention.refusal.passed", "champion", 0.1, 2, critical=False),
    ],
}


@pytest.mark.parametrize("target", PROJECT_RULES)
def test_the_projects_own_rules_of_each_target(target: str) -> None:
    gate = load(Path(__file__).parents[2] / "pipeline.toml", target, environment={}).gate
    assert [rule.model_dump() for rule in gate.enabled_rules.values()] == PROJECT_RULES[target]
