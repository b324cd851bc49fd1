"""The settings as a page: ``docs/configuration.md`` is the result of :func:`markdown`, which a test checks."""

from __future__ import annotations

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
        "`pipeline.toml` has `[defaults]` and `[targets.NAME]`; a target has only what differs. Later wins: built-in default,",
        "`[defaults]`, the target, the environment (workspace coordinates), the lines of `MLOPS_SET`, `--set path.to.key=value`. Tables",
        "merge, lists are replaced. `gate`, `evaluation` and `endpoint.ephemeral` can't be `--set` for a target that isn't ephemeral:",
        "they decide about something permanent. An unknown key is an error that suggests the nearest known one. Editors check the file",
        "against [pipeline.schema.json](pipeline.schema.json).",
        "",
        "Gate rules are tables with names, so a target changes, drops or adds a rule by its name:",
        "",
        "```toml",
        "[defaults.gate.rules.target-vs-base]",
        'metric = "target.nll"',
        'direction = "lower"',
        'baseline = "base"',
        "",
        "[targets.pr.gate.rules]",
        "target-vs-base.margin = 0.01       # one setting of that rule differs",
        "target-vs-champion.enabled = false # this rule doesn't apply",
        "```",
        "",
        "| coordinate | environment variable |",
        "|---|---|",
        *(f"| `workspace.{key}` | `{variable}` |" for key, variable in COORDINATES.items()),
    ]
    for name, table in schema["properties"].items():
        definition, heading = _resolve(table, definitions), f"[{name}]"
        if definition is None:
            lines += ["", f"## `{heading}`", "", f"{_sentence(table.get('description', ''))} A table of strings."]
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
        default = field.get("default", "required" if key in definition.get("required", ()) else "")
        default_text = "" if default in (None, "", {}) else f"`{default}`"
        rows.append(f"| `{key}` | {_type(field)} | {default_text} | {_sentence(field.get('description', ''))} |")
    return rows


def _inner_table(field: dict[str, Any], definitions: dict[str, Any]) -> tuple[dict[str, Any] | None, str]:
    """Return the definition of the table that a field is, or of the tables that it maps names to, and ``.NAME`` then; None for others."""
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


def _sentence(text: str) -> str:
    return text.replace("|", "\\|")
