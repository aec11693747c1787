"""The configuration: its keys, how a file is read, and which values are refused.

``keys`` explains every key but those of a method, which stand with their bounds in the method's
file. ``reading`` turns files and ``KEY VALUE`` pairs into a config. ``checks`` holds the one table
of bounds: each is stated once, so whoever builds a part by hand is trusted with its values;
``schedule`` says what fits the length of a run, and ``effects`` what is set without effect.

The room stands above the parts that it asks: methods, and what is registered; what a bound is,
:mod:`dre_ssod.settings` says.

This room only says no: it fills in nothing, and opens no file but the config's own.
"""
