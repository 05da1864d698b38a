"""Load the training from a user's Python file."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

from woodshed.capture.user_frames import USER_MODULE
from woodshed.errors import ConfigError
from woodshed.training.loop import Training


def load_training(file: Path) -> Training:
    """Return the one `woodshed.Training` that the module defines.

    Raises:
        ConfigError: the file is missing or not a Python file, or defines no training or several.
    """
    if not file.is_file():
        raise ConfigError(f"{str(file)!r} is not a file; expected a Python file that defines `woodshed.Training(...)`")
    spec = importlib.util.spec_from_file_location(f"{USER_MODULE}{file.stem}", file)
    if spec is None or spec.loader is None:
        raise ConfigError(f"{str(file)!r} is not a Python file; expected a name that ends in .py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    sys.path.insert(0, str(file.resolve().parent))
    spec.loader.exec_module(module)
    trainings = {name: value for name, value in vars(module).items() if isinstance(value, Training)}
    if len({id(v) for v in trainings.values()}) != 1:
        raise ConfigError(
            f"{str(file)!r} defines {len(trainings)} trainings {sorted(trainings)}; expected exactly one, such as "
            "`training = woodshed.Training(rollout=..., scenarios=..., policy=..., reward=...)` at module level"
        )
    return next(iter(trainings.values()))
