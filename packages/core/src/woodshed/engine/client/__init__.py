"""The client's half of the engine: settings, provisioning, a local or remote engine, and typed calls to it."""
