"""Parts that several methods share: one equation or rule a file, which knows no method."""
