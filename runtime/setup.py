"""Packaging shim: `pip install ./runtime` with tools that still look for this file. The metadata is in
pyproject.toml.
"""

from setuptools import setup

setup()
