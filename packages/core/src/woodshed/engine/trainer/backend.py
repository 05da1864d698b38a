"""Which library loads a policy's model: PEFT with transformers, or Unsloth, which must be imported before both."""

from __future__ import annotations

import importlib
import importlib.util
import os
import sys
from typing import Literal

import torch

from woodshed.engine.client.provision import UNSLOTH
from woodshed.errors import TrainError
from woodshed.types import OpenPolicy

Loader = Literal["peft", "unsloth"]


def choose_loader(settings: OpenPolicy, *, cuda: bool) -> Loader:
    """Return the library that loads the policy's model; `auto` is Unsloth if there is a GPU and Unsloth is installed.

    Raises:
        TrainError: The settings need Unsloth, and it cannot run here.
    """
    installed = importlib.util.find_spec("unsloth") is not None
    if settings.trainer == "auto" and not settings.load_in_4bit:
        return "unsloth" if cuda and installed else "peft"
    if settings.trainer == "peft":
        return "peft"
    setting = "trainer='unsloth'" if settings.trainer == "unsloth" else "load_in_4bit=True"
    if not cuda:
        raise TrainError(
            f"{setting} needs an NVIDIA GPU, and torch {torch.__version__} finds none on the engine's machine; "
            "use trainer='auto', which takes PEFT there, and load_in_4bit=False"
        )
    if not installed:
        raise TrainError(
            f"{setting} needs the package 'unsloth', which the engine's environment {sys.prefix!r} lacks; run "
            f"'woodshed engine install --unsloth' there, or '{sys.executable} -m pip install {UNSLOTH}'"
        )
    return "unsloth"


def import_loader(settings: OpenPolicy) -> None:
    """Import Unsloth if it will load the model: before transformers and PEFT, which it patches on their import.

    Raises:
        TrainError: The settings need Unsloth, and it cannot run here or be imported.
    """
    if choose_loader(settings, cuda=torch.cuda.is_available()) != "unsloth":
        return
    os.environ.setdefault("UNSLOTH_RETURN_LOGITS", "1")  # without this its forward pass may return no logits
    try:
        importlib.import_module("unsloth")
    except Exception as error:  # a package that patches others may fail in any way
        raise TrainError(
            f"'unsloth' is installed but cannot be imported ({type(error).__name__}: {error}); "
            f"install {UNSLOTH} again, or use trainer='peft'"
        ) from error
