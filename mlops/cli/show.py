"""Show the records in the run directory, and the JSON Schema of pipeline.toml."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence

from mlops.cli import stage
from mlops.core import console
from mlops.core.config import json_schema
from mlops.core.record import Record
from mlops.core.run import Run

__all__ = ["main", "schema"]


def main(argv: Sequence[str]) -> int:
    """Show the records that the stages have written to the run directory."""
    parser = stage.parser((main.__doc__ or ""), prog="mlops show")
    arguments = parser.parse_args(argv)

    def show() -> stage.Answer:
        records = list(Run(arguments.run).records())
        lines = [] if records else [f"{arguments.run} has no records yet; `mlops prepare` writes the first one."]
        for record in records:
            lines += [f"▸ {record.stage}  ({record.created_at:%Y-%m-%d %H:%M:%S} UTC)", console.columns(_rows(record), clip=True)]
        return stage.Answer({record.stage: record for record in records}, "\n".join(lines))

    return stage.finish(show, as_json=arguments.json)


def _rows(record: Record) -> Iterator[tuple[str, str]]:
    for key, value in record.model_dump(mode="json").items():
        if key in ("schema_version", "created_at", "inputs", "self_test"):
            continue
        if isinstance(value, list) and value and isinstance(value[0], Mapping):
            for number, entry in enumerate(value):
                yield "" if number else key, ", ".join(f"{name}={_plain(part)}" for name, part in entry.items())
        else:
            yield key, _plain(value)


def _plain(value: object) -> str:
    return " ".join((value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)).split())


def schema(argv: Sequence[str]) -> int:
    """Print the JSON Schema of pipeline.toml."""
    stage.parser((schema.__doc__ or ""), prog="mlops schema").parse_args(argv)
    return stage.finish(json_schema, as_json=True)
