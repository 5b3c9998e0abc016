"""Compositions behind the command-line tools: everything a script does, callable from Python.

This is the top layer: it may import all others, and only ``tools`` import it.
"""
