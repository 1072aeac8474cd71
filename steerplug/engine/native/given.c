/* Blocks that are left out of llama.cpp's graph, as what left the last of them is given: on Linux,
 * for tensors in host memory.
 *
 * A graph is grown from its ends, and holds nothing that these do not need. Of a block that something
 * else stands in for, ends are left: what its cells are filled with, which llama.cpp asks for by
 * `ggml_build_forward_expand`. This library defines that function too (see node.c), and has the
 * ends of such blocks grow into another graph, which is never computed.
 *
 * Inputs that are in that one alone (tokens, or the mask of a kind of attention that no other block
 * has) are named as sources of a node of the other: llama.cpp fills all of them.
 */

#if defined(__linux__)
#define _GNU_SOURCE
#include <dlfcn.h>
#endif

#include "steer.h"

#include <string.h>

#if defined(__linux__)

#define EXPAND ggml_build_forward_expand

enum {
    CALLERS = 64, /* lines of code that are kept apart */
    SOURCES = 10, /* that a tensor of ggml has room for */
    NAMED = 8,    /* inputs that one node names */
    INPUTS = 64,  /* more than any architecture has */
};

typedef void expand_fn(struct ggml_cgraph *, struct ggml_tensor *);

/* Kept for lines that call, of which an architecture has a few. */
static expand_fn *original(const void *caller) {
    static __thread struct {
        const void *caller;
        expand_fn *own;
    } known[CALLERS];
    const size_t at = (uintptr_t)caller / 4 % CALLERS;
    if (known[at].caller != caller) {
        void *own = sp_original(caller, SP_NAME_OF(EXPAND));
        *(void **)&known[at].own = own ? own : dlsym(RTLD_NEXT, SP_NAME_OF(EXPAND));
        known[at].caller = caller;
    }
    return known[at].own;
}

/* llama.cpp calls this with whatever its graph is to compute. */
SP_API void EXPAND(struct ggml_cgraph *graph, struct ggml_tensor *tensor) {
    expand_fn *own = original(__builtin_return_address(0));
    const sp_hook *hook = sp_builds_for();
    own(hook && hook->n_built <= hook->given_il ? hook->left_out : graph, tensor);
}

/* Whether a tensor is neither computed nor there already, as weights and cells are. */
static bool is_input(const sp_hook *hook, const struct ggml_tensor *tensor) {
    return !hook->get_data(tensor) && strcmp(hook->op_desc(tensor), "NONE") == 0;
}

/* Note the inputs of what was left out, each once; returns how many there are. */
static int32_t inputs_left_out(const sp_hook *hook, struct ggml_tensor **inputs) {
    int32_t n = 0;
    for (int32_t i = 0; i < hook->graph_n_nodes(hook->left_out); i++) {
        struct ggml_tensor **sources = sp_sources_of(hook, hook->graph_node(hook->left_out, i));
        for (int32_t s = 0; s < SOURCES; s++) {
            int32_t known = 0;
            while (known < n && inputs[known] != sources[s]) {
                known++;
            }
            if (known == n && n < INPUTS && sources[s] && is_input(hook, sources[s])) {
                inputs[n++] = sources[s];
            }
        }
    }
    return n;
}

static void nothing(struct ggml_tensor *node, const struct ggml_tensor *h, int thread,
                    int n_threads, void *hook) {
    (void)node, (void)h, (void)thread, (void)n_threads, (void)hook;
}

static void give(struct ggml_tensor *node, const struct ggml_tensor *h, int thread, int n_threads,
                 void *user_data) {
    (void)h, (void)n_threads;
    if (thread != 0) {
        return;
    }
    sp_hook *hook = user_data;
    const size_t size = sizeof(float) * hook->n_rows * hook->n_embd;
    if (sp_block_of(hook, node) != hook->given_il || hook->nbytes(node) != size) {
        memset(hook->get_data(node), 0, hook->nbytes(node));
        sp_fail(hook, SP_NOT_BUILT, -1, 0);
        return;
    }
    memcpy(hook->get_data(node), hook->given, size);
    sp_steer_node(hook, node);
}

struct ggml_tensor *sp_give(sp_hook *hook, struct ggml_context *context, struct ggml_tensor *h) {
    struct ggml_tensor *inputs[INPUTS], *node = hook->like(context, h);
    hook->expand(hook->left_out, h);
    const int32_t n = inputs_left_out(hook, inputs);
    for (int32_t i = 0; i < n; i++) {
        if (i % NAMED == 0) {
            node = hook->map1(context, node, nothing, 1, hook);
        }
        sp_sources_of(hook, node)[1 + i % NAMED] = inputs[i];
    }
    return hook->map1(context, node, give, 1, hook);
}

#endif
