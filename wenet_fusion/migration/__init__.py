"""Translate the configurations of WeNet into ours."""
