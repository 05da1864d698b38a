"""Tests of replicas on a Ray cluster; without Ray in the engine's environment there is nothing to test."""

from __future__ import annotations

import importlib.util

if importlib.util.find_spec("ray") is None:
    collect_ignore_glob = ["test_*.py"]
