"""The control API under `/woodshed/v1`: what a training asks of the engine."""
