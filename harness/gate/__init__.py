"""``prefeval gate``: one checkpoint against a baseline; pass, fail or inconclusive."""
