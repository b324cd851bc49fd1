"""The MLflow model that the component produces: a chat model behind ``mlflow.pyfunc``.

This file is copied into every model (models-from-code), so it is self-contained: it imports nothing of its package.
``predict`` takes the payloads of Azure ML's managed endpoints, flat and nested::

    {"input_string": [{"role": "user", "content": "Hi"}], "parameters": {"max_new_tokens": 50}}
    {"input_string": [[{"role": "user", "content": "Hi"}], [...]]}

and returns ``{"output": "…"}`` for one conversation and ``{"output": ["…", "…"]}`` for a list of several. The model has no signature:
Azure's own scoring script loads a pyfunc without one, and passes either a dict of numpy arrays or the request as it is.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import mlflow.pyfunc
from mlflow.models import set_model

MODEL = "model"
"""Name of the artifact: a Hugging Face folder, with the adapter next to the weights if they are not merged."""

ACCEPTED = (
    '{"input_data": {"input_string": [{"role": "user", "content": "…"}, …] or a list of such lists, '
    '"parameters": {"max_new_tokens": 200, "do_sample": true, "temperature": 0.6, "top_p": 0.9}}}'
)

ROLES = ("system", "user", "assistant")

PARAMETERS: dict[str, tuple[type, Any, Callable[[Any], bool]]] = {
    "max_new_tokens": (int, 128, lambda value: value >= 1),
    "do_sample": (bool, False, lambda value: value in (True, False)),
    "temperature": (float, 1.0, lambda value: 0 <= value <= 100),
    "top_p": (float, 1.0, lambda value: 0 < value <= 1),
    "top_k": (int, 0, lambda value: value >= 0),
    "repetition_penalty": (float, 1.0, lambda value: 0 < value <= 100),
    "return_full_text": (bool, False, lambda value: value is False),
}
"""Name → type, default, check of the range. Names are those of Hugging Face's text generation."""


