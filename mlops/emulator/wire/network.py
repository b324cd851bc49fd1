"""Workspaces without public network access, whose data plane refuses clients outside their virtual network.

Azure Resource Manager takes requests from everywhere ("Network isolation with managed online endpoints", learn.microsoft.com). The text
is that of MicrosoftDocs/azure-docs#90426.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from mlops.emulator.base.azure import Azure
from mlops.emulator.base.errors import user_error

__all__ = ["check_data_plane"]

REFUSAL = "Access to workspace was denied based on workspace private link configuration."


def check_data_plane(azure: Azure, host: str, parameters: Mapping[str, Any], claims: Mapping[str, Any]) -> None:
    """Refuse a request to the workspace's data plane that comes from outside. A running job is inside; so is who has its token.

    Args:
        azure: the emulated Azure.
        host: as in :class:`~mlops.emulator.wire.app.Route`.
        parameters: those of the route; the registry's have no workspace.
        claims: those of the access token.

    Raises:
        AzureFault: 403.
    """
    if azure.options.is_outside and host == "api" and "workspace" in parameters and "run" not in claims:
        raise user_error(REFUSAL, "Forbidden", status=403)
