"""Where presets are: those that ship, the user's own, and those of packs."""
