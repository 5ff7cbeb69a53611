"""Packaging shim: `pip install -e .` with tools that still look for this file. The metadata is in pyproject.toml."""

from setuptools import setup

setup()
