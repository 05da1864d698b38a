"""The OpenAI-compatible door: sessions, conversations, and one call on its way through vLLM."""
