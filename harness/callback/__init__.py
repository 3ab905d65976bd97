"""``PrefevalCallback``: a trainer's checkpoints evaluated as they are saved."""
