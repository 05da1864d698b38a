"""The warm-up: supervised steps on finished conversations."""
