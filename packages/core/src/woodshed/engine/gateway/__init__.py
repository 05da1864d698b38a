"""The OpenAI-compatible API: sessions, conversations, and each call's way through vLLM."""
