"""An OpenAI-compatible server; presets are models, such as `smollm2@pirate`.

`serve` runs an `app`; `models` finds the one that a request names, which is `served` with its
presets and its steering; `guard` says who may ask and how much; `translate` reads a request,
`steering_choice` its steering; `asking` has the session reply, and an `answer` says it in the words
of its clients: `choices` in OpenAI's, `responses_api` in those of its Responses API, `ollama` in
Ollama's. `dialect` has what differs on the wire.
"""
