"""The built-in sample set, drawn by the project itself: the same bytes on every machine.

``shapes`` draws and ``painting`` colors in integers, ``scenes`` arranges, ``dataset`` writes the
files. Nothing here uses an image library or floating point, since their results differ between
machines; the SHA-256 of the whole set is pinned by a test.

This room uses nothing of the package but its errors and the reader of JSON files.
"""