def to_plain(value: Any) -> Any:
    """Convert numpy arrays and pandas frames to lists, dicts and scalars; return other values as they are."""
    if hasattr(value, "to_dict") and hasattr(value, "columns"):
        return {str(name): to_plain(list(value[name])) for name in value.columns}
    if hasattr(value, "tolist"):
        return to_plain(value.tolist())
    if isinstance(value, dict):
        return {str(name): to_plain(item) for name, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [to_plain(item) for item in value]
    return value


def parse(payload: Any) -> tuple[list[Any], dict[str, Any]]:
    """Return the conversations and the parameters with their defaults.

    Args:
        payload: see the module; also the whole request body with ``input_data``, or a frame with a column ``input_string`` (a row per
            message or per conversation).

    Raises:
        ValueError: what is wrong, and what is accepted.
    """
    payload = to_plain(payload)
    sources = []
    if isinstance(payload, dict) and "input_data" in payload:
        sources.append(payload.get("params"))
        payload = payload["input_data"]
    if isinstance(payload, dict):
        if "input_string" not in payload or set(payload) - {"input_string", "parameters", "params"}:
            raise ValueError(f"The keys {', '.join(payload)} are not accepted. Accepted: {ACCEPTED}")
        sources += [payload.get("params"), payload.get("parameters")]
        payload = payload["input_string"]
    if not isinstance(payload, list) or not payload:
        raise ValueError(f"input_string should be a non-empty list. Accepted: {ACCEPTED}")
    parameters: dict[str, Any] = {}
    for source in sources:
        # A frame repeats its parameters in every row.
        values = source[0] if isinstance(source, list) and source else source
        if values is not None and not isinstance(values, dict):
            raise ValueError(f"Parameters should be an object. Accepted: {ACCEPTED}")
        parameters.update(values or {})
    conversations = [payload] if isinstance(payload[0], dict) else payload
    for conversation in conversations:
        check_conversation(conversation)
    return conversations, check_parameters(parameters)


def check_conversation(conversation: Any) -> None:
    """Raise ValueError if the value is not a list of messages."""
    if not isinstance(conversation, list) or not conversation:
        raise ValueError(f"A conversation should be a non-empty list of messages. Accepted: {ACCEPTED}")
    for message in conversation:
        if not isinstance(message, dict) or message.get("role") not in ROLES or not isinstance(message.get("content"), str):
            raise ValueError(f"A message should have a role ({', '.join(ROLES)}) and a text as content. Accepted: {ACCEPTED}")


def check_parameters(values: dict[str, Any]) -> dict[str, Any]:
    """Return all parameters, with defaults; raise ValueError if one is unknown or out of range."""
    unknown = sorted(set(values) - set(PARAMETERS))
    if unknown:
        raise ValueError(f"Unknown parameters {', '.join(unknown)}. Accepted: {', '.join(PARAMETERS)}.")
    checked: dict[str, Any] = {}
    for name, (kind, default, is_allowed) in PARAMETERS.items():
        value = values.get(name, default)
        is_number = kind is float and isinstance(value, int) and not isinstance(value, bool)
        if (type(value) is not kind and not is_number) or (kind is float and not math.isfinite(value)) or not is_allowed(value):
            raise ValueError(f"Parameter {name} can't be {value!r}; it should be {kind.__name__} and within its range.")
        checked[name] = value
    return checked


class TextGenerator:
    """Loads the weights in 32 bits and answers conversations in batches."""

    def load_context(self, context: Any) -> None:
        """Load tokenizer and model from the artifact."""
        os.environ.setdefault("HF_HUB_OFFLINE", "1")
        import torch
        from transformers import AutoModelForCausalLM, AutoTokenizer

        folder = Path(context.artifacts[MODEL])
        self.tokenizer = AutoTokenizer.from_pretrained(folder)
        self.model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
        # The attention mask says where a batch is padded, so the id itself does not matter.
        if self.tokenizer.pad_token_id is None:
            self.tokenizer.pad_token = self.tokenizer.eos_token

    def predict(self, context, model_input):  # type: ignore[no-untyped-def]  # noqa: ARG002 - the signature is MLflow's
        """Answer a payload; see the module for its form."""
        answers = self.generate(*parse(model_input))
        return {"output": answers[0] if len(answers) == 1 else answers}

    def generate(self, conversations: list[Any], parameters: dict[str, Any]) -> list[str]:
        """Return one text per conversation: greedy unless ``do_sample`` is set and the temperature is above 0."""
        import torch

        prompts = [self.tokenizer.apply_chat_template(each, tokenize=False, add_generation_prompt=True) for each in conversations]
        batch = self.tokenizer(prompts, return_tensors="pt", padding=True, padding_side="left", add_special_tokens=False)
        length = batch["input_ids"].shape[1]
        limit = self.model.config.max_position_embeddings
        if length + parameters["max_new_tokens"] > limit:
            raise ValueError(f"{length} prompt tokens and {parameters['max_new_tokens']} new ones exceed the model's {limit}.")
        sampling: dict[str, Any] = {"do_sample": False}
        if parameters["do_sample"] and parameters["temperature"] > 0:
            sampling = {"do_sample": True, **{name: parameters[name] for name in ("temperature", "top_p", "top_k")}}
        with torch.inference_mode():
            output = self.model.generate(
                input_ids=batch["input_ids"],
                attention_mask=batch["attention_mask"],
                max_new_tokens=parameters["max_new_tokens"],
                repetition_penalty=parameters["repetition_penalty"],
                pad_token_id=self.tokenizer.pad_token_id,
                **sampling,
            )
        return [text.strip() for text in self.tokenizer.batch_decode(output[:, length:], skip_special_tokens=True)]


class ChatModel(TextGenerator, mlflow.pyfunc.PythonModel):  # type: ignore[misc]
    """The generator for MLflow. ``predict`` is inherited because MLflow inspects the class's own ``predict`` for a signature."""


set_model(ChatModel())
