from __future__ import annotations

import pytest

from mlops.cloud.failures import FAILURES, Kind, classify, classify_request

TRACE = "Traceback (most recent call last):\n  File 'score.py'\nRuntimeError: no such weights\n"


@pytest.mark.parametrize(
    ("codes", "message", "log", "expected"),
    [
        pytest.param(
            (),
            "(None) OutOfQuota: Not enough cluster CPU quota. The amount of additional CPU quota requested is 8",
            "",
            "OutOfQuota",
            id="quota-in-message-only",
        ),
        pytest.param(("BadRequest",), "The specified subscription has a total vCPU quota of 0", "", "OutOfQuota", id="quota-in-words"),
        pytest.param(("ImageBuildFailure",), "failed", "", "ImageBuildFailure", id="image"),
        pytest.param(("UserError", "ResourceNotReady"), "User container has crashed", "", "ResourceNotReady", id="probe"),
        pytest.param(("UserError", "ResourceNotReady"), "User container has crashed", TRACE, "ScoringScript", id="probe-trace"),
        pytest.param((), "its state is Failed", TRACE, "ScoringScript", id="traceback-only"),
        pytest.param(("UserError", "ModelNotFound"), "no such model", "", "ResourceNotFound", id="model-gone"),
        pytest.param(("OperationCanceled",), "the operation was canceled", "", "OperationCanceled", id="cancelled"),
        pytest.param(("InternalServerError",), "oh", "", "InternalServerError", id="internal"),
        pytest.param(("UserError", "BadArgument"), "oh", "", "BadArgument", id="argument"),
        pytest.param((), "its state is Failed", "", "Unknown", id="unrecognized"),
    ],
)
def test_a_failure_is_classified_and_has_advice(codes: tuple[str, ...], message: str, log: str, expected: str) -> None:
    failure = classify(codes, message, log)
    assert failure.name == expected
    assert failure.advice


def test_the_innermost_code_wins() -> None:
    assert classify(("BadArgument", "OutOfQuota"), "").name == "OutOfQuota"


@pytest.mark.parametrize(
    ("status", "codes", "message", "kind"),
    [
        pytest.param(
            400,
            ("BadRequest",),
            "The specified subscription has a total vCPU quota of 0 and cannot accomodate for at least 1 requested managed compute node "
            "which maps to 2 vCPUs.",
            Kind.QUOTA,
            id="compute-quota",
        ),
        pytest.param(
            200,
            ("ClusterCoreQuotaReached",),
            "Operation results in exceeding quota limits of Total Cluster Dedicated Regional vCPUs.",
            Kind.QUOTA,
            id="cluster-quota",
        ),
        pytest.param(400, ("JobNodeCountExceedsCoreQuota",), "The node count is too high.", Kind.QUOTA, id="job-quota"),
        pytest.param(
            200,
            (),
            "(None) OutOfQuota: Not enough cluster CPU quota. The amount of additional CPU quota requested is 8, and you are currently "
            "using 14. Your amount of maximum quota is 20.",
            Kind.QUOTA,
            id="deployment-quota",
        ),
        pytest.param(400, ("BadArgument",), "The specified VM size 'Standard_X' is not supported in eastus.", Kind.SKU, id="size"),
        pytest.param(500, ("AllocationFailed",), "Provisioning failed.", Kind.SKU, id="capacity"),
        pytest.param(200, ("ImageBuildFailure",), "The image could not be built.", Kind.IMAGE, id="image"),
        pytest.param(200, ("UserError", "ResourceNotReady"), "User container has crashed or terminated.", Kind.PROBE, id="probe"),
        pytest.param(403, ("AuthorizationFailed",), "The client does not have authorization.", Kind.AUTHORIZATION, id="role"),
        pytest.param(
            401, ("UserError",), "User/tenant/subscription is not allowed to access registry r", Kind.AUTHORIZATION, id="registry"
        ),
        pytest.param(
            400,
            ("InferencingClientCallFailed",),
            "There is already an endpoint with this name, Endpoint name needs to be unique within a region. Try some other name.",
            Kind.NAME_TAKEN,
            id="name",
        ),
        pytest.param(
            403,
            ("UserError", "Forbidden"),
            "Access to workspace was denied based on workspace private link configuration.",
            Kind.NETWORK,
            id="private-workspace",
        ),
        pytest.param(
            403, ("AuthorizationFailure",), "This request is not authorized to perform this operation.", Kind.NETWORK, id="private-storage"
        ),
        pytest.param(
            403,
            ("AuthorizationPermissionMismatch",),
            "This request is not authorized to perform this operation using this permission.",
            Kind.AUTHORIZATION,
            id="storage-role",
        ),
        pytest.param(429, ("TooManyRequests",), "The request is being throttled.", Kind.THROTTLED, id="throttled"),
        pytest.param(504, ("TransientError",), "Service invocation timed out.", Kind.TRANSIENT, id="timeout"),
        pytest.param(0, (), "connection refused", Kind.TRANSIENT, id="no-response"),
        pytest.param(500, ("ServiceError", "InternalServerError"), "InternalServerError", Kind.SERVICE, id="service"),
        pytest.param(507, (), "no space", Kind.SERVICE, id="another-5xx"),
    ],
)
def test_a_failed_request_is_classified(status: int, codes: tuple[str, ...], message: str, kind: Kind) -> None:
    failure = classify_request(status, codes, message)
    assert failure is not None
    assert failure.kind is kind


@pytest.mark.parametrize(
    ("status", "codes", "message"),
    [
        (400, ("UserError", "BadArgument", "ArgumentInvalid"), "The pipeline run j is in terminal status, it can't be canceled."),
        (404, ("UserError", "NotFound", "JobNotFound"), "Job j not found."),
        (400, ("UserError",), 'Failed to update component n since field "code" is immutable, try specifying a new version.'),
    ],
)
def test_a_failure_that_only_its_own_message_explains_has_no_class(status: int, codes: tuple[str, ...], message: str) -> None:
    assert classify_request(status, codes, message) is None


def test_every_kind_is_in_the_table_and_every_class_says_what_to_do() -> None:
    assert {failure.kind for failure in FAILURES} == set(Kind)
    assert all(failure.meaning and failure.advice for failure in FAILURES)
