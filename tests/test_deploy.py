from __future__ import annotations

import re

from mlops.core.settings import EndpointConfig
from mlops.deploy import deployment_name

MODEL = "/subscriptions/s/resourceGroups/g/providers/Microsoft.MachineLearningServices/workspaces/w/models/m/versions/1"


def test_the_same_model_with_the_same_settings_gets_the_same_name() -> None:
    assert deployment_name(EndpointConfig(), MODEL, "1") == deployment_name(EndpointConfig(), MODEL.upper(), "1")


def test_another_model_or_size_gets_another_name() -> None:
    names = {
        deployment_name(EndpointConfig(), MODEL, "1"),
        deployment_name(EndpointConfig(), MODEL, "2"),
        deployment_name(EndpointConfig(), MODEL + "2", "1"),
        deployment_name(EndpointConfig(instance_type="Standard_DS3_v2"), MODEL, "1"),
        deployment_name(EndpointConfig(instance_count=2), MODEL, "1"),
    }
    assert len(names) == 5


def test_the_name_is_one_that_azure_accepts() -> None:
    # azure-ai-ml, constants/_endpoint.py: 3 to 32 characters, a letter first, no dash last.
    for prefix in ("d", "a-long-prefix-of-ours"):
        name = deployment_name(EndpointConfig(deployment_prefix=prefix), MODEL, "1")
        assert re.fullmatch(r"[a-zA-Z]([-a-zA-Z0-9]*[a-zA-Z0-9])?", name)
        assert 3 <= len(name) <= 32
