"""The tokenizer of ``model.tokenizer``: from a file, a folder, or the hub at a commit; anything else is refused."""

from __future__ import annotations

from pathlib import Path

import huggingface_hub.constants
import pytest
from tokenizers.processors import TemplateProcessing

from mlops.core.errors import ConfigError, DataError
from mlops.dataset.tokenizer import load_counter
from tests.support.hub import Hub
from tests.support.tiny import make_tokenizer

COMMIT, OTHER = "0123456789abcdef0123456789abcdef01234567", "f" * 40


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "tokenizer.json"
    tokenizer = make_tokenizer().backend_tokenizer
    tokenizer.post_processor = TemplateProcessing(single="<|im_start|> $A", special_tokens=[("<|im_start|>", 0)])
    tokenizer.enable_truncation(512)
    tokenizer.save(str(path))
    return path


def test_a_file_or_its_folder_counts_texts_whole_and_without_special_tokens(file: Path) -> None:
    text = "What is two plus two? " * 200
    expected = len(make_tokenizer()(text, add_special_tokens=False)["input_ids"])
    assert load_counter(str(file))(text) == load_counter(str(file.parent))(text) == expected > 512
    assert load_counter(str(file))("") == 0


def test_the_file_is_requested_from_the_hub_at_the_commit(file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    with Hub("tester/model", COMMIT, {"tokenizer.json": file.read_bytes()}) as server:
        template = f"{server.url}/{{repo_id}}/resolve/{{revision}}/{{filename}}"
        monkeypatch.setattr(huggingface_hub.constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
        monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", server.url)
        count = load_counter(f"hub:tester/model@{COMMIT}")
        assert count("two plus two") == load_counter(str(file))("two plus two")
        assert f"GET /tester/model/resolve/{COMMIT}/tokenizer.json" in server.requests
        with pytest.raises(DataError, match=f"does not provide tokenizer.json of tester/model at {OTHER}"):
            load_counter(f"hub:tester/model@{OTHER}")


@pytest.mark.parametrize("name", ["nothing.json", "", "folder"])
def test_a_missing_tokenizer_is_refused(name: str, tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    with pytest.raises(ConfigError, match="can't be read: No such file"):
        load_counter(str(tmp_path / name))


@pytest.mark.parametrize("content", [b"", b"{}", b"version https://git-lfs.github.com/spec/v1\n", b"\xff\xfe", b"[1]"])
def test_a_file_that_is_not_a_tokenizer_is_refused(content: bytes, file: Path) -> None:
    file.write_bytes(content)
    with pytest.raises(ConfigError, match="is not a tokenizer") as raised:
        load_counter(str(file))
    assert "save_pretrained" in raised.value.fix


@pytest.mark.parametrize("setting", ["hub:owner/name", "hub:owner/name@main", f"hub:name@{COMMIT}", f"hub:../x/y@{COMMIT}"])
def test_a_hub_repository_needs_a_commit(setting: str) -> None:
    with pytest.raises(ConfigError, match="names no repository of the hub at a commit"):
        load_counter(setting)
