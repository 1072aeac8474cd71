/* Steering that any device computes: operations of llama.cpp's own graph, on Linux.
 *
 * Equation, at the output h of a block, for all rows at once and all units of all steerings in use:
 *
 *     h  <-  h + sum  Z (relu(W^T x + b) * S)      over x = rms(h) and x = h
 *
 * Shapes: h (n_embd, rows); W, Z (n_embd, units); b (units); S (units, rows), which is 0 where a
 * row does not ask for a unit; float32. engine/units.py says how a delta is made of units.
 *
 * W, b, Z and S lie on the device for as long as the context, so what changes from one decode to
 * the next are columns of S, and never the graph. Beside the change the graph computes
 *
 *     rms(h) . h = |h| * sqrt(n_embd)      and      |change|^2
 *
 * for each row, into memory (`told`), from where they are accounted for (told.c). A change beyond all
 * measure (SP_LARGEST) fails the decode there, and is bounded here: an infinite row would reach the
 * others of its batch, and who has its cells later, because devices weigh what a mask leaves out by
 * zero, and zero times infinite is no number. Nothing of the
 * graph needs these, nor what comes in front of them and behind; they are named as a third source
 * of operations that have two, so that they are computed all the same, and in this order.
 */

#include "steer.h"

#if defined(__linux__)

#define LEAST_MEAN_SQUARE 1e-30f /* a row of zeros stays one */

/* Let a node leave its result on a shelf, if there is room. */
static bool leave(const sp_hook *hook, const sp_shelf *shelf, int64_t at,
                  struct ggml_tensor *node) {
    if (at + hook->nelements(node) > shelf->size) {
        return false;
    }
    float *shelved = (float *)hook->get_data(shelf->tensor) + at;
    return hook->route->place(shelf->buffer, node, shelved) == 0;
}

static void name_source(const sp_hook *hook, struct ggml_tensor *node, struct ggml_tensor *source) {
    sp_sources_of(hook, node)[2] = source;
}

/* a . b for each row, left for the host at a place of the block's; (1, 1, rows) */
static struct ggml_tensor *tell(const sp_hook *hook, struct ggml_context *context,
                                struct ggml_tensor *a, struct ggml_tensor *b, int64_t n,
                                const sp_block *block, int32_t which) {
    const sp_route *route = hook->route;
    a = route->reshape(context, a, hook->n_embd, 1, n);
    b = route->reshape(context, b, hook->n_embd, 1, n);
    struct ggml_tensor *dot = route->mul_mat(context, a, b);
    const int64_t at = (2 * block->slot + which) * sp_stride(route, hook->n_rows);
    if (n <= hook->n_rows) { /* not where memory is set aside for larger graphs */
        leave(hook, &route->devices[block->device].told, at, dot);
    }
    return dot;
}

static struct ggml_tensor *first(const sp_hook *hook, struct ggml_context *context,
                                 const sp_shelf *shelf, int64_t n) {
    return hook->route->view(context, shelf->tensor, n, 1, sizeof(float) * n, 0);
}

/* What comes before anything is told: -1 wherever it will be. */
static struct ggml_tensor *clear(const sp_hook *hook, struct ggml_context *context,
                                 const sp_device *device) {
    const int64_t n = sp_n_told(hook, device);
    return hook->route->copy(context, first(hook, context, &device->blank, n),
                             first(hook, context, &device->told, n));
}

/* What comes after everything was told, the last of it by this node; NULL: there is no room. */
static struct ggml_tensor *remember(const sp_hook *hook, struct ggml_context *context,
                                    sp_device *device, struct ggml_tensor *last) {
    const sp_route *route = hook->route;
    const int64_t n = sp_n_told(hook, device);
    if (n == 0 || SP_PAST * n > device->past.size) {
        return NULL;
    }
    struct ggml_tensor *moved_on =
        route->concat(context, first(hook, context, &device->told, n),
                      first(hook, context, &device->past, (SP_PAST - 1) * n), 0);
    name_source(hook, moved_on, last);
    if (!leave(hook, &device->aside, 0, moved_on)) {
        return NULL;
    }
    device->remembers = 1;
    return route->copy(context, moved_on, first(hook, context, &device->past, SP_PAST * n));
}

