"""The training log of any trainer, as two frames of prefeval's columns."""
