"""Private names of the Azure SDKs that the pipeline uses. A release that removes one fails here; its use in mlops explains the reason."""

from __future__ import annotations

import ast
import importlib
import inspect
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest
from packaging.requirements import Requirement

ROOT = Path(__file__).parents[2]
SDKS = {"azure.ai.ml": "azure-ai-ml", "azureml.mlflow": "azureml-mlflow"}
"""Package → the distribution that contains it."""
PRIVATE_NAMES = {
    "azure.ai.ml._utils._azureml_polling.AzureMLPolling": ["update_status"],
    "azureml.mlflow._common._cloud.cloud.KNOWN_CLOUDS": [],
    "azureml.mlflow._internal.service_context_loader._AzureMLServiceContextLoader": ["add_service_context"],
    "azureml.mlflow._internal.utils.ServiceContext": [],
}
"""Private name → its attributes that are used."""


def private_imports() -> Iterator[str]:
    """Yield every private name of an SDK that a file of mlops imports."""
    for path in (ROOT / "mlops").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ImportFrom) and node.module:
                names = [f"{node.module}.{alias.name}" for alias in node.names]
            elif isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            else:
                continue
            for name in names:
                if name.startswith(("azure.", "azureml.")) and any(part.startswith("_") for part in name.split(".")):
                    yield name


def resolve(name: str) -> object:
    module, _, attribute = name.rpartition(".")
    return getattr(importlib.import_module(module), attribute)


def test_every_private_name_is_listed() -> None:
    assert set(private_imports()) == set(PRIVATE_NAMES)


@pytest.mark.parametrize("name", PRIVATE_NAMES)
def test_a_private_name_exists(name: str) -> None:
    value = resolve(name)
    assert [attribute for attribute in PRIVATE_NAMES[name] if not hasattr(value, attribute)] == []


def test_the_polling_method_can_be_replaced() -> None:
    """Session replaces the method that prints dots by the method of the base class."""
    from azure.mgmt.core.polling.arm_polling import ARMPolling

    polling = resolve("azure.ai.ml._utils._azureml_polling.AzureMLPolling")
    assert isinstance(polling, type)
    assert issubclass(polling, ARMPolling)
    assert list(inspect.signature(ARMPolling.update_status).parameters) == ["self"]


def test_a_service_context_takes_our_credential() -> None:
    service_context = resolve("azureml.mlflow._internal.utils.ServiceContext")
    assert callable(service_context)
    parameters = set(inspect.signature(service_context).parameters)
    assert {"host_url", "subscription_id", "resource_group_name", "workspace_name", "auth", "cloud"} <= parameters
    known_clouds = resolve("azureml.mlflow._common._cloud.cloud.KNOWN_CLOUDS")
    assert isinstance(known_clouds, dict)
    assert "AzureCloud" in known_clouds


@pytest.mark.parametrize("distribution", sorted(SDKS.values()))
def test_a_distribution_with_private_names_has_an_upper_bound(distribution: str) -> None:
    dependencies = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["dependencies"]
    [requirement] = [each for each in map(Requirement, dependencies) if each.name == distribution]
    assert any(specifier.operator in ("<", "<=", "==", "~=") for specifier in requirement.specifier), requirement


def test_every_private_name_belongs_to_a_bounded_distribution() -> None:
    assert all(name.startswith(tuple(f"{package}." for package in SDKS)) for name in PRIVATE_NAMES)
