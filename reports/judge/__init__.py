"""The judge's audit, as the report shows it."""
