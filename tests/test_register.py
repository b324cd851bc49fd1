from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone

import pytest

from mlops.register import NAME, version

KEY = "0123456789abcdef" * 4


def test_a_job_always_gets_the_same_version_in_every_time_zone() -> None:
    moment = datetime(2026, 9, 22, 10, 30, 0, tzinfo=UTC)
    assert version(moment, KEY) == "20260922103000-01234567"
    assert version(moment.astimezone(timezone(timedelta(hours=9))), KEY) == version(moment, KEY)


def test_two_jobs_of_one_second_get_two_versions() -> None:
    moment = datetime(2026, 9, 22, tzinfo=UTC)
    assert version(moment, KEY) != version(moment, KEY[::-1])


@pytest.mark.parametrize(
    ("name", "good"),
    [("ultrachat-phi-3-mini", True), ("a" * 255, True), ("a" * 256, False), ("-a", False), ("a b", False), ("", False), ("a\n", False)],
)
def test_the_rule_for_names_of_models(name: str, good: bool) -> None:
    assert bool(NAME.fullmatch(name)) is good
