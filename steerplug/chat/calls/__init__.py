"""How a model calls tools: the form it writes calls in, the grammar of it, and reading it back."""
