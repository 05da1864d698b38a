"""Load for the gateway and for vLLM itself."""
