"""Collections of named assets with versions: the routes that they share.

``GET`` of the names, of one name and of its versions, and ``GET``, ``PUT`` and ``DELETE`` of a version. What a version consists of is up to
the kind of asset.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from mlops.emulator.base.azure import Azure, arm_id
from mlops.emulator.base.errors import AzureFault, not_implemented, user_error
from mlops.emulator.base.store import Document
from mlops.emulator.wire.app import WS, Answer, Route, read_json
from mlops.emulator.wire.resources import add_system_data, list_response, put_response, render_resource
from mlops.emulator.wire.versions import published_since

__all__ = ["Collection", "read_archival", "select_view"]

PARAMETERS = {"api-version", "$orderBy", "$top", "listViewType", "$skip", "stage", "hash", "hashVersion"}
VIEWS = {"ActiveOnly": {False}, "ArchivedOnly": {True}, "All": {False, True}}
PAGE = 40
DEFAULT = "azureml_default"
"""The version that clients request if they name none, as recorded for components."""


def select_view(request: Request, items: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return those resources that the ``listViewType`` of a request includes: by default the ones that aren't archived.

    Raises:
        AzureFault: 400, it is none of the three.
    """
    view = request.query_params.get("listViewType", "ActiveOnly")
    if view not in VIEWS:
        raise user_error(f"listViewType '{view}' is none of {', '.join(VIEWS)}.")
    return [item for item in items if bool(item["properties"]["isArchived"]) in VIEWS[view]]


async def read_archival(request: Request) -> bool:
    """Return ``isArchived`` of the body of a PUT of a name: nothing else of a name can be changed.

    Raises:
        AzureFault: 400, it is missing.
    """
    properties = (await read_json(request)).get("properties")
    if not isinstance(properties, dict) or not isinstance(properties.get("isArchived"), bool):
        raise user_error("The request is invalid: properties.isArchived is missing.")
    return bool(properties["isArchived"])


Read = Callable[[Azure, str, str, Any, Document | None], Document]


