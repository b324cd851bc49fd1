"""Reads pipeline.toml and its overrides into the models of :mod:`mlops.core.settings`.

Order of precedence, later wins: the models' own defaults, ``[defaults]``, ``[targets.NAME]`` (differences only), workspace coordinates
from the environment (:data:`mlops.core.settings.COORDINATES`), the lines of ``MLOPS_SET``, ``--set path.to.key=value`` on the command
line. Tables merge, lists are replaced. An unknown key is an error that suggests the closest existing one.
"""

from __future__ import annotations

import hashlib
import os
import re
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import Field, ValidationError

from mlops.core import config_source
from mlops.core.console import did_you_mean
from mlops.core.errors import ConfigError
from mlops.core.settings import COORDINATES, Config, Table, Tables

__all__ = [
    "environment_overrides",
    "ephemeral_targets",
    "json_schema",
    "load",
    "parse_override",
    "split_overrides",
    "targets",
]

_NEXT_SETTING = re.compile(rf"(?:\s*[,;]\s*|\s+)(?=(?:{'|'.join(Tables.model_fields)})\.[\w.\"'-]+\s*=)")
"""The separator of two settings on one line."""

DECIDING = (
    "gate.", "evaluation.", "data.", "budget.", "endpoint.ephemeral", "workspace.trusted_creators", "compute.trusted", "promotion.",
)  # fmt: skip
"""Settings that decide the gate's verdict, whom it binds and whom it trusts: its rules, the scores, and the rows that both suites and
overlaps come from. For a target that is not ephemeral only the file may set them."""
NOT_DECIDING = ("data.max_rows.train_sft", "data.max_rows.train_gen", "data.max_rows.test_gen")
"""Exceptions, because no suite contains these splits."""
DISPATCHABLE = (
    "training.", "compute.size", "compute.min_instances", "compute.max_instances", "compute.allow_low_priority", "compute.idle_seconds",
    "compute.price_per_hour_usd", "endpoint.instance_type", "endpoint.instance_count", "endpoint.probe_initial_delay_s",
    "endpoint.request_timeout_ms", "endpoint.deploy_timeout_minutes",
)  # fmt: skip
"""The settings that MLOPS_SET may change for a target that is not ephemeral.

Whoever may dispatch a workflow can set it, without a review. So it excludes the data, the owner of the nodes, the requirements of the smoke
test, and the endpoint's name and expiry.
"""


class _Document(Table):
    """The file: defaults, and targets with their differences."""

    defaults: dict[str, Any] = Field(default_factory=dict)
    targets: dict[str, dict[str, Any]] = Field(default_factory=dict)


def load(path: Path, target: str, overrides: Sequence[str] = (), environment: Mapping[str, str] = os.environ) -> Config:
    """Read pipeline.toml for one target.

    Args:
        path: the file.
        target: a name under ``[targets]``.
        overrides: ``path.to.key=value``, values as in TOML (a bare word is a string).
        environment: has the workspace coordinates and MLOPS_SET, if any; ``overrides`` win over the latter.

    Raises:
        ConfigError: with the place of each mistake.
    """
    document = _read(path)
    if target not in document.targets:
        raise ConfigError(
            f"{path} has no [targets.{target}]{did_you_mean(target, document.targets)}.",
            f"targets are: {', '.join(document.targets)}" if document.targets else f"add a table [targets.{target}]",
        )
    return _resolve(path, target, document, overrides, environment)


def targets(path: Path) -> tuple[str, ...]:
    """Return the names of a file's targets.

    Raises:
        ConfigError: the file can't be read, or is not of this form.
    """
    return tuple(_read(path).targets)


def _read(path: Path) -> _Document:
    try:
        text = path.read_text(encoding="utf-8-sig")  # editors on Windows write a byte order mark
    except OSError as problem:
        raise ConfigError(f"{path} can't be read: {problem}", "run in the folder of pipeline.toml, or add --config FILE") from problem
    except UnicodeDecodeError as problem:
        raise ConfigError(f"{path} is not UTF-8: {problem.reason} at byte {problem.start}.", "save the file in UTF-8") from problem
    try:
        return _Document.model_validate(tomllib.loads(text))
    except ValidationError as problem:
        raise ConfigError(
            config_source.explain(problem, _Document, str(path), ("",), {}), "use only [defaults] and [targets.NAME] at the top level"
        ) from problem
    except (ValueError, RecursionError) as problem:  # tomllib's own error, or a number that is too long
        raise ConfigError(f"{path}: {problem}", "fix the TOML syntax") from problem


def ephemeral_targets(path: Path) -> frozenset[str]:
    """Return the targets of a file whose endpoints are ephemeral. Raises what :func:`load` raises."""
    return frozenset(target for target in _read(path).targets if load(path, target, environment={}).endpoint.ephemeral)


