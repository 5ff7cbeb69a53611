"""Logs and validation of a run."""
