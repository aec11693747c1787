"""Methods of two detectors that label for each other."""
