"""What every record of a stage has."""

from __future__ import annotations

import hashlib
import json
from datetime import UTC, datetime
from typing import Any, ClassVar

from pydantic import BaseModel, ConfigDict, Field

__all__ = ["FileDigest", "Frozen", "Record"]


class Frozen(BaseModel):
    """An immutable value without unknown fields. NaN and infinity survive a round trip through JSON."""

    model_config = ConfigDict(frozen=True, extra="forbid", ser_json_inf_nan="strings", protected_namespaces=())


class FileDigest(Frozen):
    """A file under ``run/`` and the digest of its content."""

    path: str = Field(description="relative to run/")
    sha256: str
    rows: int | None = None


class Record(Frozen):
    """The base of all records."""

    stage: ClassVar[str]
    """The command that writes it; its file is ``run/{stage}.json``."""
    volatile: ClassVar[frozenset[str]] = frozenset({"created_at", "reused"})
    """Fields that may differ between two equal results."""
    made_from: ClassVar[tuple[str, ...]] = ()
    """Stages that ``inputs`` must contain: without their digests a record can't be checked, so it is refused."""

    schema_version: int = Field(2, ge=2, le=2)
    """Increased, in a record's own class, when older records can't be read as newer ones. Any other version is refused."""
    created_at: datetime = Field(default_factory=lambda: datetime.now(UTC))
    inputs: dict[str, str] = Field(default_factory=dict, description="stage → digest of the record this one was made from")
    files: dict[str, FileDigest] = Field(default_factory=dict, description="name → file in the run directory")

    def digest(self) -> str:
        """Return the sha256 over everything but the volatile fields, at any depth: equal results have equal digests."""
        content = _without(self.model_dump(mode="json"), self.volatile)
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def _without(value: Any, names: frozenset[str]) -> Any:
    if isinstance(value, dict):
        return {key: _without(part, names) for key, part in value.items() if key not in names}
    return [_without(part, names) for part in value] if isinstance(value, list) else value
