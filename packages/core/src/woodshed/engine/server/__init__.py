"""The engine's own process: gateway, control plane, vLLM supervisor. Runs in the engine environment."""
