"""``prefeval view``: a local web server over a folder of runs, and how far each run is."""
