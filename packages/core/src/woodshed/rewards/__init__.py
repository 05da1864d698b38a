"""Rewards: groups of trajectories → scores, by the RULER judge or a function, and group-relative advantages."""
