"""Log-probabilities → one scalar. `presets` is plain Python; `grpo` and `metrics` are the first rooms with torch."""
