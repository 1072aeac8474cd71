"""Packs: presets that other people can find, trust and use.

A pack is a folder; it may be a git repository, a repository on the Hugging Face hub, a zip, or part
of a Python package (entry point group `steerplug.packs`). It holds, and may hold nothing else that
anybody reads:

    pack.yaml                       name, version, description and licence, by its author
    pack.lock                       the sha256 of every other file, by `steerplug pack`
    NAME.yaml                       presets
    compiled/MODEL/NAME-KEY.gguf    their steering for some models, named as `Store` names it
    README.md, LICENSE              texts for people

A pack is data. Nothing in it runs, and no path in it leads anywhere: the files that are read are
those of `pack.lock`, whose names are checked against the list above, whose sizes and number are
limited, and whose hashes are compared before a byte of them is parsed. The sha256 of `pack.lock` is
the pack's digest and pins all of it.

    add    parse a reference -> fetch -> verify -> show and ask -> rename into place -> pin
    use    the lock in use -> the pack's folder -> verify -> parse

An added pack lies in `<packs>/NAME-DIGEST`, where `<packs>` is $STEERPLUG_PACKS or the user's data
folder, and is pinned in a lock: the nearest `steerplug.lock` of the working folder and those above
it, which a project commits, or else the user's own, `<packs>/steerplug.lock`.
"""
