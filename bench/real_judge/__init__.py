"""Parts of `bench/judge_real.py`."""
