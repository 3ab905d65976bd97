"""``prefeval compare``: two checkpoints or runs, paired by prompt."""
