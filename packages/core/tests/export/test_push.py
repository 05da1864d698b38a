"""Pushing to the hub: refused before any work without a name or a token, and uploaded whole to a hub on loopback."""

from __future__ import annotations

import base64
import json
import subprocess
import sys
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import pytest

import woodshed
from woodshed.export.push import check_push

_PUSH = (
    "import sys; from woodshed.export.push import *; check_push('me/lora'); print(push(Path(sys.argv[1]), 'me/lora'))"
)


@pytest.fixture
def no_token(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr("huggingface_hub.constants.HF_TOKEN_PATH", str(tmp_path / "none"))


@pytest.mark.parametrize("name", ["lora", "me/", "/me", "a/b/c", "me/my lora", ""])
def test_a_name_that_is_none_of_the_hubs_is_refused(name: str, no_token: None) -> None:
    with pytest.raises(woodshed.ConfigError, match="is no name on the hub; expected OWNER/NAME"):
        check_push(name)


def test_without_a_token_nothing_is_begun(no_token: None) -> None:
    with pytest.raises(woodshed.ConfigError, match="no token for the Hugging Face hub; log in with `hf auth login`"):
        check_push("me/lora")


class Hub:
    """As much of the hub's API as an upload of small files takes."""

    def __init__(self, status: int) -> None:
        self.files: dict[str, bytes] = {}
        self.created: dict[str, Any] = {}
        self.tokens: set[str] = set()
        hub = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers.get("content-length", 0)))
                hub.tokens.add(self.headers.get("authorization", ""))
                self.answer(status, hub.answer(self.path, body))

            def do_GET(self) -> None:
                self.answer(200, {"id": "me/lora", "sha": "0" * 40, "siblings": []})

            def answer(self, status: int, answer: dict[str, Any]) -> None:
                content = json.dumps(answer).encode()
                self.send_response(status)
                self.send_header("content-type", "application/json")
                self.send_header("content-length", str(len(content)))
                self.end_headers()
                self.wfile.write(content)

            def log_message(self, *_: object) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}"
        Thread(target=self.server.serve_forever, daemon=True).start()

    def answer(self, path: str, body: bytes) -> dict[str, Any]:
        if path.endswith("/repos/create"):
            self.created = json.loads(body)
            return {"url": f"{self.url}/me/lora", "name": "me/lora"}
        if "/preupload/" in path:
            files = json.loads(body)["files"]
            return {"files": [{"path": f["path"], "uploadMode": "regular", "shouldIgnore": False} for f in files]}
        if "/commit/" in path:
            for line in map(json.loads, body.splitlines()):
                if line["key"] == "file":
                    self.files[line["value"]["path"]] = base64.b64decode(line["value"]["content"])
            return {"commitUrl": f"{self.url}/me/lora/commit/1", "commitOid": "1" * 40, "success": True}
        return {"warnings": [], "errors": []}


@pytest.fixture
def hub(request: pytest.FixtureRequest) -> Iterator[Hub]:
    hub = Hub(getattr(request, "param", 200))
    yield hub
    hub.server.shutdown()
    hub.server.server_close()


def pushed(folder: Path, url: str) -> subprocess.CompletedProcess[str]:
    """Push in a process of its own: huggingface_hub reads the hub's address when it is imported."""
    (folder / "README.md").write_text("---\nlicense: mit\n---\nA card.")
    (folder / "adapter_model.safetensors").write_bytes(b"weights")
    environment = {"HF_ENDPOINT": url, "HF_TOKEN": "hf_secret", "HF_HOME": str(folder.parent / "hf"), "NO_PROXY": "*"}
    return subprocess.run(
        [sys.executable, "-c", _PUSH, str(folder)], capture_output=True, text=True, env=environment, check=False
    )


def test_every_file_is_uploaded_with_the_token_to_a_private_model(hub: Hub, tmp_path: Path) -> None:
    (tmp_path / "lora").mkdir()
    done = pushed(tmp_path / "lora", hub.url)

    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == f"{hub.url}/me/lora"
    assert {name: hub.files[name] for name in sorted(hub.files)} == {
        path.name: path.read_bytes() for path in sorted((tmp_path / "lora").iterdir())
    }
    assert (hub.created["name"], hub.created["visibility"]) == ("lora", "private")
    assert hub.tokens == {"Bearer hf_secret"}


@pytest.mark.parametrize("hub", [401], indirect=True)
def test_a_token_that_the_hub_refuses_is_said_so_and_the_folder_stays(hub: Hub, tmp_path: Path) -> None:
    (tmp_path / "lora").mkdir()
    done = pushed(tmp_path / "lora", hub.url)

    assert "ExportError: 'me/lora' was not pushed: the hub answered with status 401" in done.stderr
    assert "hf auth login" in done.stderr and "hf upload me/lora" in done.stderr


def test_a_hub_that_is_not_there_is_said_so(tmp_path: Path) -> None:
    (tmp_path / "lora").mkdir()
    done = pushed(tmp_path / "lora", "http://127.0.0.1:9")

    assert "ExportError: 'me/lora' was not pushed: the hub at http://127.0.0.1:9 cannot be reached" in done.stderr
