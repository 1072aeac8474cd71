"""From a preset to steering: teacher chats, activations, and the fits."""
