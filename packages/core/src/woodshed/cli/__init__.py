"""The command line: parse arguments, build a configuration, call the library. No logic of its own."""

from woodshed.cli.app import main

__all__ = ["main"]
