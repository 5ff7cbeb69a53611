"""Decode uploads, each in its own process."""
