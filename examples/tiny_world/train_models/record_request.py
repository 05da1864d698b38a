"""Record what the LangGraph agent really sends, so that the tiny policy is taught on exactly that.

Runs in the client environment (it needs langchain); a local HTTP server stands where the hosted model would, answers
one tool call and one final answer, and keeps both request bodies. The result, `request.json`, is checked in.
"""

from __future__ import annotations

import argparse
import json
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

from langchain_openai import ChatOpenAI
from pydantic import SecretStr

from etude_tiny_world.agent import build_agent

HERE = Path(__file__).parent


def record() -> list[dict[str, Any]]:
    """Return the bodies of the agent's two requests for one question."""
    bodies: list[dict[str, Any]] = []
    server = HTTPServer(("127.0.0.1", 0), _handler(bodies))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    model = ChatOpenAI(
        model="gpt-4o-mini",
        max_completion_tokens=48,
        base_url=f"http://127.0.0.1:{server.server_port}/v1",
        api_key=SecretStr("none"),
    )
    build_agent(model).invoke({"messages": [("user", "Is the Tuba still in stock?")]})
    server.shutdown()
    server.server_close()
    return bodies


def _handler(bodies: list[dict[str, Any]]) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            bodies.append(json.loads(self.rfile.read(int(self.headers["content-length"]))))
            reply = json.dumps(_reply(len(bodies))).encode()
            self.send_response(200)
            self.send_header("content-type", "application/json")
            self.send_header("content-length", str(len(reply)))
            self.end_headers()
            self.wfile.write(reply)

        def log_message(self, format: str, *args: object) -> None:
            pass

    return Handler


def _reply(turn: int) -> dict[str, Any]:
    message: dict[str, Any] = {"role": "assistant", "content": "Tuba: 12 left."}
    if turn == 1:
        function = {"name": "get_stock", "arguments": '{"item": "Tuba"}'}
        message = {
            "role": "assistant",
            "content": None,
            "tool_calls": [{"id": "c1", "type": "function", "function": function}],
        }
    choice = {"index": 0, "message": message, "finish_reason": "tool_calls" if turn == 1 else "stop"}
    return {"id": "r", "object": "chat.completion", "created": 0, "model": "gpt-4o-mini", "choices": [choice]}


def main() -> None:
    """Write `request.json` beside this file."""
    argparse.ArgumentParser(description=__doc__).parse_args()
    (HERE / "request.json").write_text(json.dumps(record(), indent=1) + "\n")


if __name__ == "__main__":
    main()
