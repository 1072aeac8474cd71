/* Counts what is asked of devices, in a process that preloads this library: pieces of graphs that
 * are begun, waits for a device, and copies to and from it. */

#define _GNU_SOURCE
#include <dlfcn.h>
#include <stdbool.h>
#include <stddef.h>

struct counts {
    long graphs, waits, gets, sets;
} counts;

/* ggml is loaded by Python for itself alone, so it is none of the libraries that come next. */
#define NEXT(name) \
    ((__typeof__(&name))dlsym(dlopen("libggml-base.so.0", RTLD_LAZY | RTLD_NOLOAD), #name))

int ggml_backend_graph_compute_async(void *backend, void *graph) {
    counts.graphs++;
    return NEXT(ggml_backend_graph_compute_async)(backend, graph);
}

void ggml_backend_synchronize(void *backend) {
    counts.waits++;
    NEXT(ggml_backend_synchronize)(backend);
}

void ggml_backend_tensor_get(const void *tensor, void *data, size_t offset, size_t size) {
    counts.gets++;
    NEXT(ggml_backend_tensor_get)(tensor, data, offset, size);
}

void ggml_backend_tensor_get_async(void *backend, const void *tensor, void *data, size_t offset,
                                   size_t size) {
    counts.gets++;
    NEXT(ggml_backend_tensor_get_async)(backend, tensor, data, offset, size);
}

void ggml_backend_tensor_set(void *tensor, const void *data, size_t offset, size_t size) {
    counts.sets++;
    NEXT(ggml_backend_tensor_set)(tensor, data, offset, size);
}
