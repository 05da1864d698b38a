"""Chat models at any OpenAI-compatible address: the client, its retries, and how each server wants to be asked."""
