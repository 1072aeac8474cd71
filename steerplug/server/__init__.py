"""An OpenAI-compatible server; presets are models, such as `smollm2@pirate`.

`serve` runs an `app`; `guard` says who may ask and how much; `asked` reads a request, `choice` its
steering; `replies` come from the session, and `told` says them in OpenAI's words.
"""
