"""Keys that decide whether an earlier result can be reused.

Every setting of the relevant sections counts, unless it is excluded by name with a reason. A setting that is added later therefore changes
the key unless somebody excludes it: the worst case is repeated work, never a stale result.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel

__all__ = ["reuse_key"]


def reuse_key(sections: Mapping[str, BaseModel], excluded: Mapping[str, str], **facts: Any) -> str:
    """Return the hex sha256 over the settings of these sections that count, and over the facts.

    Args:
        sections: name of a table in pipeline.toml → its settings.
        excluded: ``section.setting`` → why it doesn't affect the result.
        facts: whatever else affects the result, as JSON values.

    Raises:
        ValueError: an excluded name is not a setting of these sections, or a fact is NaN or infinite.
    """
    settings = {f"{name}.{key}": value for name, section in sections.items() for key, value in section.model_dump(mode="json").items()}
    if unknown := excluded.keys() - settings.keys():
        raise ValueError(f"Excluded from a reuse key, but not a setting: {', '.join(sorted(unknown))}")
    deciding = {key: value for key, value in settings.items() if key not in excluded}
    content = json.dumps({"settings": deciding, "facts": facts}, sort_keys=True, allow_nan=False)
    return hashlib.sha256(content.encode()).hexdigest()
