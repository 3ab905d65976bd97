"""``prefeval audit``: what is in preference data, whether it is sound, which method fits."""
