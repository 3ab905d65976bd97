"""The lab: a small world with its own language model, data, tasks and oracle."""
