"""Chat models at any OpenAI-compatible address: the client, its retries, and the options each server accepts."""
