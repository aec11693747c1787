"""Entry point for tools that expect a setup.py; everything is declared in pyproject.toml."""

from setuptools import setup

setup()
