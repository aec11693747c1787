"""Tests; a package, so that they can share :mod:`tests.factories`."""
