"""Serving and building on many machines: Ray scales, heals and routes, and is told what is ours.

`application` is what Ray Serve runs: `replica`s, each with engines and the whole server, of which
`warmth` says where a request finds its prefix, and `routing` tells Ray. `place` brings presets to
every node, `agreement` compares what replicas have, `counts` puts their metrics together. `local`
starts all of it on this machine; `farm` has presets built and measured by whoever has room.
"""
