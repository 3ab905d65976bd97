"""``prefeval doctor``: before a sweep, whether model, data, judge and engine work together."""