def environment_overrides(environment: Mapping[str, str] = os.environ) -> list[str]:
    """Return the overrides of MLOPS_SET, one per line or several on a line, because GitHub's form for a manual run only has one line."""
    return [part for line in environment.get("MLOPS_SET", "").splitlines() for part in split_overrides(line)]


def split_overrides(text: str) -> list[str]:
    """Split ``a.b=1, c.d=2`` into its settings. Commas, semicolons or spaces separate them, if the next word is a setting.

    A value that is valid TOML, such as a quoted string, is never split.
    """
    text = text.strip()
    value = text.partition("=")[2]
    try:
        tomllib.loads(f"value = {value}")
    except (ValueError, RecursionError):
        return [part for part in _NEXT_SETTING.split(text) if part]
    return [text] if text else []


def _resolve(path: Path, target: str, document: _Document, overrides: Sequence[str], environment: Mapping[str, str]) -> Config:
    """Merge all sources of a target's settings."""
    for section, settings in (("defaults", document.defaults), (f"targets.{target}", document.targets[target])):
        _refuse_rule_list(settings, section, config_source.locate(str(path), (section,), {}, "gate.rules"))
    settings = _merge(document.defaults, document.targets[target])
    endpoint = settings.get("endpoint")
    ephemeral = isinstance(endpoint, dict) and endpoint.get("ephemeral") is True
    origins: dict[str, str] = {}
    for key, variable in COORDINATES.items():
        if value := environment.get(variable):
            _refuse_contradiction(settings, key, value, variable, path, target)
            settings = _merge(settings, {"workspace": {key: value}})
            origins[f"workspace.{key}"] = variable
    assignments = [("MLOPS_SET", line) for line in environment_overrides(environment)]
    assignments += [("--set", part) for text in overrides for part in split_overrides(text)]
    for option, override in assignments:
        keys, value = parse_override(override, option)
        assigned = list(_leaves(".".join(keys), value))
        for key in assigned if not ephemeral else ():
            _refuse_deciding(key, option, path, target)
        nested: Any = value
        for key in reversed(keys):
            nested = {key: nested}
        _refuse_rule_list(nested, f"targets.{target}", f"{option} {override}")
        _refuse_below_setting(settings, keys, f"{option} {override}")
        settings = _merge(settings, nested)
        origins |= dict.fromkeys(assigned, f"{option} {override}")
    try:
        Tables.model_validate(settings)  # so that the file can't set what is added below
        config = Config.model_validate({**settings, "target": target, "file": str(path), "overrides": origins})
        config = Config.model_validate({**settings, **_complete_names(config), "target": target, "file": str(path), "overrides": origins})
    except ValidationError as problem:
        explanation = config_source.explain(problem, Tables, str(path), config_source.sections(target), origins)
        raise ConfigError(explanation, f"correct {path}, the --set option or MLOPS_SET") from problem
    if ephemeral and not config.endpoint.ephemeral:
        # Everything may be set for an ephemeral target, so a permanent endpoint could have any rules.
        raise ConfigError(
            f"{config.locate('endpoint.ephemeral')} is refused for target {target}: only {path} may make its endpoint permanent.",
            f"change {path}, so that the change is reviewed",
        )
    return config


def _refuse_below_setting(settings: Mapping[str, Any], keys: Sequence[str], origin: str) -> None:
    """Refuse ``a.b.c=1`` if ``a.b`` has a value; otherwise the error would blame the file."""
    node: Any = settings
    for number, key in enumerate(keys[:-1], start=1):
        node = node.get(key, {})
        if not isinstance(node, dict):
            name = ".".join(keys[:number])
            raise ConfigError(f"{origin}: {name}: it is a setting with a value, not a table.", f"set {name} itself, or correct the name")


def _refuse_contradiction(settings: Mapping[str, Any], key: str, value: str, variable: str, path: Path, target: str) -> None:
    """Refuse a workspace in the file that differs from the environment's, because either could be meant."""
    workspace = settings.get("workspace")
    file_value = workspace.get(key) if isinstance(workspace, dict) else None
    if file_value and str(file_value).lower() != value.lower():
        where = config_source.locate(str(path), config_source.sections(target), {}, f"workspace.{key}")
        raise ConfigError(
            f"{where}: workspace.{key} is {file_value!r}, but the environment variable {variable} is {value!r}."
            " Nothing was read or changed.",
            f"unset {variable}, or remove workspace.{key} from {path}",
        )


