"""What runs inside vLLM's own process, and nothing else."""
