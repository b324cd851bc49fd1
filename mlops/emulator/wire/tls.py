"""The emulator's own certificate authority, and one certificate for all of Azure's host names."""

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
"""The emulated host names. A wildcard covers one label, as in the certificate."""
GITHUB_HOSTS = ("api.github.com", "*.actions.githubusercontent.com")
"""The additional host names if GitHub is emulated as well."""


def certificates(folder: Path, hosts: Sequence[str] = HOSTS) -> ssl.SSLContext:
    """Create an authority and a server certificate for these hosts, and write the authority that clients must trust to ``folder/ca.pem``.

    Both are new at every start, so the private keys never touch the disk.
    """
    authority = trustme.CA(organization_name="Azure ML emulator")
    authority.cert_pem.write_to_path(str(folder / "ca.pem"))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    authority.issue_cert(*hosts).configure_cert(context)
    return context
