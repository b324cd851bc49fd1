from __future__ import annotations

import pytest

from mlops.cloud.deployment_failures import classify

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
