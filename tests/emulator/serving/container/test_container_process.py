"""The server as a process, with a real (tiny) model."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest

ROOT = Path(__file__).parents[4]
HELLO = [{"role": "user", "content": "what do you think?"}]


def command(model: Path, folder: Path, *options: str) -> list[str]:
    return [
        *(sys.executable, "-m", "mlops.emulator.serving.container", "--model", str(model), "--port", "0"),
        *("--ready-file", str(folder / "ready"), *options),
    ]


@contextmanager
def serving(model: Path, folder: Path, *options: str) -> Iterator[str]:
    """Run a container and yield its address. Its log is in the folder."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    with (
        (folder / "log").open("w") as log,
        subprocess.Popen(command(model, folder, *options), cwd=folder, env=environment, stdout=log, stderr=subprocess.STDOUT) as child,
    ):
        try:
            while not (folder / "ready").exists():
                assert child.poll() is None, (folder / "log").read_text()
                time.sleep(0.05)
            yield f"http://127.0.0.1:{int((folder / 'ready').read_text())}"
        finally:
            child.terminate()
            child.wait(timeout=30)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("container")


@pytest.fixture(scope="module")
def address(tiny: Path, folder: Path) -> Iterator[str]:
    with serving(tiny, folder, "--max-concurrent", "4", "--request-timeout-ms", "60000") as url:
        yield url


def score(address: str, **data: object) -> httpx.Response:
    return httpx.post(f"{address}/score", json={"input_data": data, "params": {}}, timeout=60, trust_env=False)


def test_flat_and_nested_payloads_have_the_same_answer(address: str) -> None:
    parameters = {"max_new_tokens": 8, "do_sample": False}
    flat, nested = (score(address, input_string=value, parameters=parameters) for value in (HELLO, [HELLO]))
    assert flat.status_code == nested.status_code == 200
    assert flat.json() == nested.json()
    assert set(flat.json()) == {"output"}
    assert isinstance(flat.json()["output"], str)
    both = score(address, input_string=[HELLO, HELLO], parameters=parameters).json()["output"]
    assert both == [flat.json()["output"]] * 2


def test_liveness_is_answered_while_text_is_generated(address: str) -> None:
    async def play() -> int:
        async with httpx.AsyncClient(base_url=address, timeout=60, trust_env=False) as client:
            payload = {"input_data": {"input_string": HELLO, "parameters": {"max_new_tokens": 900}}}
            generation = asyncio.create_task(client.post("/score", json=payload))
            probes = 0
            while not generation.done():
                probes += (await client.get("/health/live")).status_code == 200
            assert generation.result().status_code == 200
            return probes

    assert asyncio.run(play()) > 2


def test_concurrent_requests_succeed(address: str) -> None:
    async def play() -> list[int]:
        async with httpx.AsyncClient(base_url=address, timeout=60, trust_env=False) as client:
            payload = {"input_data": {"input_string": HELLO, "parameters": {"max_new_tokens": 20}}}
            return [response.status_code for response in await asyncio.gather(*(client.post("/score", json=payload) for _ in range(6)))]

    assert asyncio.run(play()) == [200] * 6


def test_a_failing_model_is_500_with_its_traceback_in_the_log(address: str, folder: Path) -> None:
    response = score(address, input_string=HELLO, parameters={"max_new_tokens": 5000})
    assert response.status_code == 500
    assert "exceed the model's 1024" in response.text
    assert "Traceback" in (folder / "log").read_text()


def test_the_log_describes_the_model_and_each_request(address: str, folder: Path) -> None:
    httpx.post(
        f"{address}/score",
        json={"input_data": {"input_string": HELLO}},
        headers={"x-ms-client-request-id": "abc-1"},
        timeout=60,
        trust_env=False,
    )
    httpx.post(f"{address}/score", content=b"{", trust_env=False)
    log = (folder / "log").read_text()
    assert "model loaded from" in log
    assert "weights sha256" in log
    assert any("POST /score 200" in line and "abc-1" in line for line in log.splitlines())
    assert "POST /score 400" in log
    assert "health" not in log
    assert "azureml.mlflow" not in log, "MLflow complains about its hidden plugin"


def test_a_model_that_can_not_be_loaded_ends_the_process(tmp_path: Path) -> None:
    done = subprocess.run(command(tmp_path, tmp_path), cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 1
    assert "Traceback" in done.stdout
    assert "can't be loaded" in done.stdout
    assert not (tmp_path / "ready").exists()
