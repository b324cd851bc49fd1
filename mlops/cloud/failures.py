"""The table of Azure's failures: the codes and texts that identify each, what it means and what to do.

The names of deployment failures are those of Microsoft's "How to troubleshoot online endpoints". The service names the class in a code or
in the message; otherwise the text, the container's log or the HTTP status decides.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import StrEnum

__all__ = ["FAILURES", "FailureClass", "Kind", "classify", "classify_request"]


class Kind(StrEnum):
    """The kind of a failure, which determines who can fix it."""

    QUOTA = "quota"
    SKU = "VM size"
    IMAGE = "image"
    PROBE = "probe"
    AUTHORIZATION = "authorization"
    NAME_TAKEN = "name taken"
    NETWORK = "network"
    THROTTLED = "throttled"
    TRANSIENT = "transient"
    SERVICE = "service"
    DEPLOYMENT = "deployment"
    """Something in the model or in the settings of a deployment."""


@dataclass(frozen=True)
class FailureClass:
    """A class of failures and how to fix them."""

    name: str
    kind: Kind
    meaning: str
    advice: str
    codes: tuple[str, ...] = ()
    """Other codes of the same failure, in lower case."""
    text: str = ""
    """Pattern of messages, if the code doesn't say it; case is ignored."""
    statuses: tuple[int, ...] = ()
    """HTTP statuses that mean this if nothing else is more specific; 0 for no response."""


FAILURES = (
    FailureClass(
        "OutOfQuota",
        Kind.QUOTA,
        "the subscription does not have enough quota for the instances",
        "request quota for this VM family in this region (Azure portal, Quotas), choose another size in pipeline.toml (compute.size or "
        "endpoint.instance_type), or delete unused deployments",
        codes=(
            "quotaexceeded", "jobnodecountexceedscorequota", "clustercorequotareached", "clusterminnodesexceedcorequota",
            "clustermaxnodesexceedcorequota",
        ),
        text=r"\bquota\b",
    ),
    FailureClass(
        "SkuNotAvailable",
        Kind.SKU,
        "the VM size does not exist in this region, is not offered to the subscription, or has no capacity left",
        "choose another size in pipeline.toml (compute.size or endpoint.instance_type): one that the workspace's region offers "
        "(az ml compute list-sizes), or wait if it is a lack of capacity",
        codes=("allocationfailed", "invalidvmsize", "vmsizenotsupported", "skunotsupported", "overconstrainedallocationrequest"),
        text=r"\b(VM size|SKU)\b.*\b(not (supported|available|valid)|no capacity)|no capacity for its VM size",
    ),
    FailureClass(
        "ImageBuildFailure",
        Kind.IMAGE,
        "the container image could not be built from the model's environment",
        "read the build log in the workspace's storage (azureml/ImageLogs) and fix the model's conda.yaml or requirements",
        codes=("imagebuildfailed",),
        text=r"\bimage build\b.*\bfail",
    ),
    FailureClass(
        "WorkspaceManagedNetworkNotReady",
        Kind.DEPLOYMENT,
        "the workspace's managed network is not provisioned",
        "provision it (az ml workspace provision-network) and run the command again",
    ),
    FailureClass(
        "ScoringScript",
        Kind.DEPLOYMENT,
        "the container started, but the model's code failed",
        "read the log: the model could not be loaded, or a package is missing from its environment. If a newer transformers saved it, "
        "set endpoint.environment (docs/serving.md)",
    ),
    FailureClass(
        "ResourceNotReady",
        Kind.PROBE,
        "the container never answered its probes",
        "raise endpoint.probe_initial_delay_s if the model loads slowly, or set a larger endpoint.instance_type; otherwise read the log",
    ),
    FailureClass(
        "ResourceNotFound",
        Kind.DEPLOYMENT,
        "a resource that the deployment refers to does not exist",
        "check that the registered model and the endpoint still exist (`mlops show`)",
        codes=("notfound", "modelnotfound", "nosuchendpoint"),
    ),
    FailureClass(
        "SecretsInjectionError",
        Kind.DEPLOYMENT,
        "secrets could not be injected into the container",
        "check that the endpoint's identity can access the workspace's connections and key vault",
    ),
    FailureClass(
        "OperationCanceled",
        Kind.DEPLOYMENT,
        "the operation was canceled or replaced by one with a higher priority",
        "run the command again",
        codes=("operationcancelled", "canceled"),
    ),
    FailureClass(
        "BadArgument",
        Kind.DEPLOYMENT,
        "the service rejects a setting of the deployment",
        "check [endpoint] in pipeline.toml: instance type, probe and request settings",
    ),
    FailureClass(
        "AuthorizationFailed",
        Kind.AUTHORIZATION,
        "the identity may not do this",
        "give our identity the role AzureML Data Scientist (or Contributor) on the workspace; `mlops roles` prints the smallest one",
        codes=("linkedauthorizationfailed", "forbidden"),
        text=r"\bnot allowed to access registry\b|\bdoes not have authorization\b",
        statuses=(401, 403),
    ),
    FailureClass(
        "PrivateNetwork",
        Kind.NETWORK,
        "the workspace or its storage refuses requests from public networks, and this machine is not in its virtual network",
        "run this in the workspace's virtual network, on GitHub with a self-hosted runner there (docs/azure.md)",
        codes=("authorizationfailure",),
        text=r"\bprivate (link|endpoint)\b|\bpublic (network )?access is (disabled|not allowed)\b",
    ),
    FailureClass(
        "NameTaken",
        Kind.NAME_TAKEN,
        "somebody in this region, perhaps in another subscription, has an endpoint of this name",
        "set another endpoint.name, or endpoint.workspace_suffix = true, in pipeline.toml",
        text=r"already an endpoint with this name|name needs to be unique within a region",
    ),
    FailureClass(
        "TooManyRequests",
        Kind.THROTTLED,
        "the service limits the rate of requests",
        "wait, then run the command again; it continues where it stopped",
        statuses=(429,),
    ),
    FailureClass(
        "TransientError",
        Kind.TRANSIENT,
        "the service or the network did not answer in time",
        "this looks like a temporary problem of the service or the network; run the command again; it continues where it stopped",
        codes=("serviceunavailable", "gatewaytimeout"),
        text=r"\bservice invocation timed out\b",
        statuses=(0, 408, 502, 503, 504),
    ),
    FailureClass(
        "InternalServerError",
        Kind.SERVICE,
        "the service failed",
        "this looks like a problem of the service; run the command again; it continues where it stopped; if it fails again, contact "
        "Azure support and give the time",
        codes=("internalerror", "serviceerror"),
        statuses=(500,),
    ),
)  # fmt: skip
"""In order of precedence for matching by text."""

