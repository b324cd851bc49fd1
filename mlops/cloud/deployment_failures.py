"""Why a deployment did not become healthy, in the service's classes and in words.

The classes are those of Microsoft's "How to troubleshoot online endpoints". The service names the class in its error code or at the
start of the message; where it doesn't, the container's log decides.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

__all__ = ["FailureClass", "classify"]


@dataclass(frozen=True)
class FailureClass:
    """A kind of failure and what to do about it."""

    name: str
    means: str
    advice: str


_CLASSES = (
    FailureClass(
        "OutOfQuota",
        "the subscription has not enough quota for the instances",
        "ask for quota of this VM family in this region (Azure portal, Quotas), take another endpoint.instance_type, or delete deployments "
        "that nobody uses",
    ),
    FailureClass(
        "ImageBuildFailure",
        "the container image could not be built from the model's environment",
        "read the build log in the workspace's storage (azureml/ImageLogs) and mend the model's conda.yaml or requirements",
    ),
    FailureClass(
        "WorkspaceManagedNetworkNotReady",
        "the workspace's managed network is not provisioned",
        "provision it (az ml workspace provision-network) and run the command again",
    ),
    FailureClass(
        "ScoringScript",
        "the container started and the model's code failed in it",
        "read the log: the model could not be loaded, or a package is missing from its environment",
    ),
    FailureClass(
        "ResourceNotReady",
        "the container never answered its probes",
        "raise endpoint.probe_initial_delay_s if the model just loads slowly, or take a larger endpoint.instance_type; else read the log",
    ),
    FailureClass(
        "ResourceNotFound",
        "something that the deployment names does not exist",
        "check that the registered model and the endpoint still exist (`mlops show`)",
    ),
    FailureClass(
        "SecretsInjectionError",
        "secrets could not be put into the container",
        "check the endpoint identity's access to the workspace's connections and key vault",
    ),
    FailureClass("OperationCanceled", "somebody or something with a higher priority ended the operation", "run the command again"),
    FailureClass(
        "BadArgument",
        "the service does not accept a setting of the deployment",
        "check [endpoint] in pipeline.toml: instance type, probe and request settings",
    ),
    FailureClass(
        "InternalServerError", "the service failed", "run the command again; if it fails again, ask Azure support with the time above"
    ),
)
_BY_NAME = {entry.name.lower(): entry for entry in _CLASSES}
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
_UNKNOWN = FailureClass("Unknown", "the service gave no reason that is known here", "read the log and the deployment's page in the studio")
_TRACE = re.compile(r"^Traceback \(most recent call last\)|^\w*(Error|Exception): ", re.MULTILINE)


def classify(codes: tuple[str, ...], message: str, log: str = "") -> FailureClass:
    """The class of a failed deployment.

    Args:
        codes: the service's error codes, outermost first.
        message: its message.
        log: the container's log, if there is one.
    """
    # Innermost first: outer codes are often no more than UserError or BadRequest.
    words = [code.lower() for code in reversed(codes)]
    words += [word.lower() for word in re.findall(r"[A-Za-z]+", message)]
    for word in words:
        found = _BY_NAME.get(_SYNONYMS.get(word, word))
        if found is None:
            continue
        # A container that dies with a traceback also never answers its probe: the traceback is the reason.
        if found.name == "ResourceNotReady" and _TRACE.search(log):
            return _BY_NAME["scoringscript"]
        return found
    if "quota" in message.lower():
        return _BY_NAME["outofquota"]
    return _BY_NAME["scoringscript"] if _TRACE.search(log) else _UNKNOWN
