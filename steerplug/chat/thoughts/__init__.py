"""How models think in a chat: the marks of it, and what switches it."""