class Collection:
    """One kind of asset in the workspace, e.g. its components.

    Args:
        kind: as in the path and in the store.
        read: returns the properties to store of a version, from its name, version, sent properties and existing document.
        absent: returns the fault for a name or a version (empty for the name) that doesn't exist.
        version_of: returns the version that the service gives to an asset, whatever a client asks for, or None.
        show: returns the properties as a client sees them, from those of a version that aren't null.
        is_new: returns whether the answer to a PUT says that the version was created, from its document and whether it existed.
        since: the first api-version.
    """

    has_default = True
    """Whether :data:`DEFAULT` stands for the latest version."""

    def __init__(
        self,
        kind: str,
        read: Read,
        absent: Callable[[str, str], AzureFault],
        *,
        version_of: Callable[[str, Any], str | None] | None = None,
        show: Callable[[Document], Document] = lambda properties: properties,
        is_new: Callable[[Azure, Document, bool], bool] = lambda _, stored, exists: (
            not exists or bool(stored["properties"].get("isAnonymous"))
        ),
        since: str = "2022-05-01",
    ) -> None:
        self.kind = kind
        self._versions = published_since(since)
        self._version_of = version_of
        self._show = show
        self._is_new = is_new
        self._read = read
        self._absent = absent

    def get(self, azure: Azure, name: str, version: str) -> Document | None:
        """Return the document of a version, or None."""
        return azure.store.get(self.kind, f"{name}/{version}")

    def find_all(self, azure: Azure, name: str = "") -> list[tuple[str, Document]]:
        """Return key and document of each version of a name, or of all names, oldest first."""
        return azure.store.list(self.kind, f"{name}/" if name else "")

    def find_latest(self, azure: Azure, name: str) -> str | None:
        """Return the version that was created last, or None if there is none."""
        versions = self.find_all(azure, name)
        return versions[-1][0].partition("/")[2] if versions else None

    def next_version(self, azure: Azure, name: str) -> str:
        """Return the version that follows the highest number."""
        versions = [key.partition("/")[2] for key, _ in self.find_all(azure, name)]
        return str(max((int(version) for version in versions if version.isdecimal()), default=0) + 1)

    def store(self, azure: Azure, name: str, version: str, sent: Any) -> Document:
        """Store a version and return its document.

        Raises:
            AzureFault: 400 or 409, the properties are invalid, or the version exists and they can't be changed.
        """
        existing = azure.store.get(self.kind, f"{name}/{version}")
        content = {"properties": self._read(azure, name, version, sent, existing)}
        return azure.store.put(self.kind, f"{name}/{version}", add_system_data(azure, existing, content))

    def routes(self) -> list[Route]:
        """Return the routes."""
        base = f"{WS}/{self.kind}"
        version = base + "/{name}/versions/{version}"
        return [
            Route("arm", "GET", base, self.list_names, self._versions),
            Route("arm", "GET", base + "/{name}", self.get_name, self._versions),
            Route("arm", "PUT", base + "/{name}", self.put_name, self._versions),
            Route("arm", "DELETE", base + "/{name}", self.delete_name, self._versions),
            Route("arm", "GET", base + "/{name}/versions", self.list_versions, self._versions),
            Route("arm", "GET", version, self.get_version, self._versions),
            Route("arm", "PUT", version, self.put_version, self._versions),
            Route("arm", "DELETE", version, self.delete_version, self._versions),
        ]

    async def list_names(self, azure: Azure, request: Request) -> Answer:
        """List the names, newest first, without those of anonymous assets."""
        names: dict[str, list[tuple[str, Document]]] = {}
        for key, stored in self.find_all(azure):
            if not stored["properties"].get("isAnonymous"):
                names.setdefault(key.partition("/")[0], []).append((key, stored))
        items = [self._render_name(azure, name, versions) for name, versions in reversed(names.items())]
        return self._page(request, items)

    async def get_name(self, azure: Azure, request: Request) -> Answer:
        """Return one name, with its latest and its next version."""
        name = request.path_params["name"]
        versions = self.find_all(azure, name)
        if not versions:
            raise self._absent(name, "")
        return self._render_name(azure, name, versions)

    async def put_name(self, azure: Azure, request: Request) -> Answer:
        """Archive or restore all versions of a name."""
        name, is_archived = request.path_params["name"], await read_archival(request)
        versions = azure.store.list(self.kind, f"{name}/")
        if not versions:
            raise self._absent(name, "")
        for key, stored in versions:
            azure.store.put(self.kind, key, stored | {"properties": stored["properties"] | {"isArchived": is_archived}})
        return self._render_name(azure, name, azure.store.list(self.kind, f"{name}/"))

    async def delete_name(self, azure: Azure, request: Request) -> Answer:
        """Delete a name with all its versions. 204 if it does not exist."""
        versions = azure.store.list(self.kind, f"{request.path_params['name']}/")
        for key, _ in versions:
            azure.store.delete(self.kind, key)
        return Response(status_code=200 if versions else 204)

    async def list_versions(self, azure: Azure, request: Request) -> Answer:
        """List the versions of a name, newest first."""
        versions = self.find_all(azure, request.path_params["name"])
        return self._page(request, [self._render(azure, key, stored) for key, stored in reversed(versions)])

    async def get_version(self, azure: Azure, request: Request) -> Answer:
        """Return one version, or the default one: the latest."""
        name, version = request.path_params["name"], request.path_params["version"]
        if version == DEFAULT and self.has_default:
            version = self.find_latest(azure, name) or version
        stored = self.get(azure, name, version)
        if stored is None:
            raise self._absent(name, version)
        return self._render(azure, f"{name}/{version}", stored)

    async def put_version(self, azure: Azure, request: Request) -> Answer:
        """Create a version, or change one where that is allowed."""
        name, version = request.path_params["name"], request.path_params["version"]
        sent = (await read_json(request)).get("properties")
        if self._version_of is not None:
            version = self._version_of(name, sent) or version
        exists = azure.store.get(self.kind, f"{name}/{version}") is not None
        stored = self.store(azure, name, version, sent)
        resource = self._render(azure, f"{name}/{version}", stored)
        return put_response(request, resource, is_new=self._is_new(azure, stored, exists))

    async def delete_version(self, azure: Azure, request: Request) -> Answer:
        """Delete a version. 204 if it does not exist."""
        deleted = azure.store.delete(self.kind, f"{request.path_params['name']}/{request.path_params['version']}")
        return Response(status_code=200 if deleted else 204)

    def _page(self, request: Request, items: list[dict[str, Any]]) -> dict[str, Any]:
        query = request.query_params
        if unsupported := sorted(set(query) - PARAMETERS):
            raise not_implemented(f"listing {self.kind} by {', '.join(unsupported)}")
        items = select_view(request, items)
        if query.get("$orderBy", "createdtime desc").lower().endswith("asc"):
            items.reverse()
        top, begin = query.get("$top", ""), query.get("$skip", "0")
        if not begin.isdecimal() or (top and not top.isdecimal()):
            raise user_error(f"The query is invalid: $top={top}, $skip={begin}.")
        end = int(begin) + (int(top) if top else PAGE)
        page = list_response(items[int(begin) : end])
        if end < len(items) and not top:
            page["nextLink"] = str(request.url.include_query_params(**{"$skip": end}))
        return page

    def _render_name(self, azure: Azure, name: str, versions: list[tuple[str, Document]]) -> dict[str, Any]:
        key, newest = versions[-1]
        properties: dict[str, Any] = {
            "description": None,
            "tags": None if self.kind == "data" else {},
            "properties": None if self.kind == "data" else {},
            "isArchived": all(stored["properties"].get("isArchived") for _, stored in versions),
            "latestVersion": key.partition("/")[2],
            "nextVersion": self.next_version(azure, name),
            **({"dataType": newest["properties"]["dataType"]} if "dataType" in newest["properties"] else {}),
        }
        return render_resource(arm_id(azure, self.kind, name), self.kind, name, newest, properties=properties)

    def _render(self, azure: Azure, key: str, stored: Document) -> dict[str, Any]:
        name, _, version = key.partition("/")
        defaults: dict[str, Any] = {"description": None, "tags": {}, "properties": {}, "isArchived": False, "isAnonymous": False}
        properties = defaults | self._show({key: value for key, value in stored["properties"].items() if value is not None})
        path = arm_id(azure, self.kind, name, "versions", version)
        return render_resource(path, f"{self.kind}/versions", version, stored, properties=properties)
