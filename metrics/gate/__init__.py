"""Pass, fail or inconclusive: a checkpoint against margins, by the bounds of its intervals."""
