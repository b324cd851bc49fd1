"""Scoring with any MLflow model: tables and tensors, as Azure's no-code server takes them.

| ``input_data`` | the model gets |
|---|---|
| ``{"columns": […], "index": […], "data": [[…], …]}`` (``index`` is optional) | a pandas frame |
| a list | a numpy array |
| any other object: name → list | a dict of numpy arrays |

``params`` beside it are MLflow's inference parameters. The model's signature, if it has one, is enforced by MLflow; the types of tensors
follow it. MLflow's own server names its keys differently (``dataframe_split``, ``inputs``, …), and Azure does not accept those.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from mlops.emulator.serving.container.calls import Call, InvalidPayload

__all__ = ["make_call", "parse", "to_json"]

ACCEPTED = (
    '{"input_data": {"columns": […], "index": […], "data": [[…], …]}}, {"input_data": [[…], …]} or'
    ' {"input_data": {"NAME": […], …}}, with "params" if the model has any'
)


def make_call(model: Any) -> Call:
    """Return the function that scores with a loaded ``mlflow.pyfunc`` model."""

    def call(body: bytes, _headers: Mapping[str, str]) -> Any:
        data, params = parse(body, model.metadata.signature)
        return to_json(model.predict(data, params=params) if params else model.predict(data))

    return call


def parse(body: bytes, signature: Any) -> tuple[Any, dict[str, Any]]:
    """Return the model's input and its parameters.

    Args:
        body: of the request.
        signature: the model's ``mlflow.models.ModelSignature``, or None.

    Raises:
        InvalidPayload: it is none of the above.
    """
    try:
        payload = json.loads(body)
    except ValueError as problem:
        raise InvalidPayload(f"The body is not JSON: {problem}. Accepted: {ACCEPTED}.") from None
    if not isinstance(payload, dict) or "input_data" not in payload or set(payload) - {"input_data", "params"}:
        keys = ", ".join(map(str, payload)) if isinstance(payload, dict) else type(payload).__name__
        raise InvalidPayload(f"The payload ({keys}) is not accepted. Accepted: {ACCEPTED}.")
    params = payload.get("params") or {}
    if not isinstance(params, dict):
        raise InvalidPayload(f"params is not an object. Accepted: {ACCEPTED}.")
    try:
        return _convert(payload["input_data"], _tensor_types(signature)), params
    except (ValueError, TypeError) as problem:
        raise InvalidPayload(f"input_data can't be converted: {problem}. Accepted: {ACCEPTED}.") from None


def _convert(data: Any, types: Mapping[str | None, Any]) -> Any:
    import numpy
    import pandas

    if isinstance(data, dict) and {"columns", "data"} <= set(data) <= {"columns", "index", "data"}:
        return pandas.DataFrame(data["data"], columns=data["columns"], index=data.get("index"))
    if isinstance(data, dict):
        return {name: numpy.asarray(value, dtype=types.get(name)) for name, value in data.items()}
    if isinstance(data, list):
        return numpy.asarray(data, dtype=types.get(None))
    raise TypeError(f"it is of type {type(data).__name__}")


def _tensor_types(signature: Any) -> dict[str | None, Any]:
    """Return name → numpy type of the tensors in a signature; a single one without a name is None."""
    if signature is None or signature.inputs is None or not signature.inputs.is_tensor_spec():
        return {}
    return {spec.name: spec.type for spec in signature.inputs.inputs}


def to_json(result: Any) -> Any:
    """Return a prediction as plain JSON values: a frame as a list of its rows, an array as nested lists."""
    if hasattr(result, "to_json"):
        return json.loads(result.to_json(orient="records"))
    if hasattr(result, "tolist"):
        return to_json(result.tolist())
    if isinstance(result, dict):
        return {str(name): to_json(value) for name, value in result.items()}
    if isinstance(result, (list, tuple)):
        return [to_json(value) for value in result]
    return result
