"""The MLflow model that the component makes: a chat model behind ``mlflow.pyfunc``.

This file is copied into every model (models-from-code), so it stands alone: nothing of the package it came from is imported.
``predict`` takes the payloads that Azure ML's managed endpoints know, flat and nested::

    {"input_string": [{"role": "user", "content": "Hi"}], "parameters": {"max_new_tokens": 50}}
    {"input_string": [[{"role": "user", "content": "Hi"}], [...]]}

and gives ``{"output": "…"}`` for one conversation and ``{"output": ["…", "…"]}`` for a list of several. The model has no signature:
Azure's own scoring script boots a pyfunc without one, and hands over either a dict of numpy arrays or what it was sent.
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
"""Name of the artifact: a Hugging Face folder, with the adapter beside the weights if they are not merged."""

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
"""Name → type, default, what is allowed. Names are those of Hugging Face's text generation."""


def plain(value: Any) -> Any:
    """Numpy arrays and pandas frames as lists, dicts and scalars; other things as they are."""
    if hasattr(value, "to_dict") and hasattr(value, "columns"):
        return {str(name): plain(list(value[name])) for name in value.columns}
    if hasattr(value, "tolist"):
        return plain(value.tolist())
    if isinstance(value, dict):
        return {str(name): plain(item) for name, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    return value


def parse(payload: Any) -> tuple[list[Any], dict[str, Any]]:
    """Conversations and parameters, the latter with defaults.

    Args:
        payload: see the module; also the whole request body with ``input_data``, a frame with a column ``input_string`` (a row per
            message or per conversation), or the list alone.

    Raises:
        ValueError: naming what is wrong and what is accepted.
    """
    payload = plain(payload)
    sources = []
    if isinstance(payload, dict) and "input_data" in payload:
        sources.append(payload.get("params"))
        payload = payload["input_data"]
    if isinstance(payload, dict):
        if "input_string" not in payload or set(payload) - {"input_string", "parameters", "params"}:
            raise ValueError(f"The keys {', '.join(payload)} are not what is taken. Accepted: {ACCEPTED}")
        sources += [payload.get("params"), payload.get("parameters")]
        payload = payload["input_string"]
    if not isinstance(payload, list) or not payload:
        raise ValueError(f"input_string should be a list that is not empty. Accepted: {ACCEPTED}")
    parameters: dict[str, Any] = {}
    for given in sources:
        # A frame repeats its parameters in every row.
        given = given[0] if isinstance(given, list) and given else given
        if given is not None and not isinstance(given, dict):
            raise ValueError(f"Parameters should be an object. Accepted: {ACCEPTED}")
        parameters.update(given or {})
    conversations = [payload] if isinstance(payload[0], dict) else payload
    for conversation in conversations:
        check_conversation(conversation)
    return conversations, check_parameters(parameters)


def check_conversation(conversation: Any) -> None:
    """Raise ValueError if it is no list of messages."""
    if not isinstance(conversation, list) or not conversation:
        raise ValueError(f"A conversation should be a list of messages that is not empty. Accepted: {ACCEPTED}")
    for message in conversation:
        if not isinstance(message, dict) or message.get("role") not in ROLES or not isinstance(message.get("content"), str):
            raise ValueError(f"A message should have a role ({', '.join(ROLES)}) and a text as content. Accepted: {ACCEPTED}")


def check_parameters(given: dict[str, Any]) -> dict[str, Any]:
    """All parameters, with defaults; raise ValueError if one is unknown or out of range."""
    unknown = sorted(set(given) - set(PARAMETERS))
    if unknown:
        raise ValueError(f"Unknown parameters {', '.join(unknown)}. Known: {', '.join(PARAMETERS)}.")
    checked: dict[str, Any] = {}
    for name, (kind, default, allowed) in PARAMETERS.items():
        value = given.get(name, default)
        number = kind is float and isinstance(value, int) and not isinstance(value, bool)
        if (type(value) is not kind and not number) or (kind is float and not math.isfinite(value)) or not allowed(value):
            raise ValueError(f"Parameter {name} can't be {value!r}; it should be {kind.__name__} and within its range.")
        checked[name] = value
    return checked


class Answers:
    """Loads the weights in 32 bits and answers conversations, several at once."""

    def load_context(self, context: Any) -> None:
        """Load tokenizer and model from the artifact."""
        os.environ.setdefault("HF_HUB_OFFLINE", "1")
        import torch
        from transformers import AutoModelForCausalLM, AutoTokenizer

        folder = Path(context.artifacts[MODEL])
        self.tokenizer = AutoTokenizer.from_pretrained(folder)
        self.model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
        # Batches are padded, and the mask says where: which id it is does not matter.
        if self.tokenizer.pad_token_id is None:
            self.tokenizer.pad_token = self.tokenizer.eos_token

    def predict(self, context, model_input):  # type: ignore[no-untyped-def]  # noqa: ARG002 - the signature is MLflow's
        """Answer; see the module for what goes in and out."""
        answers = self.answer(*parse(model_input))
        return {"output": answers[0] if len(answers) == 1 else answers}

    def answer(self, conversations: list[Any], parameters: dict[str, Any]) -> list[str]:
        """One text per conversation: greedy unless ``do_sample`` and a temperature above 0 are given."""
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


class ChatModel(Answers, mlflow.pyfunc.PythonModel):  # type: ignore[misc]
    """The same for MLflow, which asks a ``predict`` of the class itself for type hints and would take them for a signature."""


set_model(ChatModel())
