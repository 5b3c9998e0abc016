"""For tools that ask for it; all that is to say stands in pyproject.toml."""

from setuptools import setup

setup()
