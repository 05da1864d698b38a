"""Supervised fine-tuning (SFT) of a policy on finished conversations, to start a run from."""
