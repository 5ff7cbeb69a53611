"""Translate WeNet's training configurations into configurations of this project."""
