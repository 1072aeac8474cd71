"""Prompts as other programs keep them become presets, and presets become theirs.

A preset replaces what is said before every question alike. Of each format, that becomes the
teacher; the rest stays what it is, and every part of a file is told in words, on one side or the
other:

    format           the teacher                                stays, because
    character card   system_prompt, description, personality,   scenario, character_book, greetings:
                     post_history_instructions; mes_example     facts of one story or words of one
                     as example turns                           chat; assets, extensions: no prompt
    Modelfile        SYSTEM; MESSAGE as example turns           FROM, ADAPTER, PARAMETER, TEMPLATE:
                                                                the model's, or settings
    dotprompt        the system role, or constant lines of the  config, tools, schemas: they belong
                     prompt; turns; `output.format: json`       to requests
    llm template     system, or constant lines of the prompt    options, tools, fragments, functions
    promptfoo        its one prompt; asserts that every test    tests, providers; asserts that need
                     makes, as checks                           code, a judge or one test's question

Variables: what the file gives a value for is filled in. A line with any other variable stays a
prompt whole, for its text is not the same in every request. `{{char}}` is the card's name, and
`{{user}}` becomes "the user", whom a card cannot know.

Everything here is a stranger's: no picture is decoded, no archive unpacked, no code run, no other
file opened, and nothing grows beyond `reading.MAX_FILE` and `cards.MAX_CARD`. What is broken is
refused in one sentence.

Sources: the specifications of character cards V1, V2 and V3, and the names that Pygmalion's had
before; PNG (third edition); the parser of Ollama's Modelfile; the references of dotprompt, llm and
promptfoo.
"""
