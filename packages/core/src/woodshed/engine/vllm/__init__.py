"""vLLM servers as processes: how they are started, forked, watched and given LoRA weights."""
