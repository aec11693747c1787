"""Tests, by the rooms of the package that they test; what several of them share lies here."""

from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
"""The project's folder."""
