"""Finds where a setting comes from: a line of pipeline.toml, an option, or an environment variable."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, get_args

from pydantic import BaseModel, ValidationError

from mlops.core.console import did_you_mean

__all__ = ["explain", "locate", "sections"]


def locate(file: str, sections: Sequence[str], overrides: Mapping[str, str], key: str) -> str:
    """Return where a setting comes from: ``file:line`` of it or of the table that holds it, an option, or the file alone (a default).

    Args:
        file: path of pipeline.toml.
        sections: tables of the file in which the setting may be, e.g. ``targets.prod``; the first one wins.
        overrides: dotted key → the option or environment variable that sets it.
        key: dotted, e.g. ``"training.parameters.max_steps"``; empty for the whole file.
    """
    try:
        lines = list(_paths(Path(file).read_text(encoding="utf-8-sig")))
    except OSError:
        lines = []
    parts = key.split(".")
    for length in range(len(parts), 0, -1):
        prefix = ".".join(parts[:length])
        if prefix in overrides:
            return overrides[prefix]
        for section in sections:
            path = f"{section}.{prefix}".lstrip(".")
            if line := _last_line(lines, path):
                return f"{file}:{line}"
        if prefix == key:
            for name, origin in overrides.items():
                if name.startswith(f"{key}."):
                    return origin
    return file


def explain(problem: ValidationError, model: type[BaseModel], file: str, sections: Sequence[str], overrides: Mapping[str, str]) -> str:
    """Describe each mistake in a line of its own: where it is, which setting it is, and what is wrong.

    Args:
        problem: what validation says.
        model: validated the settings; its fields are the valid keys.
        file, sections, overrides: as for :func:`locate`.
    """
    lines = []
    for error in problem.errors():
        location = [str(part) for part in error["loc"] if part != "[key]"]
        message = error["msg"].removeprefix("Value error, ")
        if error["type"] == "extra_forbidden":
            message = f"unknown key{did_you_mean(location[-1], _keys_at(model, location[:-1]))}"
        # A missing setting has no location, but its table has.
        place = location[:-1] if error["type"] == "missing" else location
        lines.append(f"{locate(file, sections, overrides, '.'.join(place))}: {'.'.join(location)}: {message}")
    return "\n".join(lines)


def _paths(text: str) -> Iterator[tuple[str, int]]:
    """Return the dotted path of every table and key with its line. Keys of an inline table are not separate."""
    table = ""
    for number, line in enumerate(text.splitlines(), start=1):
        stripped = line.strip()
        if stripped.startswith("["):
            table = _dotted(stripped.strip("[").split("]")[0])
            yield table, number
        elif "=" in stripped and not stripped.startswith("#"):
            yield f"{table}.{_dotted(stripped.split('=')[0])}".lstrip("."), number


def _dotted(key: str) -> str:
    return ".".join(part.strip().strip("\"'") for part in key.split("."))


def _last_line(lines: Sequence[tuple[str, int]], path: str) -> int:
    """Return the line of a key or table; without one of its own, the first line below it; 0 if there is none."""
    exact = [number for name, number in lines if name == path]
    below = [number for name, number in lines if name.startswith(f"{path}.")]
    return exact[-1] if exact else below[0] if below else 0


def _keys_at(model: type[BaseModel], location: Sequence[str]) -> list[str]:
    """Return the field names of the table at a location."""
    current: type[BaseModel] | None = model
    for part in location:
        if current is None:
            break
        if part in current.model_fields:
            current = _model_in(current.model_fields[part].annotation)
    return list(current.model_fields) if current else []


def _model_in(annotation: Any) -> type[BaseModel] | None:
    """Return the model that an annotation is, or contains: ``Model``, ``Model | None``, ``dict[str, Model]``."""
    candidates = [annotation, *get_args(annotation)]
    return next((item for item in candidates if isinstance(item, type) and issubclass(item, BaseModel)), None)


def sections(target: str) -> tuple[str, str]:
    """Return the names of the tables that may contain a target's settings: its own, and the defaults."""
    return f"targets.{target}", "defaults"
