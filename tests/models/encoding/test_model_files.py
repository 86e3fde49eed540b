"""The places where a model is looked up, and quick errors for missing models."""

import socket
from collections.abc import Iterator

import huggingface_hub
import pytest

from penchant.models.encoding import model_files
from penchant.models.encoding.encoder import EncoderError


def test_a_folder_and_a_file_are_used_unchanged(bert, tmp_path):
    assert model_files.find_model_files(str(bert)).folder == bert
    (tmp_path / "x.gguf").write_bytes(b"GGUF")
    files = model_files.find_model_files(str(tmp_path / "x.gguf"))
    assert (files.folder, files.gguf) == (tmp_path, "x.gguf")


def test_the_fingerprint_covers_every_relevant_file(tmp_path):
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "model.safetensors").write_bytes(b"12")
    before = model_files.find_model_files(str(tmp_path)).fingerprint
    (tmp_path / "README.md").write_text("hello")
    assert model_files.find_model_files(str(tmp_path)).fingerprint == before
    (tmp_path / "model.safetensors").write_bytes(b"13")
    assert model_files.find_model_files(str(tmp_path)).fingerprint != before


@pytest.mark.parametrize("name", ["/nowhere/at/all", "./nowhere", "/nowhere/model.gguf"])
def test_paths_are_never_looked_up_on_the_hub(name):
    with pytest.raises(EncoderError, match=r"the f(ile|older) does not exist"):
        model_files.find_model_files(name)


def test_an_invalid_name_is_refused():
    with pytest.raises(EncoderError, match="neither a folder nor a name on the"):
        model_files.find_model_files("two//slashes")


@pytest.fixture
def silent_hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[socket.socket]:
    """Address of a hub that accepts connections but never answers."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        monkeypatch.setattr(
            huggingface_hub.constants, "ENDPOINT", f"http://127.0.0.1:{server.getsockname()[1]}"
        )
        yield server


def test_without_a_hub_the_error_is_immediate(silent_hub, monkeypatch, tmp_path):
    silent_hub.close()  # nothing listens there any more
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(
        EncoderError, match="not in the local cache of Hugging Face models, and downloading it failed"
    ):
        model_files.find_model_files("nobody/nothing")


@pytest.mark.slow
def test_a_silent_hub_times_out(silent_hub, monkeypatch, tmp_path):
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(EncoderError, match="timed out"):
        model_files.find_model_files("nobody/nothing")
