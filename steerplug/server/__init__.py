"""An OpenAI-compatible server; presets are models, such as `smollm2@pirate`.

`serve` runs an `app`; `guard` says who may ask and how much; `translate` reads a request,
`steering_choice` its steering; `answer` has the session reply, and `responses` says it in OpenAI's
words.
"""
