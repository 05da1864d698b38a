"""Where a run lives: its folder, its store, and what it must find again to be resumed."""
