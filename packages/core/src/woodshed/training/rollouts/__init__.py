"""Scenarios → judged groups of rollouts, prefetched while earlier steps are trained."""