_BY_NAME = {failure.name.lower(): failure for failure in FAILURES}
_BY_CODE = {code: failure for failure in FAILURES for code in (failure.name.lower(), *failure.codes)}
_UNKNOWN = FailureClass(
    "Unknown", Kind.DEPLOYMENT, "the service gave no recognized reason", "read the log, and look at the deployment's page in the studio"
)
_TRACEBACK = re.compile(r"^Traceback \(most recent call last\)|^\w*(Error|Exception): ", re.MULTILINE)
_NAME_IN_TEXT = re.compile(r"\b(?:[A-Z][a-z]+){2,}\b")


def classify(codes: tuple[str, ...], message: str, log: str = "") -> FailureClass:
    """Return the class of a failed deployment.

    Args:
        codes: the service's error codes, outermost first.
        message: its message.
        log: the container's log, or empty.
    """
    failure = _match(codes, message)
    # A container that dies with a traceback never answers its probe either; the traceback is the reason.
    if _TRACEBACK.search(log) and (failure is None or failure.kind is Kind.PROBE):
        return _BY_NAME["scoringscript"]
    return failure or _UNKNOWN


def classify_request(status: int, codes: tuple[str, ...], message: str) -> FailureClass | None:
    """Return the class of a request or operation that failed; None if its own message has to suffice.

    Args:
        status: HTTP status, 0 if there was no response.
        codes: the service's error codes, outermost first.
        message: its message.
    """
    failure = _match(codes, message)
    if failure is None or failure.kind is Kind.DEPLOYMENT:
        failure = next((each for each in FAILURES if status in each.statuses), None)
    return failure or (_BY_NAME["internalservererror"] if status >= 500 else None)


def _match(codes: tuple[str, ...], message: str) -> FailureClass | None:
    # Innermost first: outer codes are often just UserError or BadRequest.
    names = [*reversed(codes), *_NAME_IN_TEXT.findall(message)]
    by_code = next((failure for name in names if (failure := _BY_CODE.get(name.lower())) is not None), None)
    by_text = next((each for each in FAILURES if each.text and re.search(each.text, message, re.IGNORECASE | re.DOTALL)), None)
    # A text is more specific than a status of 400 or 500. A network is refused with the same status as a permission.
    vague = by_code is None or by_code.name in ("BadArgument", "InternalServerError", "TransientError", "ResourceNotFound")
    vague = vague or (by_text is not None and by_text.kind is Kind.NETWORK and by_code is not None and by_code.kind is Kind.AUTHORIZATION)
    return by_text if by_text is not None and vague else by_code
