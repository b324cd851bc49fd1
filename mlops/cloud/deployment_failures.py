"""Why a deployment did not become healthy: the service's failure class, its meaning and advice.

The classes are those of Microsoft's "How to troubleshoot online endpoints". The service names the class in its error code or in the
message; otherwise the container's log decides.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

__all__ = ["FailureClass", "classify"]


@dataclass(frozen=True)
class FailureClass:
    """A class of failures and how to fix them."""

    name: str
    meaning: str
    advice: str


_CLASSES = (
    FailureClass(
        "OutOfQuota",
        "the subscription does not have enough quota for the instances",
        "request quota for this VM family in this region (Azure portal, Quotas), set another endpoint.instance_type, or delete unused "
        "deployments",
    ),
    FailureClass(
        "ImageBuildFailure",
        "the container image could not be built from the model's environment",
        "read the build log in the workspace's storage (azureml/ImageLogs) and fix the model's conda.yaml or requirements",
    ),
    FailureClass(
        "WorkspaceManagedNetworkNotReady",
        "the workspace's managed network is not provisioned",
        "provision it (az ml workspace provision-network) and run the command again",
    ),
    FailureClass(
        "ScoringScript",
        "the container started, but the model's code failed",
        "read the log: the model could not be loaded, or a package is missing from its environment. If a newer transformers saved it, "
        "set endpoint.environment (docs/serving.md)",
    ),
    FailureClass(
        "ResourceNotReady",
        "the container never answered its probes",
        "raise endpoint.probe_initial_delay_s if the model loads slowly, or set a larger endpoint.instance_type; otherwise read the log",
    ),
    FailureClass(
        "ResourceNotFound",
        "a resource that the deployment refers to does not exist",
        "check that the registered model and the endpoint still exist (`mlops show`)",
    ),
    FailureClass(
        "SecretsInjectionError",
        "secrets could not be injected into the container",
        "check that the endpoint's identity can access the workspace's connections and key vault",
    ),
    FailureClass("OperationCanceled", "the operation was canceled or replaced by one with a higher priority", "run the command again"),
    FailureClass(
        "BadArgument",
        "the service rejects a setting of the deployment",
        "check [endpoint] in pipeline.toml: instance type, probe and request settings",
    ),
    FailureClass(
        "InternalServerError",
        "the service failed",
        "run the command again; if it fails again, contact Azure support with its time",
    ),
)
_BY_NAME = {failure.name.lower(): failure for failure in _CLASSES}
_SYNONYMS = {
    "quotaexceeded": "outofquota",
    "imagebuildfailed": "imagebuildfailure",
    "operationcancelled": "operationcanceled",
    "canceled": "operationcanceled",
    "notfound": "resourcenotfound",
    "modelnotfound": "resourcenotfound",
    "nosuchendpoint": "resourcenotfound",
    "internalerror": "internalservererror",
    "serviceerror": "internalservererror",
}
_UNKNOWN = FailureClass("Unknown", "the service gave no recognized reason", "read the log, and look at the deployment's page in the studio")
_TRACEBACK = re.compile(r"^Traceback \(most recent call last\)|^\w*(Error|Exception): ", re.MULTILINE)


def classify(codes: tuple[str, ...], message: str, log: str = "") -> FailureClass:
    """Return the class of a failed deployment.

    Args:
        codes: the service's error codes, outermost first.
        message: its message.
        log: the container's log, or empty.
    """
    # Innermost first: outer codes are often just UserError or BadRequest.
    words = [code.lower() for code in reversed(codes)]
    words += [word.lower() for word in re.findall(r"[A-Za-z]+", message)]
    for word in words:
        failure = _BY_NAME.get(_SYNONYMS.get(word, word))
        if failure is None:
            continue
        # A container that dies with a traceback never answers its probe either; the traceback is the reason.
        if failure.name == "ResourceNotReady" and _TRACEBACK.search(log):
            return _BY_NAME["scoringscript"]
        return failure
    if "quota" in message.lower():
        return _BY_NAME["outofquota"]
    return _BY_NAME["scoringscript"] if _TRACEBACK.search(log) else _UNKNOWN
