"""From the names of datasets to the batches that training draws.

``images`` reads picture files, ``text_files`` all others, ``records`` says what a record means.
``sources`` turns names into records, ``splits`` into the two pools, ``mappers`` a record into
``views``, and ``loader`` draws the batches. ``sample`` is a dataset of our own, ``audit`` checks
datasets, ``conversion`` writes them.

This room may use the errors, the structures, the geometry and the writer of files. It knows neither
models, methods and checkpoints nor processes of a run: what it needs of a config comes in as
arguments, or through ``from_config`` of a mapper or recipe.
"""
