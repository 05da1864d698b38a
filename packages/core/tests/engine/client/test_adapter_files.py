"""What is taken home from an engine: whole LoRAs that are what the engine said, or nothing."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import pytest

from woodshed.engine import EngineClient
from woodshed.engine.client.adapter_files import fetch_adapter
from woodshed.errors import EngineError, EngineUnreachable

FILES = {"adapter_config.json": b'{"r": 8}', "adapter_model.safetensors": b"weights" * 1000}


@contextmanager
def serving(
    files: Mapping[str, bytes], *, listed: Mapping[str, bytes] | None = None, cut: int | None = None
) -> Iterator[str]:
    """Serve `files` as an engine does, but list others, or break off after `cut` bytes of each."""
    listing = {
        "version": 3,
        "files": [
            {"name": name, "size": len(body), "sha256": hashlib.sha256(body).hexdigest()}
            for name, body in (listed or files).items()
        ],
    }

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            self.answer(json.dumps(listing).encode())

        def do_GET(self) -> None:
            body = files[self.path.rpartition("/")[2]]
            self.answer(body, cut)

        def answer(self, body: bytes, cut: int | None = None) -> None:
            self.send_response(200)
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body[:cut])
            self.close_connection = True

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        server.server_close()


async def fetch(url: str, folder: Path) -> int:
    async with EngineClient(url, "key") as client:
        return await fetch_adapter(client, "policy", "run-1", None, folder)


async def test_every_file_comes_whole_and_the_version_is_told(tmp_path: Path) -> None:
    with serving(FILES) as url:
        version = await fetch(url, tmp_path / "new" / "lora")

    assert version == 3
    assert {file.name: file.read_bytes() for file in (tmp_path / "new" / "lora").iterdir()} == FILES
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["lora"]


@pytest.mark.parametrize(
    "sent", [b"weightX" * 1000, b"weights" * 999, b"weights" * 1001], ids=["other bytes", "fewer", "more"]
)
async def test_other_bytes_than_the_engine_named_are_not_kept(tmp_path: Path, sent: bytes) -> None:
    with serving(FILES | {"adapter_model.safetensors": sent}, listed=FILES) as url:
        with pytest.raises(
            EngineError, match=r"adapter_model.safetensors of version 3 came from .*expected 7000 bytes"
        ):
            await fetch(url, tmp_path / "lora")

    assert list(tmp_path.iterdir()) == []


async def test_a_broken_connection_leaves_nothing(tmp_path: Path) -> None:
    with serving(FILES, cut=5) as url, pytest.raises(EngineUnreachable, match="RemoteProtocolError"):
        await fetch(url, tmp_path / "lora")

    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["../evil", "/etc/evil", ".hidden", "a/b", ""])
async def test_a_name_that_leads_elsewhere_is_refused(tmp_path: Path, name: str) -> None:
    with serving(FILES | {name: b"x"}) as url, pytest.raises(EngineError, match="AdapterFiles that cannot be read"):
        await fetch(url, tmp_path / "lora")

    assert list(tmp_path.iterdir()) == []


async def test_a_folder_without_weights_is_no_lora(tmp_path: Path) -> None:
    with serving({"README.md": b"x"}) as url, pytest.raises(EngineError, match=r"has no \['adapter_config.json'"):
        await fetch(url, tmp_path / "lora")
