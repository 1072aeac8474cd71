"""The command line: each command in its own file, and in `main` how every one of them ends.

Importing this package loads nothing else; commands import what they need when they run.
"""
