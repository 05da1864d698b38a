"""What a run shows: progress, metrics of each step, diagnostics, summary and plot."""
