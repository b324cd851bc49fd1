"""Published api-versions of the resource provider Microsoft.MachineLearningServices.

From the folders of its specification in Azure/azure-rest-api-specs. A version that is published but not served by a route is answered
with 501; one that was never published is answered with 400, as on Azure.
"""

from __future__ import annotations

__all__ = ["PUBLISHED", "published_since"]

PUBLISHED = (
    "2018-11-19", "2019-05-01", "2019-06-01", "2019-11-01", "2020-01-01", "2020-02-18-preview", "2020-03-01", "2020-04-01",
    "2020-05-01-preview", "2020-05-15-preview", "2020-06-01", "2020-08-01", "2020-09-01-preview", "2021-01-01", "2021-03-01-preview",
    "2021-04-01", "2021-07-01", "2022-01-01-preview", "2022-02-01-preview", "2022-05-01", "2022-06-01-preview", "2022-10-01",
    "2022-10-01-preview", "2022-12-01-preview", "2023-02-01-preview", "2023-04-01", "2023-04-01-preview", "2023-06-01-preview",
    "2023-08-01-preview", "2023-10-01", "2024-01-01-preview", "2024-04-01", "2024-04-01-preview", "2024-07-01-preview", "2024-10-01",
    "2024-10-01-preview", "2025-01-01-preview", "2025-04-01", "2025-04-01-preview", "2025-06-01", "2025-07-01-preview", "2025-09-01",
    "2025-10-01-preview", "2025-12-01",
)  # fmt: skip
"""Oldest first."""


def published_since(version: str) -> frozenset[str]:
    """Return the published versions from ``version`` on."""
    return frozenset(PUBLISHED[PUBLISHED.index(version) :])
