"""Drives the rest: commands, data, the lab, backends, judges, executors, the sweep."""
