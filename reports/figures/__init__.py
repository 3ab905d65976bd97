"""The same charts as figures for a paper, drawn by matplotlib."""
