"""Start the page's server on loopback, print its address, open a browser, and serve until Ctrl-C."""

from __future__ import annotations

import errno
import secrets
import socket
import webbrowser
from collections.abc import Callable, Sequence
from pathlib import Path

from woodshed.errors import ConfigError
from woodshed.training.run.read_store import ReadStore
from woodshed.view.reader import RunReader, newest_runs

_HOST = "127.0.0.1"


def chosen_runs(folders: Sequence[Path], *, among: Path = Path("runs")) -> list[RunReader]:
    """Return the runs to show: those named, or all in `among`, the newest first.

    Raises:
        ConfigError: one of those named cannot be read as a run, or there is none.
    """
    if folders:
        for folder in folders:
            ReadStore(folder).close()
        return [RunReader(folder) for folder in folders]
    found = [folder for folder in newest_runs(among) if _is_readable(folder)]
    if not found:
        raise ConfigError(
            f"there is no run in {str(among)!r}; name the folder of one (`woodshed view RUN`), or make one: "
            "`woodshed demo`"
        )
    return [RunReader(folder) for folder in found]


def _is_readable(folder: Path) -> bool:
    try:
        ReadStore(folder).close()
    except ConfigError:
        return False
    return True


def serve(
    runs: Sequence[RunReader], *, port: int | None, browser: bool, say: Callable[[str], None], compare: bool = False
) -> None:
    """Serve the runs' page until it is interrupted.

    Args:
        runs: The runs; the page begins with the first one.
        port: The port on loopback; None takes a free one.
        browser: Whether to open a browser.
        say: Called with the lines to print.
        compare: Whether the page begins with all runs beside each other.

    Raises:
        ConfigError: the extra `view` is not installed, or the port is taken.
    """
    try:
        import uvicorn

        from woodshed.view.server import app, page_folder
    except ImportError as error:
        raise ConfigError(
            f"`woodshed view` needs the extra 'view' ({error.name} is missing): pip install 'woodshed[view]'. "
            "`woodshed show RUN` prints a run without it"
        ) from error
    if not (page_folder() / "index.html").is_file():
        raise ConfigError(f"the page is not built: {str(page_folder())!r} is empty; run `make view`")
    secret = secrets.token_urlsafe(24)
    with _listening(port) as listener:
        address = f"http://{_HOST}:{listener.getsockname()[1]}/{secret}/{'#/compare' if compare else ''}"
        names = ", ".join(str(run.folder) for run in runs[:5]) + (f" and {len(runs) - 5} more" if len(runs) > 5 else "")
        say(f"showing {names}, read-only")
        say(f"{address}\n(for this machine only; Ctrl-C ends it)")
        if browser:
            webbrowser.open(address)
        config = uvicorn.Config(
            app(runs, secret, is_ending=lambda: server.should_exit), log_level="warning", access_log=False,
            server_header=False, lifespan="off", timeout_graceful_shutdown=3,
        )  # fmt: skip
        server = uvicorn.Server(config)
        server.run(sockets=[listener])


def _listening(port: int | None) -> socket.socket:
    listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((_HOST, port or 0))
        listener.listen(128)
    except OSError as error:
        listener.close()
        reasons = {errno.EADDRINUSE: "another program has it", errno.EACCES: "it needs more rights"}
        why = reasons.get(error.errno or 0, error.strerror)
        raise ConfigError(
            f"port {port} cannot be used: {why}; name another one (--port N), or leave --port out for a free one"
        ) from error
    return listener