def _complete_names(config: Config) -> dict[str, Any]:
    """Return the tables whose endpoint names get the workspace's suffix; none while the workspace is unknown."""
    workspace, endpoint, evaluation = config.workspace, config.endpoint, config.evaluation
    identity = f"{workspace.subscription_id}/{workspace.resource_group}/{workspace.name}".lower()
    if not endpoint.workspace_suffix or not all((workspace.subscription_id, workspace.resource_group, workspace.name)):
        return {}
    suffix = hashlib.sha256(identity.encode()).hexdigest()[:6]
    champion = evaluation.champion_endpoint and f"{evaluation.champion_endpoint}-{suffix}"
    return {
        "endpoint": {**endpoint.model_dump(), "name": f"{endpoint.name}-{suffix}"},
        "evaluation": {**evaluation.model_dump(), "champion_endpoint": champion},
    }


def _leaves(key: str, value: Any) -> Iterator[str]:
    """Return the dotted keys of all settings that a value contains; the key itself if it contains none."""
    if isinstance(value, dict) and value:
        for name, part in value.items():
            yield from _leaves(f"{key}.{name}", part)
    else:
        yield key


def _refuse_deciding(key: str, option: str, path: Path, target: str) -> None:
    """Refuse overrides that affect something permanent: only the file may set these, since changes to it are reviewed."""
    # Replacing a table by something else would discard what the file says in it.
    replaces_a_table = any(name.startswith(f"{key}.") for name in DECIDING)
    if key not in NOT_DECIDING and (key.startswith(DECIDING) or replaces_a_table):
        raise ConfigError(
            f"{option} {key} is refused for target {target}: only {path} may set the gate's rules, the data and scores that they judge, "
            "whom they trust, and whether the endpoint is permanent.",
            f"change {path}, so that the change is reviewed; to try rules, use `mlops gate --what-if --rule …`",
        )
    if option == "MLOPS_SET" and not f"{key}.".startswith(tuple(f"{name.rstrip('.')}." for name in DISPATCHABLE)):
        raise ConfigError(
            f"MLOPS_SET {key} is refused for target {target}: without a review, a workflow may only change {', '.join(DISPATCHABLE)}.",
            f"change {path}, so that the change is reviewed",
        )


def _refuse_rule_list(settings: Any, section: str, where: str) -> None:
    """Explain the named form of the gate's rules to users whose file still has a list."""
    gate = settings.get("gate") if isinstance(settings, dict) else None
    rules = gate.get("rules") if isinstance(gate, dict) else None
    if not isinstance(rules, list):
        return
    headings = []
    for number, rule in enumerate(rules, start=1):
        parts = [str(rule.get(key, "")) for key in ("metric", "baseline")] if isinstance(rule, dict) else []
        words = [word for part in parts for word in part.replace("*", "each").split(".") if word]
        headings.append(f"[{section}.gate.rules.{'-'.join((*words, str(number)))}]")
    raise ConfigError(
        f"{where}: gate.rules is a list, but each rule is now a table with a name.",
        f"replace the headings [[{section}.gate.rules]], in order, by {', '.join(headings)}, with names of your choice. A target states "
        "only what differs from the rule of the same name in [defaults]; `enabled = false` drops a rule",
    )


def json_schema() -> dict[str, Any]:
    """Return the JSON Schema of pipeline.toml, for editors (kept fresh in ``docs/pipeline.schema.json`` by a test)."""
    table = Tables.model_json_schema()
    definitions = table.pop("$defs")
    definitions["Target"] = {**table, "title": "Target"}
    for definition in definitions.values():
        # Defaults and targets each have part of the settings, so neither requires any.
        definition.pop("required", None)
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "pipeline.toml",
        "type": "object",
        "additionalProperties": False,
        "properties": {
            "defaults": {"$ref": "#/$defs/Target"},
            "targets": {"type": "object", "additionalProperties": {"$ref": "#/$defs/Target"}},
        },
        "$defs": definitions,
    }


def _merge(base: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    merged = dict(base)
    for key, value in over.items():
        old = merged.get(key)
        merged[key] = _merge(old, value) if isinstance(old, dict) and isinstance(value, dict) else value
    return merged


def parse_override(text: str, option: str = "--set") -> tuple[list[str], Any]:
    """Split ``path.to.key=value`` into its keys and its value as in TOML (a bare word is a string).

    Args:
        text: the argument.
        option: the option that it belongs to, for the message.

    Raises:
        ConfigError: it is not of this form.
    """
    path, equals, value = text.partition("=")
    if not equals or not path.strip():
        example = "margin=0.02" if option.startswith("--rule") else "training.parameters.max_steps=5"
        raise ConfigError(f"{option}: {text!r} is not of the form path.to.key=value.", f"for example {example}")
    try:
        parsed = tomllib.loads(f"value = {value}")["value"]
    except tomllib.TOMLDecodeError:
        parsed = value.strip()
    except (ValueError, RecursionError) as problem:
        raise ConfigError(f"{option} {path.strip()}: {problem}.", "use a shorter value") from problem
    return path.strip().split("."), parsed
