"""Batched recognition of many streams with one model."""
