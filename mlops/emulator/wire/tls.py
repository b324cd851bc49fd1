"""A certificate authority of the emulator's own, and one certificate for all of Azure's host names."""

from __future__ import annotations

import ssl
from collections.abc import Sequence
from pathlib import Path

import trustme

from mlops.emulator.base.azure import LOCATION

__all__ = ["GITHUB_HOSTS", "HOSTS", "certificates"]

HOSTS = (
    "management.azure.com",
    "login.microsoftonline.com",
    "*.api.azureml.ms",
    "*.blob.core.windows.net",
    f"*.{LOCATION}.inference.ml.azure.com",
    "ml.azure.com",
)
"""The host names that the emulator answers for. A wildcard covers one label, as in the certificate."""
GITHUB_HOSTS = ("api.github.com", "*.actions.githubusercontent.com")
"""And those where it stands for GitHub as well."""


def certificates(folder: Path, hosts: Sequence[str] = HOSTS) -> ssl.SSLContext:
    """Make an authority and a server certificate for these hosts; ``folder/ca.pem`` is what clients must trust.

    New at every start: the private keys never touch the disk.
    """
    authority = trustme.CA(organization_name="Azure ML emulator")
    authority.cert_pem.write_to_path(str(folder / "ca.pem"))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    authority.issue_cert(*hosts).configure_cert(context)
    return context
