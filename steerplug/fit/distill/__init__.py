"""`psr` and `const`: a teacher distilled by gradient, all blocks together (extra `fit`).

A preset's user needs no torch, only its author does: `distill` and `readable` load none before it
is used.

    distill      from a teacher's replies to steering: the way through the others
    readable     whether there can be a torch copy of the model, known before one is read
    weights      the GGUF's tensors in torch; gguf's reader without the tokeniser (gguf_reading)
    packed       matrices that are dequantised where they multiply
    operations   ggml's operations in torch
    computation  llama.cpp's graph of a batch, computed with them (`engine.recorder` hands it over)
    student      what bare and prompted chats compute so, watched and steered
    agreement    its logits beside llama.cpp's: the copy is the model, or is refused
    exercises    lessons made ready: both sides read, as far as nothing is trained there
    trained      what a training moves; deltas: gates or constants at each block
    training     the loop: mean KL(prompted || steered) over boundary and reply rows; two rounds
"""
