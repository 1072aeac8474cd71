/* Steering as a part of llama.cpp's own graph, on Linux, for tensors in host memory.
 *
 * While it builds a graph, llama.cpp passes the output of every block through a function of its
 * control vectors, `llama_adapter_cvec::apply_to`. This library defines that function too, and is
 * loaded first and for all to see (native.py), so the dynamic linker takes this one. For a context
 * with a hook, the sum that ends a block
 *
 *     l_out = ggml_add(a, b)     becomes     l_out = ggml_map_custom2(a, b, add up, then steer)
 *
 * which leaves the graph as long as it was; a block that ends otherwise gets one more node, in
 * place, and what is given takes the place of one that is left out (given.c). Graphs of other
 * contexts are built as llama.cpp builds them. Where the function is never called (another platform,
 * libllama loaded earlier, a build that inlines it) the probe of a new context sees that no block was
 * met, and the callback does the work.
 */

#if defined(__linux__)
#define _GNU_SOURCE
#include <dlfcn.h>
#endif

#include "steer.h"

#include <string.h>

#if !defined(__linux__)

void sp_build_for(sp_hook *hook) { (void)hook; }

#else

#define CAN_REUSE _ZN16llm_graph_result9can_reuseERK16llm_graph_params
#define APPLY_TO _ZNK18llama_adapter_cvec8apply_toEP12ggml_contextP11ggml_tensori

typedef bool can_reuse_fn(void *, const void *);
typedef struct ggml_tensor *apply_to_fn(const void *, struct ggml_context *, struct ggml_tensor *,
                                        int);

static __thread sp_hook *builds_for;

void sp_build_for(sp_hook *hook) { builds_for = hook; }

sp_hook *sp_builds_for(void) { return builds_for; }

struct ggml_tensor **sp_sources_of(const sp_hook *hook, struct ggml_tensor *node) {
    return (struct ggml_tensor **)((char *)node + hook->sources_at);
}

void *sp_original(const void *caller, const char *name) {
    Dl_info info;
    void *library = dladdr(caller, &info) ? dlopen(info.dli_fname, RTLD_LAZY | RTLD_NOLOAD) : NULL;
    void *found = library ? dlsym(library, name) : NULL;
    if (library) {
        dlclose(library);
    }
    return found;
}

/* It is kept for the line that calls, one per architecture: looking it up takes some 10 us, and a
 * graph has as many calls as blocks. */
static apply_to_fn *original(const void *caller) {
    static __thread const void *known_caller;
    static __thread apply_to_fn *known;
    if (caller != known_caller) {
        *(void **)&known = sp_original(caller, SP_NAME_OF(APPLY_TO));
        known_caller = caller;
    }
    return known;
}

void sp_steer_node(sp_hook *hook, struct ggml_tensor *node) {
    if (!hook->active || !hook->in_graph || hook->status != SP_OK) {
        return;
    }
    const int32_t il = sp_block_of(hook, node);
    if (il >= 0 && hook->watched[il]) {
        sp_handle_block(hook, node, il, true);
    }
}

/* All of ggml's threads call; what there is to do is too little to share. */

static void steer_in_place(struct ggml_tensor *node, const struct ggml_tensor *h, int thread,
                           int n_threads, void *hook) {
    (void)h, (void)n_threads;
    if (thread == 0) {
        sp_steer_node(hook, node);
    }
}

static void add_and_steer(struct ggml_tensor *node, const struct ggml_tensor *a,
                          const struct ggml_tensor *b, int thread, int n_threads, void *user_data) {
    (void)n_threads;
    if (thread != 0) {
        return;
    }
    sp_hook *hook = user_data;
    const float *x = hook->get_data(a), *y = hook->get_data(b);
    float *sum = hook->get_data(node);
    const int64_t n = hook->nelements(node);
    for (int64_t i = 0; i < n; i++) {
        sum[i] = x[i] + y[i];
    }
    sp_steer_node(hook, node);
}

static bool is_plain(const sp_hook *hook, const struct ggml_tensor *tensor, size_t size) {
    return hook->nbytes(tensor) == size && hook->is_contiguous(tensor) &&
           (size_t)hook->nelements(tensor) * sizeof(float) == size;
}

/* Whether h is a + b, all three float32 rows of one shape. */
static bool is_sum(const sp_hook *hook, const struct ggml_tensor *h, struct ggml_tensor **sources) {
    if (hook->sources_at < 0 || strcmp(hook->op_desc(h), "ADD") != 0) {
        return false;
    }
    memcpy(sources, (const char *)h + hook->sources_at, 2 * sizeof(*sources));
    const size_t size = hook->nbytes(h);
    return is_plain(hook, h, size) && is_plain(hook, sources[0], size) &&
           is_plain(hook, sources[1], size);
}

/* llama.cpp calls this with the output of every block, while it builds a graph. */
SP_API struct ggml_tensor *APPLY_TO(const void *vectors, struct ggml_context *context,
                                    struct ggml_tensor *h, int il) {
    apply_to_fn *own = original(__builtin_return_address(0));
    if (own) {
        h = own(vectors, context, h, il);
    }
    sp_hook *hook = builds_for;
    if (!hook || !hook->in_graph) {
        return h;
    }
    if (hook->route && il >= 0 && il < hook->n_layer && hook->route->blocks[il].device >= 0) {
        return sp_build_units(hook, context, h, il);
    }
    hook->built_for = hook->given_il;
    hook->n_built = il + 1;
    if (il <= hook->given_il) {
        return il == hook->given_il ? sp_give(hook, context, h) : h;
    }
    struct ggml_tensor *sources[2];
    if (is_sum(hook, h, sources)) {
        return hook->map2(context, sources[0], sources[1], add_and_steer, 1, hook);
    }
    return hook->map1(context, h, steer_in_place, 1, hook);
}

/* llama.cpp asks whether the next decode has the same graph as the last one. */
SP_API bool CAN_REUSE(void *result, const void *params) {
    static __thread can_reuse_fn *own;
    if (!own) { /* one line calls */
        *(void **)&own = sp_original(__builtin_return_address(0), SP_NAME_OF(CAN_REUSE));
    }
    sp_hook *hook = sp_builds_for();
    if (hook) {
        hook->is_asked = 1;
        if (hook->built_for != hook->given_il || (hook->route && hook->route->rebuild)) {
            return false;
        }
    }
    return own && own(result, params);
}

#endif
