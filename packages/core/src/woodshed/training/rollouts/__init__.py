"""Scenarios → judged groups of rollouts, sampled ahead of the step that trains them."""
