"""What decides whether an earlier result is reused: every setting that is not excluded by name with a reason."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import pytest
from pydantic import BaseModel, create_model

from mlops import deploy, prepare, register, smoke_test, train
from mlops.core import evaluation_version
from mlops.core.records import Trained, Validated
from mlops.core.settings import Config, JudgeConfig, Tables
from mlops.dataset.sources import find_source

NEVER_COUNTED = {
    "workspace": "results are looked up in the workspace that it names",
    "gate": "the gate judges anew each time",
    "promotion": "promote looks for the review each time, also when there is nothing to do",
    "budget": "validate compares it with the cost each time; it changes no result",
    "tags": "labels",
}
"""Sections that no key has, and why."""

VALIDATED: Validated = Validated.model_construct(**dict[str, Any](compute_size="Standard_NC24ads_A100_v4"))
TRAINED: Trained = Trained.model_construct(**dict[str, Any](job="job", identity="1", run_key="key"))

KEYS: dict[str, tuple[Callable[[Config], str], Mapping[str, str], tuple[str, ...]]] = {
    "prepare": (lambda config: prepare.settings_key(config.data, find_source(Config(target="t").data)), prepare.EXCLUDED, ("data",)),
    "train": (lambda config: train.run_key(config, "c", "b", (), "s", "d"), train.EXCLUDED, ("model", "compute", "training")),
    "evaluate": (
        lambda config: evaluation_version.evaluation_version(config, VALIDATED),
        evaluation_version.EXCLUDED,
        ("evaluation", "compute"),
    ),
    "register": (lambda config: register.registration_key(config, TRAINED), register.EXCLUDED, ("registration",)),
    "deploy": (lambda config: deploy.deployment_name(config.endpoint, "m", "1").rsplit("-")[-1], deploy.EXCLUDED, ("endpoint",)),
    "smoke-test": (smoke_test.settings_key, smoke_test.EXCLUDED, ("smoke",)),
}
"""Stage → its key, the settings that it excludes, and the sections that it is made from."""

OTHER_VALUES: dict[str, Any] = {
    "precision": "float32",
    "instance_type": "Standard_DS3_v2",
    "max_rows": {"train_sft": 1},
    "columns": {"prompt": "x"},
    "judge": JudgeConfig(url="https://judge.example"),
}
"""Settings whose other value can't be derived from the default."""


def changed(section: BaseModel, setting: str) -> BaseModel:
    """Return a copy of a section in which one setting has another value."""
    value = getattr(section, setting)
    if setting in OTHER_VALUES:
        other = OTHER_VALUES[setting]
    elif isinstance(value, bool):
        other = not value
    elif isinstance(value, int | float):
        other = value + 1
    else:
        other = {"x": 1} if isinstance(value, dict) else 7 if value is None else f"{value}x"
    return section.model_copy(update={setting: other})


def with_section(name: str, section: BaseModel) -> Config:
    return Config(target="t").model_copy(update={name: section})


def settings() -> Iterator[tuple[str, str, str]]:
    for stage, (_, _, sections) in KEYS.items():
        for section in sections:
            for setting in type(getattr(Config(target="t"), section)).model_fields:
                yield stage, section, setting


@pytest.mark.parametrize(("stage", "section"), [(stage, section) for stage, (_, _, sections) in KEYS.items() for section in sections])
def test_an_unforeseen_setting_changes_the_key(stage: str, section: str) -> None:
    key = KEYS[stage][0]
    current = getattr(Config(target="t"), section)
    extended = create_model("Extended", __base__=type(current), setting_of_tomorrow=(int, 0))
    sections = [extended.model_validate({**current.model_dump(), "setting_of_tomorrow": value}) for value in (0, 1)]
    keys = {key(with_section(section, extension)) for extension in sections}
    assert len(keys | {key(Config(target="t"))}) == 3


@pytest.mark.parametrize(("stage", "section", "setting"), list(settings()))
def test_a_setting_changes_the_key_exactly_if_it_is_not_excluded(stage: str, section: str, setting: str) -> None:
    key, excluded, _ = KEYS[stage]
    config = with_section(section, changed(getattr(Config(target="t"), section), setting))
    assert (key(config) == key(Config(target="t"))) is (f"{section}.{setting}" in excluded)


@pytest.mark.parametrize("stage", KEYS)
def test_every_exclusion_names_a_setting_and_gives_a_reason(stage: str) -> None:
    _, excluded, sections = KEYS[stage]
    known = {f"{section}.{setting}" for section in sections for setting in type(getattr(Config(target="t"), section)).model_fields}
    assert excluded.keys() <= known
    assert all(excluded.values())


def test_every_section_of_the_configuration_is_in_a_key_or_left_out_on_purpose() -> None:
    counted = {section for _, _, sections in KEYS.values() for section in sections}
    assert counted.isdisjoint(NEVER_COUNTED)
    assert counted | NEVER_COUNTED.keys() == Tables.model_fields.keys()


def test_a_version_has_the_verdict_of_one_target() -> None:
    """Two targets that train the same judge it by rules of their own."""
    assert len({register.registration_key(Config(target=target), TRAINED) for target in ("prod", "pr")}) == 2
