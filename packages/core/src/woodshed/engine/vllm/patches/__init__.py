"""Patches that run inside vLLM's own process; nothing else of woodshed does, but for the fork server."""
