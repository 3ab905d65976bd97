"""``prefeval diagnose``: what a run, a trial, a checkpoint or a log holds, against the rules."""
