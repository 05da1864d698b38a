"""Where an MCP server is: an address over HTTP, or a command that speaks MCP on its standard input and output."""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

from woodshed.engine.client.config import LOOPBACK
from woodshed.errors import ConfigError
from woodshed.types import check_number

_BREAK = re.compile(r"[\r\n\0]")


@dataclass(frozen=True, kw_only=True, slots=True)
class Limits:
    """How long a server is waited for, and how much of what it says is taken."""

    open_s: float = 30.0
    """Longest wait for a session: the process starts, the server says hello."""
    call_s: float = 30.0
    """Longest wait for a tool's answer; then the agent is told, and the rollout goes on."""
    close_s: float = 15.0
    """Longest wait for a session's end; then its connection is cut and its process killed."""
    result_chars: int = 20_000
    """Longest answer of a tool that the agent sees; the rest is cut, and the agent is told so."""
    max_tools: int = 64
    """Most tools an agent is offered; choose by name where a server has more."""

    def __post_init__(self) -> None:
        """Refuse limits that let nothing through."""
        for name in ("open_s", "call_s", "close_s", "result_chars", "max_tools"):
            check_number(self, name, above=0, whole=name in ("result_chars", "max_tools"))


@dataclass(frozen=True, kw_only=True, slots=True)
class Server:
    """One MCP server; `Server.of` reads it from an address or a command."""

    url: str | None = None
    """Address of its streamable HTTP endpoint, such as `https://host/mcp`."""
    command: tuple[str, ...] = ()
    """Program and arguments that speak MCP over stdio; started once for every session."""
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)
    """Sent with every HTTP request. Never shown, logged or stored."""
    env: Mapping[str, str] = field(default_factory=dict, repr=False)
    """Variables of the command's environment, beside PATH, HOME and their like. Never shown, logged or stored."""
    cwd: Path | None = None
    """Folder the command runs in; None is this process's."""

    def __post_init__(self) -> None:
        """Refuse a server that is nowhere, or in two places."""
        if bool(self.url) == bool(self.command):
            raise ConfigError(
                "an MCP server is either an address or a command; give one of the two, such as "
                "'https://host/mcp' or 'python my_server.py'"
            )
        if self.url is not None:
            _check_url(self.url)
        elif self.headers:
            raise ConfigError(f"headers {sorted(self.headers)} are for a server over HTTP; a command takes env instead")
        if self.env and self.url is not None:
            raise ConfigError(f"env {sorted(self.env)} is for a command; a server over HTTP takes headers instead")
        if broken := sorted(k for k, v in {**self.headers, **self.env}.items() if _BREAK.search(k + v)):
            raise ConfigError(f"the values of {broken} hold a line break, which no header or variable may")

    @classmethod
    def of(
        cls,
        where: str | Sequence[str] | Server,
        *,
        token: str | None = None,
        headers: Mapping[str, str] | None = None,
        env: Mapping[str, str] | None = None,
        cwd: Path | None = None,
    ) -> Server:
        """Return the server at an address (`http…`) or behind a command, given as one string or as its words.

        Args:
            where: the address, the command, or a `Server`, which is returned as it is.
            token: OAuth or other bearer token for a server over HTTP.
            headers: further headers for a server over HTTP.
            env: variables for a command.
            cwd: folder a command runs in.
        """
        if isinstance(where, Server):
            return where
        words = [where] if isinstance(where, str) else list(where)
        if len(words) == 1 and words[0].startswith(("http://", "https://")):
            bearer = {"Authorization": f"Bearer {token}"} if token else {}
            return cls(url=words[0], headers={**bearer, **(headers or {})}, env=env or {})
        if token:
            raise ConfigError("token= is for a server over HTTP; hand a command its key with env= (`--env NAME=VALUE`)")
        # A file of that very name wins: its path may hold blanks.
        split = shlex.split(words[0]) if len(words) == 1 and not Path(words[0]).is_file() else words
        return cls(command=tuple(split), headers=headers or {}, env=env or {}, cwd=cwd)

    @property
    def place(self) -> str:
        """What errors and reports call it: the address without its query, or the command."""
        return self.url.partition("?")[0] if self.url is not None else shlex.join(self.command)

    @property
    def name(self) -> str:
        """A short name that a folder may have."""
        if self.url is not None:
            host = urlsplit(self.url).hostname or "server"
            return "mcp" if host in LOOPBACK else _as_name(host)
        scripts = [w for w in self.command[1:] if not w.startswith("-")]
        return _as_name(Path(scripts[0] if scripts else self.command[0]).stem)


def _as_name(text: str) -> str:
    return re.sub(r"[^A-Za-z0-9_.-]+", "-", text).strip("-.") or "mcp"


def _check_url(url: str) -> None:
    unusable = ConfigError(f"the server's address is {url!r}; expected one such as 'https://host/mcp'")
    try:
        parts = urlsplit(url)
    except ValueError:
        raise unusable from None
    if parts.username or parts.password:
        raise ConfigError("the server's address carries a user name or password; pass the secret as a token or header")
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise unusable
