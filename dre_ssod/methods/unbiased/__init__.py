"""Unbiased Teacher, and the methods whose papers build upon it: each subclasses it."""
