"""Messages to tokens, with the spans in which steering may act."""
