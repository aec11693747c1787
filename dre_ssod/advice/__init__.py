"""A first config for data that nobody has trained on yet, with the reason of every choice.

``facts`` looks at the data and the machine, ``choices`` makes settings of what was found, by rules
that stand there as plain functions, and ``config_file`` writes them down as a commented YAML file.
Nothing here trains or knows how to: the file is what a user could have written.
"""
