"""The queue and the routes, with a model whose speed the test controls."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import AsyncIterator, Callable, Coroutine
from typing import Any

import httpx
import pytest

from mlops.cloud.answers import SHAPES as KNOWN
from mlops.cloud.answers import Answer, parse_answer
from mlops.emulator.__main__ import ANSWER_SHAPES
from mlops.emulator.serving.container.app import make_app
from mlops.emulator.serving.container.chat import ChatScorer
from mlops.emulator.serving.container.shapes import SHAPES
from mlops.emulator.serving.container.worker import Worker


class Slow:
    """A model that answers once ``go`` is set, and records its batches."""

    def __init__(self) -> None:
        self.go = threading.Event()
        self.entered = threading.Event()
        self.batches: list[list[str]] = []

    def __call__(self, payload: dict[str, Any]) -> dict[str, Any]:
        texts = [conversation[-1]["content"] for conversation in payload["input_string"]]
        self.batches.append(texts)
        self.entered.set()
        assert self.go.wait(60)
        if "poison" in texts:
            raise RuntimeError("cannot answer")
        answers = [f"{text}!" for text in texts]
        return {"output": answers[0] if len(answers) == 1 else answers}


def body(text: str, **parameters: Any) -> dict[str, Any]:
    return {"input_data": {"input_string": [{"role": "user", "content": text}], "parameters": parameters}}


Client = httpx.AsyncClient


def run_scenario(batch: int, limit: int, timeout_s: float, play: Callable[[Client, Slow], Coroutine[Any, Any, None]]) -> None:
    """Run an application until ``play`` returns."""
    # Imports mlflow, which takes two seconds.
    from mlops.emulator.component.chat_model import parse

    async def run() -> None:
        model = Slow()
        app = make_app(ChatScorer(Worker(model, batch, limit), parse, SHAPES["output"], timeout_s))
        try:
            async with Client(transport=httpx.ASGITransport(app), base_url="http://container") as client:
                await play(client, model)
        finally:
            model.go.set()

    asyncio.run(run())


async def wait_for(condition: Callable[[], bool]) -> None:
    while not condition():
        await asyncio.sleep(0.005)


async def send_in_order(client: Client, *bodies: dict[str, Any]) -> AsyncIterator[asyncio.Task[httpx.Response]]:
    """Send requests one after the other, each of them queued before the next one is sent."""
    for each in bodies:
        task = asyncio.create_task(client.post("/score", json=each))
        for _ in range(20):
            await asyncio.sleep(0)
        yield task


def test_liveness_is_answered_while_the_model_is_working() -> None:
    async def play(client: Client, model: Slow) -> None:
        (task,) = [task async for task in send_in_order(client, body("a"))]
        await wait_for(model.entered.is_set)
        for path in ("/", "/health/live", "/health/ready"):
            response = await client.get(path)
            assert (response.status_code, response.text) == (200, "Healthy")
        assert not task.done()
        model.go.set()
        assert (await task).json() == {"output": "a!"}

    run_scenario(1, 2, 60, play)


def test_requests_beyond_the_limit_get_429() -> None:
    async def play(client: Client, model: Slow) -> None:
        tasks = [task async for task in send_in_order(client, body("a"), body("b"))]
        await wait_for(model.entered.is_set)
        refused = await client.post("/score", json=body("c"))
        assert refused.status_code == 429
        model.go.set()
        assert [(await task).json()["output"] for task in tasks] == ["a!", "b!"]
        assert (await client.post("/score", json=body("d"))).json() == {"output": "d!"}

    run_scenario(1, 2, 60, play)


def test_waiting_requests_with_equal_parameters_are_answered_in_one_batch() -> None:
    async def play(client: Client, model: Slow) -> None:
        tasks = [task async for task in send_in_order(client, body("a"))]
        await wait_for(model.entered.is_set)
        requests = [body("b"), body("warm", temperature=0.5), body("c"), body("d"), body("e")]
        tasks += [task async for task in send_in_order(client, *requests)]
        model.go.set()
        assert [(await task).json()["output"] for task in tasks] == ["a!", "b!", "warm!", "c!", "d!", "e!"]
        assert model.batches[0] == ["a"]
        assert model.batches[1:] == [["b", "c", "d"], ["warm"], ["e"]]

    run_scenario(3, 10, 60, play)


def test_a_failing_request_does_not_affect_the_rest_of_its_batch() -> None:
    async def play(client: Client, model: Slow) -> None:
        tasks = [task async for task in send_in_order(client, body("a"))]
        await wait_for(model.entered.is_set)
        tasks += [task async for task in send_in_order(client, body("b"), body("poison"), body("c"))]
        model.go.set()
        responses = [await task for task in tasks]
        assert [response.status_code for response in responses] == [200, 200, 500, 200]
        assert responses[2].text == "RuntimeError: cannot answer"
        assert [responses[index].json()["output"] for index in (0, 1, 3)] == ["a!", "b!", "c!"]
        assert model.batches == [["a"], ["b", "poison", "c"], ["b"], ["poison"], ["c"]]

    run_scenario(4, 10, 60, play)


def test_a_late_answer_is_408_and_a_request_that_timed_out_is_never_run() -> None:
    async def play(client: Client, model: Slow) -> None:
        tasks = [task async for task in send_in_order(client, body("a"), body("b"))]
        responses = [await task for task in tasks]
        assert [response.status_code for response in responses] == [408, 408]
        assert (await client.post("/score", json=body("c"))).status_code == 408
        model.go.set()
        # In a loop, because on a busy machine even this answer may be late.
        while (await client.post("/score", json=body("d"))).status_code != 200:
            pass
        assert {text for batch in model.batches for text in batch} == {"a", "d"}

    run_scenario(1, 2, 0.2, play)


def test_several_conversations_in_one_request_get_a_list() -> None:
    async def play(client: Client, model: Slow) -> None:
        model.go.set()
        nested = [[{"role": "user", "content": text}] for text in "abcdef"]
        response = await client.post("/score", json={"input_data": {"input_string": nested}, "params": {}})
        assert response.json() == {"output": ["a!", "b!", "c!", "d!", "e!", "f!"]}
        assert (await client.post("/score", json={"input_data": {"input_string": nested[:1]}})).json() == {"output": "a!"}

    run_scenario(2, 2, 60, play)


@pytest.mark.parametrize(
    "content",
    [b"", b"{", b"[]", b'"hello"', b"\xff", b'{"messages": [{"role": "user", "content": "hi"}]}', b'{"input_data": {"input_string": []}}'],
)
def test_an_invalid_payload_is_400(content: bytes) -> None:
    async def play(client: Client, model: Slow) -> None:
        response = await client.post("/score", content=content)
        assert response.status_code == 400
        assert response.text
        assert model.batches == []

    run_scenario(1, 2, 60, play)


def test_400_names_the_accepted_payload() -> None:
    async def play(client: Client, model: Slow) -> None:
        response = await client.post("/score", json={"messages": []})
        assert response.text.startswith('The keys messages are not accepted. Accepted: {"input_data": {"input_string": [')

    run_scenario(1, 2, 60, play)


def test_the_emulators_shapes_are_those_that_the_pipeline_reads() -> None:
    assert tuple(SHAPES) == ANSWER_SHAPES == tuple(KNOWN)
    for name, render in SHAPES.items():
        assert parse_answer(json.dumps(render(["Hi"])).encode()) == Answer("Hi", name)
        assert '"Ho"' in json.dumps(render(["Hi", "Ho"]))
