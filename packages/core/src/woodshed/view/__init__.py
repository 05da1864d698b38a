"""A look at a run: what its agents did, what its judge made of it and what was trained. Reads a run, changes nothing.

`reader` opens the run's folder; `overview`, `groups`, `attempts`, `tokens`, `held_out` and `in_progress` turn what is
in it into plain JSON; `server` hands that to a page on this machine, `terminal` to a terminal.
"""
