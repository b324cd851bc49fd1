from __future__ import annotations

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


def written(folder: Path, text: str = FILE) -> Path:
    path = folder / "pipeline.toml"
    path.write_text(text)
    return path


def test_a_target_holds_differences_only(tmp_path: Path) -> None:
    path = written(tmp_path)
    pr, prod = (load(path, target, environment={}) for target in ("pr", "prod"))
    assert (pr.data.percent, prod.data.percent) == (1.0, 5.0)
    assert pr.training.parameters == prod.training.parameters == {"learning_rate": 5e-6, "apply_lora": "true"}


def test_the_command_line_wins_and_is_remembered(tmp_path: Path) -> None:
    overrides = ["training.parameters.max_steps=5", "data.percent=2", "compute.name=gpu-small"]
    config = load(written(tmp_path), "pr", overrides, environment={})
    assert config.training.parameters["max_steps"] == 5
    assert config.data.percent == 2
    assert config.compute.name == "gpu-small"
    assert config.command_line_parameters == ("max_steps",)


def test_coordinates_come_from_the_environment(tmp_path: Path) -> None:
    config = load(written(tmp_path), "pr", environment={"AZUREML_WORKSPACE": "ws", "AZURE_SUBSCRIPTION_ID": "s"})
    assert (config.workspace.name, config.workspace.subscription_id, config.workspace.resource_group) == ("ws", "s", "")


@pytest.mark.parametrize(
    ("text", "line", "says"),
    [
        pytest.param(FILE.replace("percent = 1.0", "percnt = 1.0"), 9, "did you mean 'percent'", id="unknown key"),
        pytest.param(FILE.replace("percent = 1.0", "percent = 0"), 9, "greater than 0", id="out of range"),
        pytest.param(FILE.replace("[targets.pr.data]", "[targets.pr.dat]"), 8, "did you mean 'data'", id="unknown table"),
        pytest.param(FILE + "[[targets.pr.gate.rules]]\nmetric = 'a'\ndirection = 'down'\n", 14, "'lower' or 'higher'", id="enum"),
    ],
)
def test_a_mistake_is_told_with_file_line_and_rule(tmp_path: Path, text: str, line: int, says: str) -> None:
    path = written(tmp_path, text)
    with pytest.raises(ConfigError) as caught:
        load(path, "pr", environment={})
    assert f"{path}:{line}:" in str(caught.value)
    assert says in str(caught.value)


def test_an_unknown_target_names_the_nearest(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"did you mean 'prod'"):
        load(written(tmp_path), "prd", environment={})


def test_a_mistake_in_an_override_is_told(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"path\.to\.key=value"):
        load(written(tmp_path), "pr", ["percent"], environment={})
    with pytest.raises(ConfigError, match="did you mean 'percent'"):
        load(written(tmp_path), "pr", ["data.percet=3"], environment={})


RULES = "gate.rules=[{metric='target.rows', direction='higher', floor=1}]"


@pytest.mark.parametrize("override", [RULES, "gate={}", "evaluation.target_rows=1", "endpoint.ephemeral=true", "endpoint={ephemeral=true}"])
def test_what_decides_about_something_that_stays_is_for_the_file_alone(tmp_path: Path, override: str) -> None:
    """Whoever may dispatch a workflow gives it settings; nobody reviews them."""
    path = written(tmp_path, FILE + "[targets.try.endpoint]\nephemeral = true\n")
    with pytest.raises(ConfigError, match="is refused for target prod: the gate's rules"):
        load(path, "prod", [override], environment={})
    assert load(path, "try", [override], environment={}).target == "try"
    assert load(path, "prod", ["endpoint.name=other"], environment={}).endpoint.name == "other"


def test_broken_toml_and_a_missing_file_are_config_errors(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"pipeline\.toml"):
        load(written(tmp_path, "[defaults"), "pr", environment={})
    with pytest.raises(ConfigError, match="can't be read"):
        load(tmp_path / "nowhere.toml", "pr", environment={})


def test_settings_are_frozen(tmp_path: Path) -> None:
    config = load(written(tmp_path), "pr", environment={})
    with pytest.raises(ValueError, match="frozen"):
        config.data.percent = 3  # type: ignore[misc]


def test_the_schema_knows_every_table() -> None:
    properties = json_schema()["$defs"]["Target"]["properties"]
    assert {"data", "model", "compute", "training", "evaluation", "gate", "endpoint", "smoke"} <= set(properties)
    assert "target" not in properties


@pytest.mark.parametrize("key", ["target", "file", "overridden", "command_line_parameters"])
def test_what_the_loader_adds_can_not_be_said_in_the_file(tmp_path: Path, key: str) -> None:
    with pytest.raises(ConfigError, match="unknown key"):
        load(written(tmp_path, f"[defaults]\n{key} = 'x'\n[targets.pr]\n"), "pr", environment={})
