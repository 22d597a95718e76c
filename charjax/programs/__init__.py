"""Compiled programs of earlier starts, found without tracing.

JAX's own cache is looked up by the program, so that a start has to trace and lower it first. Here a
program is found by all that it is made from (`facts`), and is loaded by a thread while the rest of
charjax is imported (`ahead`). What is stored is machine code that will be run: it stays in the
user's private directory of compiled programs, and no file of a run is read here.
"""