/* The sum of all units' changes (n_embd, rows), or NULL. */
static struct ggml_tensor *change_of(const sp_hook *hook, struct ggml_context *context,
                                     struct ggml_tensor *h, int64_t n, const sp_block *block,
                                     int64_t first_column) {
    const sp_route *route = hook->route;
    struct ggml_tensor *x = route->rms_norm(context, h, LEAST_MEAN_SQUARE);
    struct ggml_tensor *length = tell(hook, context, h, x, n, block, 0), *change = NULL;
    if (block->slot == 0 && n <= hook->n_rows) {
        name_source(hook, length, clear(hook, context, &route->devices[block->device]));
    }
    const size_t column = sizeof(float) * route->n_units;
    struct ggml_tensor *S = route->view(context, route->devices[block->device].S, route->n_units, n,
                                        column, first_column * column);
    for (int32_t kind = 0; kind < SP_KINDS; kind++) {
        if (!block->W[kind]) {
            continue;
        }
        struct ggml_tensor *read = kind == SP_NORMED ? x : h;
        read = route->add(context, route->mul_mat(context, block->W[kind], read), block->b[kind]);
        struct ggml_tensor *gates = route->reglu(context, read, S);
        struct ggml_tensor *written = route->mul_mat(context, block->Z[kind], gates);
        if (!change) {
            name_source(hook, gates, length);
        }
        change = change ? route->add(context, change, written) : written;
    }
    return change;
}

struct ggml_tensor *sp_build_units(sp_hook *hook, struct ggml_context *context,
                                   struct ggml_tensor *h, int32_t il) {
    sp_route *route = hook->route;
    sp_block *block = &route->blocks[il];
    const int64_t n = hook->nelements(h) / hook->n_embd;
    const bool is_plain = hook->is_contiguous(h) && hook->nelements(h) == n * hook->n_embd &&
                          hook->nbytes(h) == sizeof(float) * (size_t)hook->nelements(h);
    block->n_built++;
    block->n_found = is_plain ? n : -1;
    block->kept_at = -1;
    block->output = h;
    route->rebuild = 0;
    route->built_rows = hook->n_rows;
    route->devices[block->device].remembers = 0;
    if (!is_plain || n == 0 || n > route->max_rows) {
        return h;
    }
    const bool only_outputs = il == hook->n_layer - 1 && n < hook->n_rows;
    struct ggml_tensor *change =
        change_of(hook, context, h, n, block, only_outputs ? hook->n_rows : 0);
    if (!change) {
        return h;
    }
    sp_device *device = &route->devices[block->device];
    struct ggml_tensor *told = tell(hook, context, change, change, n, block, 1), *remembered = NULL;
    if (block->slot == device->n_blocks - 1 && n <= hook->n_rows) {
        remembered = remember(hook, context, device, told);
    }
    change = route->clamp(context, change, -SP_LARGEST, SP_LARGEST); /* in place, so after `told` */
    name_source(hook, change, remembered ? remembered : told);
    block->output = route->add(context, h, change);
    const sp_shelf *kept = &device->kept;
    if (hook->active && hook->captured && hook->capture_layer[il] >= 0 && n <= hook->n_rows) {
        int32_t place = 0; /* among the captured blocks of this device */
        for (int32_t other = 0; other < il; other++) {
            place += hook->capture_layer[other] >= 0 &&
                     route->blocks[other].device == block->device;
        }
        const int64_t size = sp_stride(route, (int64_t)hook->n_rows * hook->n_embd);
        if (leave(hook, kept, place * size, block->output)) {
            block->kept_at = place;
        }
    }
    return block->output;
}

#endif
