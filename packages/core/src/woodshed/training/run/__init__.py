"""A run on disk: its folder, its store, and the identity it must match to be resumed."""
