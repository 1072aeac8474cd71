"""How every command ends.

0    done
1    nobody reads our output any more
2    one sentence on stderr: what is wrong, and the cure
130  Ctrl-C: one line, and nothing half-written
"""

UNREAD = 1
FAILED = 2
INTERRUPTED = 130
