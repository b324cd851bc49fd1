"""The reference page of all settings, ``docs/configuration.md``. A test checks that the file is what :func:`markdown` returns."""

from __future__ import annotations

import json
from typing import Any

from mlops.core.settings import COORDINATES, Tables

__all__ = ["markdown"]


def markdown() -> str:
    """Return every table and key of pipeline.toml with type, default and meaning, as Markdown."""
    schema = Tables.model_json_schema()
    definitions: dict[str, Any] = schema["$defs"]
    lines = [
        "# Configuration",
        "",
        "This page lists every setting. `pipeline.toml` has a table `[defaults]`, and for each target a table `[targets.NAME]` with only",
        "what differs. In ascending precedence, values come from built-in defaults, `[defaults]`, the target, environment variables (only",
        "the workspace), the lines of `MLOPS_SET`, and `--set path.to.key=value`. Tables are merged, lists are replaced.",
        "",
        "Unless a target's endpoint is ephemeral, `--set` can't change `gate`, `evaluation` or `endpoint.ephemeral`, because they affect",
        "something permanent. An unknown key is an error that suggests the closest key. Editors check the file against",
        "[pipeline.schema.json](pipeline.schema.json).",
        "",
        "Gate rules are named tables, so a target can change, drop or add a rule by its name:",
        "",
        "```toml",
        "[defaults.gate.rules.target-vs-base]",
        'metric = "target.nll"',
        'direction = "lower"',
        'baseline = "base"',
        "",
        "[targets.pr.gate.rules]",
        "target-vs-base.margin = 0.01       # change one setting of this rule",
        "target-vs-champion.enabled = false # drop this rule",
        "```",
        "",
        "| setting | environment variable |",
        "|---|---|",
        *(f"| `workspace.{key}` | `{variable}` |" for key, variable in COORDINATES.items()),
    ]
    for name, table in schema["properties"].items():
        definition, heading = _resolve(table, definitions), f"[{name}]"
        if definition is None:
            lines += ["", f"## `{heading}`", "", f"{table.get('description', '')} A table of strings."]
            continue
        lines += ["", f"## `{heading}`", "", definition["description"], "", *_table(definition, definitions)]
        for key, field in definition["properties"].items():
            item, place = _inner_table(field, definitions)
            if item is not None:
                lines += ["", f"### `[{name}.{key}{place}]`", "", item["description"].splitlines()[0], "", *_table(item, definitions)]
    return "\n".join(lines) + "\n"


def _table(definition: dict[str, Any], definitions: dict[str, Any]) -> list[str]:
    rows = ["| key | type | default | meaning |", "|---|---|---|---|"]
    for key, field in definition["properties"].items():
        if _inner_table(field, definitions)[0] is not None:
            continue
        default = field.get("default")
        default_text = "" if default in (None, "", {}) else f"`{json.dumps(default)}`"
        if key in definition.get("required", ()):
            default_text = "(required)"
        description = field.get("description", "").replace("|", "\\|")
        rows.append(f"| `{key}` | {_type(field)} | {default_text} | {description} |")
    return rows


def _inner_table(field: dict[str, Any], definitions: dict[str, Any]) -> tuple[dict[str, Any] | None, str]:
    """Return the definition of a nested table and what follows its name in a heading; None for fields that aren't tables.

    A field may be a table itself, or map names to tables (``.NAME``).
    """
    table = _resolve(field, definitions)
    if table is not None and "properties" in table:
        return table, ""
    patterns = field.get("patternProperties", {"": field.get("additionalProperties", {})})
    return next((_resolve(table, definitions) for table in patterns.values() if isinstance(table, dict)), None), ".NAME"


def _type(field: dict[str, Any]) -> str:
    if "enum" in field:
        return " ".join(f"`{value}`" for value in field["enum"])
    if "const" in field:
        return f"`{field['const']}`"
    if "anyOf" in field:
        return " or ".join(_type(option) for option in field["anyOf"] if option.get("type") != "null")
    kind = str(field.get("type", "any"))
    bounds = {"minimum": "≥", "exclusiveMinimum": ">", "maximum": "≤", "exclusiveMaximum": "<"}
    return " ".join([kind, *(f"{sign} {field[name]:g}" for name, sign in bounds.items() if name in field)])


def _resolve(field: dict[str, Any], definitions: dict[str, Any]) -> dict[str, Any] | None:
    reference = field.get("$ref") or next((option["$ref"] for option in field.get("allOf", ()) if "$ref" in option), None)
    return definitions[reference.rpartition("/")[2]] if reference else None
