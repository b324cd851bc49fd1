"""Settings that Azure would refuse, or that are ambiguous, are refused at their place before anything is paid for."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from mlops.core.config import load, split_overrides
from mlops.core.errors import ConfigError
from mlops.core.settings import Config

Make = Callable[..., Config]

BAD = [
    ("registration.name", "my model", "'my model' is not a valid model name"),
    ("registration.name", "team/model", "model name"),
    ("registration.name", "", "model name"),
    ("registration.name", "-m", "model name"),
    ("registration.name", "modèle", "model name"),
    ("registration.name", "m" * 256, "model name"),
    ("training.experiment", "my experiment", "experiment name"),
    ("training.experiment", "a.b", "experiment name"),
    ("training.experiment", "", "experiment name"),
    ("compute.name", "g", "compute name"),
    ("compute.name", "gpu_cluster", "compute name"),
    ("compute.name", "1gpu", "compute name"),
    ("compute.name", "c" * 25, "compute name"),
    ("endpoint.name", "ab", "endpoint name"),
    ("endpoint.name", "my_endpoint", "endpoint name"),
    ("endpoint.name", "endpoint-", "endpoint name"),
    ("endpoint.name", "e" * 33, "endpoint name"),
    ("evaluation.champion_endpoint", "a b", "endpoint name"),
    ("endpoint.deployment_prefix", "_x", "prefix of deployment names"),
    ("endpoint.deployment_prefix", "", "prefix of deployment names"),
    ("endpoint.deployment_prefix", "1d", "prefix of deployment names"),
    ("endpoint.deployment_prefix", "d" * 22, "prefix of deployment names"),
    ("tags.a?b", "x", "not a valid name for a tag"),
    ("tags.mlops.target", "x", "tags.mlops"),
    ("tags.long", "x" * 257, "257 characters"),
    ("data.dataset", "", "it is empty"),
    ("data.dataset", "  ", "it is empty"),
    ("data.max_rows", "{train = 5}", "train"),
    ("data.max_rows.train_sft", "0", "greater than or equal to 1"),
    ("data.percent", "nan", "finite"),
    ("data.percent", "0", "greater than 0"),
    ("data.percent", "101", "less than or equal to 100"),
    ("data.format", "alpaca", "auto"),
    ("data.on_bad_row", "skip", "stop"),
    ("data.columns", "{answer = 'a'}", "answer"),
    ("compute.price_per_hour_usd", "inf", "finite"),
    ("compute.price_per_hour_usd", "nan", "finite"),
    ("compute.price_per_hour_usd", "-1", "greater than or equal to 0"),
    ("endpoint.price_per_hour_usd", "inf", "finite"),
    ("endpoint.expires_after_hours", "inf", "finite"),
    ("endpoint.deploy_timeout_minutes", "nan", "finite"),
    ("training.expected_hours", "inf", "finite"),
    ("training.timeout_hours", "inf", "finite"),
    ("training.detach_after_minutes", "nan", "finite"),
    ("smoke.max_latency_ms", "inf", "finite"),
]
EPHEMERAL = "[targets.test.endpoint]\nephemeral = true\n"


@pytest.mark.parametrize(("key", "value", "message"), BAD)
def test_a_value_that_would_fail_later_is_refused_at_its_place(key: str, value: str, message: str, settings: Make) -> None:
    with pytest.raises(ConfigError) as option:
        settings(EPHEMERAL, f"{key}={value}")
    assert message in str(option.value)
    assert str(option.value).startswith(f"--set {key}=")
    with pytest.raises(ConfigError) as variable:
        settings(EPHEMERAL, environment={"MLOPS_SET": f"{key}={value}"})
    assert message in str(variable.value)
    assert str(variable.value).startswith(f"MLOPS_SET {key}=")


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("registration.name", "my_model-1.0"), ("registration.name", "7b"), ("registration.name", "m" * 255),
        ("training.experiment", "a_b-c"),
        ("compute.name", "gpu-cluster-big"),
        ("endpoint.name", "abc"), ("endpoint.name", "e" * 32), ("evaluation.champion_endpoint", ""), ("endpoint.deployment_prefix", "d"),
        ("endpoint.deployment_prefix", "d" * 21), ("tags.team", "search & ads"), ("data.max_rows.train_sft", "1"), ("data.percent", "100"),
        ("compute.price_per_hour_usd", "0"), ("data.dataset", "my chats.jsonl"),
    ],
)  # fmt: skip
def test_valid_values_are_accepted(key: str, value: str, settings: Make) -> None:
    assert settings(EPHEMERAL, f"{key}={value}")


def test_a_wrong_name_in_the_file_is_reported_with_its_line(settings: Make) -> None:
    with pytest.raises(ConfigError, match=r"pipeline\.toml:3: registration\.name: 'a b' is not a valid model name"):
        settings("[targets.test.registration]\nname = 'a b'\n")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("registration.name=a, endpoint.expires_after_hours=1", ["registration.name=a", "endpoint.expires_after_hours=1"]),
        ("registration.name=a; endpoint.ephemeral=true", ["registration.name=a", "endpoint.ephemeral=true"]),
        ("registration.name=a endpoint.expires_after_hours=1", ["registration.name=a", "endpoint.expires_after_hours=1"]),
        ("data.percent=5,data.seed=1,tags.a=b", ["data.percent=5", "data.seed=1", "tags.a=b"]),
        ("registration.name='a, data.seed=1'", ["registration.name='a, data.seed=1'"]),
        ("tags.note=a, b and c", ["tags.note=a, b and c"]),
        ("data.max_rows={train_sft=1, test_sft=2}", ["data.max_rows={train_sft=1, test_sft=2}"]),
        ("data.max_rows={train_sft=1, test_sft=2}, data.seed=3", ["data.max_rows={train_sft=1, test_sft=2}", "data.seed=3"]),
        ("", []),
    ],
)
def test_several_settings_on_one_line_are_several_settings(text: str, expected: list[str], settings: Make) -> None:
    assert split_overrides(text) == expected


def test_github_s_form_with_one_line_sets_everything(settings: Make) -> None:
    config = settings(
        "[targets.test.endpoint]\nephemeral = true\n",
        environment={"MLOPS_SET": "registration.name=a, endpoint.expires_after_hours=1\ndata.seed=7"},
    )
    assert (config.registration.name, config.endpoint.expires_after_hours, config.data.seed) == ("a", 1, 7)


def test_a_workspace_in_the_file_that_contradicts_the_environment_is_refused(settings: Make) -> None:
    toml = "[targets.test.workspace]\nname = 'mine'\nsubscription_id = 'ABC'\n"
    with pytest.raises(ConfigError, match=r"pipeline\.toml:3: workspace\.name is 'mine', but .*AZUREML_WORKSPACE is 'theirs'"):
        settings(toml, environment={"AZUREML_WORKSPACE": "theirs"})
    same = settings(toml, environment={"AZUREML_WORKSPACE": "mine", "AZURE_SUBSCRIPTION_ID": "abc", "AZUREML_RESOURCE_GROUP": "group"})
    assert (same.workspace.name, same.workspace.resource_group) == ("mine", "group")
    assert settings(toml, "workspace.name=other", environment={}).workspace.name == "other", "an option is not a contradiction"


def test_defaults_of_the_file_are_checked_too(tmp_path_factory: pytest.TempPathFactory) -> None:
    path = tmp_path_factory.mktemp("config") / "pipeline.toml"
    path.write_text("[defaults.workspace]\nresource_group = 'mine'\n[targets.test]\n")
    with pytest.raises(ConfigError, match=r"pipeline\.toml:2: workspace\.resource_group"):
        load(path, "test", environment={"AZUREML_RESOURCE_GROUP": "theirs"})
