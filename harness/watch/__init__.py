"""``prefeval watch``: the checkpoints of a training that runs elsewhere, measured as they come."""
