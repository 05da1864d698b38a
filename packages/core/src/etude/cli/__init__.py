"""The command line: parse arguments, build a configuration, call a room. No logic of its own."""

from etude.cli.app import main

__all__ = ["main"]
