"""Trackers: the history rows of a run, sent to Weights & Biases, MLflow, TensorBoard or Trackio as they are stored."""
