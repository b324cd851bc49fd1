"""The settings as a page: ``docs/configuration.md`` is what :func:`markdown` returns, and a test keeps it so."""

from __future__ import annotations

from typing import Any

from mlops.core.config import COORDINATES, json_schema

__all__ = ["markdown"]


def markdown() -> str:
    """Every table and key of pipeline.toml with type, default and meaning."""
    definitions: dict[str, Any] = json_schema()["$defs"]
    lines = [
        "# Configuration",
        "",
        "`pipeline.toml` has `[defaults]` and `[targets.NAME]`; a target holds differences only. Later wins: built-in default,",
        "`[defaults]`, the target, the environment (workspace coordinates only), `--set path.to.key=value`. Tables merge, lists are",
        "replaced. `gate`, `evaluation` and `endpoint.ephemeral` can't be `--set` for a target that isn't ephemeral: they decide about",
        "something that stays. An unknown key is an error that names the nearest known one. Editors check the file against",
        "[pipeline.schema.json](pipeline.schema.json).",
        "",
        "| coordinate | environment variable |",
        "|---|---|",
        *(f"| `workspace.{key}` | `{variable}` |" for key, variable in COORDINATES.items()),
    ]
    for name, table in definitions["Target"]["properties"].items():
        definition, heading = _resolve(table, definitions), f"[{name}]"
        if definition is None:
            lines += ["", f"## `{heading}`", "", f"{_sentence(table.get('description', ''))} A table of strings."]
            continue
        lines += ["", f"## `{heading}`", "", definition["description"], "", *_table(definition, definitions)]
        for key, field in definition["properties"].items():
            item = _resolve(field.get("items", {}), definitions)
            if item is not None:
                lines += ["", f"### `[[{name}.{key}]]`", "", item["description"].splitlines()[0], "", *_table(item, definitions)]
    return "\n".join(lines) + "\n"


def _table(definition: dict[str, Any], definitions: dict[str, Any]) -> list[str]:
    rows = ["| key | type | default | meaning |", "|---|---|---|---|"]
    for key, field in definition["properties"].items():
        if _resolve(field.get("items", {}), definitions) is not None:
            continue
        default = field.get("default", "required" if key in definition.get("required", ()) else "")
        shown = "" if default in (None, "", {}) else f"`{default}`"
        rows.append(f"| `{key}` | {_type(field)} | {shown} | {_sentence(field.get('description', ''))} |")
    return rows


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
