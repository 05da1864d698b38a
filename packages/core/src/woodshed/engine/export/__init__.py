"""Export, in the engine's environment: a LoRA and its base model → merged weights, a GGUF file."""
