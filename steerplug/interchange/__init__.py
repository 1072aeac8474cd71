"""Control vectors of other tools, read and written: which block a tensor means, and what 1.0 is.

`direction.N` is a row of n_embd float32. Block il is steered at its output h_il, llama.cpp's
`l_out-{il}` (0-based); at strength s, h_il <- h_il + s * v. The formats differ in N and in v:

    format       N of h_il   v at scale 1.0                        told by
    repeng       il          pca: unit length, more of what is     layer_count as u32
                             positive in most pairs
    llama.cpp    il + 1      unit length; mean: positive minus     layer_count as i32,
                             negative; pca: either sign            N = 1, 2, ... count
    easysteer    il, also 0  diffmean: positive minus negative,    the key controlvector.method
                             unit length unless asked otherwise

llama.cpp's *loader* adds `direction.N` at block N, N >= 1, so files of its own *generator* act one
block late there; read here, they act where they were taken from. repeng and EasySteer add v at the
output of decoder layer N, so their files act in llama.cpp as they do at home. hotwire-vllm adds row
N of a tensor there; its files are written here, not read. repeng and llama.cpp add v at every
token, EasySteer and hotwire-vllm where they are told. repeng takes the vector of the last block
behind the model's final norm. EasySteer may also take vectors of attention heads and routers, which
are no h_il; its key controlvector.easysteer says so, and those are refused.

Sources: the code of repeng (extract.py, control.py), of llama.cpp (tools/cvector-generator,
common_control_vector_load_one, llama_adapter_cvec) and of EasySteer (extraction/result.py; in its
vLLM: model_hooks/steering/api.py, loading.py, selection/host.py) and of hotwire-vllm (_state.py,
_patch.py).
tests/interchange/test_interchange.py fixes the table on real logits,
tests/interchange/test_peers.py what those tools would do with our files.
"""
