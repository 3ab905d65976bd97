"""What is in preference data and how sound it is: no model, no files."""
