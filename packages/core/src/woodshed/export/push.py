"""Push an export to the Hugging Face hub, by `huggingface_hub` (`pip install 'woodshed[hub]'`)."""

from __future__ import annotations

import importlib
import importlib.util
import re
from pathlib import Path
from typing import Any

from woodshed.errors import ConfigError, ExportError

_NAME = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")
_LOG_IN = (
    "log in with `hf auth login`, or set HF_TOKEN to a token that may write (https://huggingface.co/settings/tokens)"
)


def check_push(name: str) -> None:
    """Check, before anything is written, that a push can be begun.

    Raises:
        ConfigError: `huggingface_hub` is not installed, the name is none of the hub's, or there is no token.
    """
    if importlib.util.find_spec("huggingface_hub") is None:
        raise ConfigError("pushing needs huggingface_hub, which is not installed: pip install 'woodshed[hub]'")
    from huggingface_hub import get_token

    if not _NAME.fullmatch(name):
        raise ConfigError(f"{name!r} is no name on the hub; expected OWNER/NAME, such as 'me/support-policy'")
    if get_token() is None:
        raise ConfigError(f"there is no token for the Hugging Face hub; {_LOG_IN}")


def push(folder: Path, name: str, *, public: bool = False) -> str:
    """Upload `folder` as the model `name`, which is made if there is none, and return its address.

    Raises:
        ExportError: The hub refuses it or does not answer. The folder stays.
    """
    from huggingface_hub import HfApi

    # By name: its `HTTPError` is httpx's or httpx2's, as its version has it.
    errors: Any = importlib.import_module("huggingface_hub.errors")
    hub: Any = HfApi()
    try:
        hub.create_repo(name, repo_type="model", private=not public, exist_ok=True)
        hub.upload_folder(repo_id=name, folder_path=str(folder), commit_message="Upload a policy trained with woodshed")
    except errors.HfHubHTTPError as error:
        status = error.response.status_code
        hint = f"; {_LOG_IN}" if status in (401, 403) else ""
        raise ExportError(
            _message(folder, name, f"the hub answered with status {status}: {_first(error)}{hint}")
        ) from error
    except (errors.HTTPError, OSError) as error:
        why = f"the hub at {hub.endpoint} cannot be reached: {_first(error)}"
        raise ExportError(_message(folder, name, why)) from error
    return f"{hub.endpoint}/{name}"


def _message(folder: Path, name: str, why: str) -> str:
    return (
        f"{name!r} was not pushed: {why}. The export is complete in {str(folder)!r}; `hf upload {name} {folder}` "
        "pushes it"
    )


def _first(error: Exception) -> str:
    return " ".join(str(error).split())[:300] or type(error).__name__
