"""The reports of a run: progress, metrics of each step, warnings, summary and plot."""
