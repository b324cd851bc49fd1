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
        pytest.param(("UserError", "ResourceNotReady"), "User container has crashed", TRACE, "ScoringScript", id="probe-with-traceback"),
        pytest.param((), "its state is Failed", TRACE, "ScoringScript", id="traceback-only"),
        pytest.param(("UserError", "ModelNotFound"), "no such model", "", "ResourceNotFound", id="model-gone"),
        pytest.param(("OperationCanceled",), "the operation was canceled", "", "OperationCanceled", id="cancelled"),
        pytest.param(("InternalServerError",), "oh", "", "InternalServerError", id="internal"),
        pytest.param(("UserError", "BadArgument"), "oh", "", "BadArgument", id="argument"),
        pytest.param((), "its state is Failed", "", "Unknown", id="nothing-known"),
    ],
)
def test_a_failure_gets_the_class_that_says_what_to_do(codes: tuple[str, ...], message: str, log: str, expected: str) -> None:
    found = classify(codes, message, log)
    assert found.name == expected
    assert found.advice


def test_the_innermost_code_wins() -> None:
    assert classify(("BadArgument", "OutOfQuota"), "").name == "OutOfQuota"
