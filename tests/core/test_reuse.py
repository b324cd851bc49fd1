from __future__ import annotations

import pytest
from pydantic import BaseModel

from mlops.core.reuse import reuse_key


class Oven(BaseModel):
    degrees: int = 180
    color: str = "white"


EXCLUDED = {"oven.color": "does not change the cake"}


def key(oven: Oven | None = None, **facts: object) -> str:
    return reuse_key({"oven": oven or Oven()}, EXCLUDED, **facts)


def test_settings_and_facts_change_the_key_and_excluded_settings_do_not() -> None:
    keys = {key(), key(Oven(degrees=200)), key(flour="rye"), key(flour="wheat")}
    assert len(keys) == 4
    assert key(Oven(color="black")) == key()


def test_the_order_of_facts_does_not_change_the_key() -> None:
    assert key(a=1, b={"c": 1, "d": 2}) == key(b={"d": 2, "c": 1}, a=1)


def test_the_same_setting_of_another_section_gives_another_key() -> None:
    assert reuse_key({"a": Oven()}, {}) != reuse_key({"b": Oven()}, {})


def test_an_excluded_name_that_does_not_exist_is_an_error() -> None:
    with pytest.raises(ValueError, match=r"oven\.colour"):
        reuse_key({"oven": Oven()}, {"oven.colour": "a typo"})


def test_a_fact_that_is_not_a_number_is_an_error() -> None:
    with pytest.raises(ValueError, match="JSON"):
        key(degrees=float("nan"))
