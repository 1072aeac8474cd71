"""Control vectors of other tools, read and written: which block a tensor means, and what 1.0 is.

`direction.N` is a row of n_embd float32. Block il is steered at its output h_il, llama.cpp's
`l_out-{il}` (0-based); at strength s, h_il <- h_il + s * v. The formats differ in N and in v:

    format       N of h_il   v at scale 1.0                 told by
    repeng       il          unit length, sign by majority  layer_count as u32
    llama.cpp    il + 1      unit length, sign of pca free  layer_count as i32, N = 1, 2, ... count
    easysteer    il, also 0  its method's own length        the key controlvector.method

llama.cpp's *loader* adds `direction.N` at block N, N >= 1, so files of its own *generator* act one
block late there; read here, they act where they were taken from. All three tools add v at every
token.

Sources: the writers of repeng, llama.cpp (tools/cvector-generator) and EasySteer; the loader is
llama.cpp's `llama_adapter_cvec`. tests/test_interchange.py fixes the table on real logits.
"""
