"""Finds who created a resource, according to Azure itself.

Azure writes ``systemData`` and no client can: it has the object id of a service principal or managed identity, and of a person only the
display name. Tags prove nothing, because everybody who may create a job may give it any tag.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from mlops.cloud.entities import as_text

__all__ = ["creator_of", "creator_of_json", "creator_of_token"]


def creator_of(system_data: Any) -> str:
    """Return the creator in an entity's ``systemData``: an object id, or ``NAME (a person)``; empty if Azure gives none.

    Args:
        system_data: has ``created_by`` and ``created_by_type``; None counts as without.
    """
    return _creator(getattr(system_data, "created_by", None), getattr(system_data, "created_by_type", None))


def creator_of_json(system_data: Mapping[str, Any]) -> str:
    """Return the creator from ``systemData`` in its wire format."""
    return _creator(system_data.get("createdBy"), system_data.get("createdByType"))


def creator_of_token(claims: Mapping[str, Any]) -> str:
    """Return whom Azure will record as the creator of what this token's owner creates; empty if the token doesn't say."""
    is_person = claims.get("idtyp") != "app" and bool(claims.get("name"))
    return _name(str(claims.get("name" if is_person else "oid") or ""), is_person=is_person)


def _creator(name: object, kind: object) -> str:
    is_person = as_text(kind).rpartition(".")[2].lower() not in ("application", "managedidentity")
    return _name(as_text(name), is_person=is_person)


def _name(text: str, *, is_person: bool) -> str:
    # Without the suffix, a person could choose an object id as display name and be taken for its owner.
    return f"{text} (a person)" if text and is_person else text.lower()
