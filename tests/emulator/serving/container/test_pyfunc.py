"""Payloads of MLflow models that are no chat models, without a model."""

from __future__ import annotations

import json
from typing import Any

import numpy
import pandas
import pytest
from mlflow.models import ModelSignature
from mlflow.types.schema import Schema, TensorSpec

from mlops.emulator.serving.container.calls import InvalidPayload
from mlops.emulator.serving.container.pyfunc import parse, to_json


def body(data: Any, **more: Any) -> bytes:
    return json.dumps({"input_data": data, **more}).encode()


def test_a_table_becomes_a_frame() -> None:
    frame, params = parse(body({"columns": ["a", "b"], "index": [7, 9], "data": [[1, "x"], [2, None]]}, params={"k": 1}), None)
    assert params == {"k": 1}
    pandas.testing.assert_frame_equal(frame, pandas.DataFrame({"a": [1, 2], "b": ["x", None]}, index=[7, 9]))
    frame, params = parse(body({"columns": ["a"], "data": [[1.5]]}), None)
    assert (frame.to_dict(), params) == ({"a": {0: 1.5}}, {})


def test_lists_become_tensors_of_the_type_in_the_signature() -> None:
    array, _ = parse(body([[1, 2], [3, 4]]), None)
    assert (array.shape, array.dtype.kind) == ((2, 2), "i")
    named, _ = parse(body({"x": [[1.0]], "y": ["a"]}), None)
    assert {name: value.shape for name, value in named.items()} == {"x": (1, 1), "y": (1,)}
    single = ModelSignature(Schema([TensorSpec(numpy.dtype("float32"), (-1, 2))]))
    assert parse(body([[1, 2]]), single)[0].dtype == numpy.float32
    several = ModelSignature(
        Schema([TensorSpec(numpy.dtype("float64"), (-1,), name="x"), TensorSpec(numpy.dtype("int64"), (-1,), name="y")])
    )
    named, _ = parse(body({"x": [1], "y": [2]}), several)
    assert (named["x"].dtype, named["y"].dtype) == (numpy.float64, numpy.int64)


@pytest.mark.parametrize(
    "content",
    [
        b"", b"{", b"[1]", b"null", b"\xff", b"{}", b'{"dataframe_split": {"columns": ["a"], "data": [[1]]}}', b'{"inputs": [[1]]}',
        b'{"input_data": [[1]], "more": {}}', b'{"input_data": [[1]], "params": [1]}', b'{"input_data": "text"}', b'{"input_data": 1}',
        b'{"input_data": {"columns": ["a"], "data": [[1, 2]]}}', b'{"input_data": [[1], [1, 2]]}',
    ],
)  # fmt: skip
def test_anything_else_is_refused_with_what_is_accepted(content: bytes) -> None:
    with pytest.raises(InvalidPayload, match=r"Accepted: \{"):
        parse(content, None)


@pytest.mark.parametrize(
    ("result", "expected"),
    [
        (pandas.DataFrame({"a": [1, 2], "b": [None, "x"]}), [{"a": 1, "b": None}, {"a": 2, "b": "x"}]),
        (numpy.array([[1.5, 2.0]], dtype="float32"), [[1.5, 2.0]]),
        (pandas.Series([1, 2]), [1, 2]),
        ({"label": numpy.array(["a"]), 0: numpy.int64(3)}, {"label": ["a"], "0": 3}),
        (["a", (numpy.float64(0.5),)], ["a", [0.5]]),
    ],
)
def test_predictions_are_plain_json(result: Any, expected: Any) -> None:
    assert json.loads(json.dumps(to_json(result))) == expected
