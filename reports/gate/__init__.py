"""A gate's decision in words, as text, Markdown and JUnit."""
