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
 * for each row, into memory (`told`) that is filled with -1 before the decode and read once after
 * it: what is not negative then was computed by this decode. One that does what the last one did
 * need not be waited for: the graph itself fills `told` with -1 first, and in the end puts what is
 * there in front of what the decodes before have told (`past`), of which the oldest falls out. Up
 * to SP_PAST are accounted for at once, each by what it has told itself; one that told nothing
 * leaves the -1 of which `past` is full as they begin.
 *
 * Nothing of the graph needs these; they are named as a third source of operations that have two,
 * so that they are computed all the same, and in this order.
 */

#include "steer.h"

#include <math.h>
#include <string.h>

#if !defined(__linux__)

void sp_prepare(sp_hook *hook) { (void)hook; }
bool sp_settle(sp_hook *hook) { return hook != NULL; }

#else

#define CAN_REUSE _ZN16llm_graph_result9can_reuseERK16llm_graph_params
#define LEAST_MEAN_SQUARE 1e-30f /* a row of zeros stays one */

typedef bool can_reuse_fn(void *, const void *);

/* llama.cpp asks whether the next decode has the same graph as the last one. */
SP_API bool CAN_REUSE(void *result, const void *params) {
    static __thread can_reuse_fn *own;
    if (!own) { /* one line calls */
        *(void **)&own = sp_original(__builtin_return_address(0), SP_NAME_OF(CAN_REUSE));
    }
    const sp_hook *hook = sp_builds_for();
    return !(hook && hook->route && hook->route->rebuild) && own && own(result, params);
}

static int64_t stride(const sp_route *route, int64_t n) {
    return (n + route->alignment - 1) / route->alignment * route->alignment;
}

/* Floats that a decode leaves in `told`. */
static int64_t n_told(const sp_hook *hook, const sp_device *device) {
    return 2 * device->n_blocks * stride(hook->route, hook->n_rows);
}

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
    struct ggml_tensor **sources = (struct ggml_tensor **)((char *)node + hook->sources_at);
    sources[2] = source;
}

/* a . b for each row, left for the host at a place of the block's; (1, 1, rows) */
static struct ggml_tensor *tell(const sp_hook *hook, struct ggml_context *context,
                                struct ggml_tensor *a, struct ggml_tensor *b, int64_t n,
                                const sp_block *block, int32_t which) {
    const sp_route *route = hook->route;
    a = route->reshape(context, a, hook->n_embd, 1, n);
    b = route->reshape(context, b, hook->n_embd, 1, n);
    struct ggml_tensor *dot = route->mul_mat(context, a, b);
    const int64_t at = (2 * block->slot + which) * stride(route, hook->n_rows);
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
    const int64_t n = n_told(hook, device);
    return hook->route->copy(context, first(hook, context, &device->blank, n),
                             first(hook, context, &device->told, n));
}

/* What comes after everything was told, the last of it by this node; NULL: there is no room. */
static struct ggml_tensor *remember(const sp_hook *hook, struct ggml_context *context,
                                    sp_device *device, struct ggml_tensor *last) {
    const sp_route *route = hook->route;
    const int64_t n = n_told(hook, device);
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
    block->output = route->add(context, h, change);
    name_source(hook, block->output, remembered ? remembered : told);
    const sp_shelf *kept = &device->kept;
    if (hook->active && hook->captured && hook->capture_layer[il] >= 0 && n <= hook->n_rows) {
        int32_t place = 0; /* among the captured blocks of this device */
        for (int32_t other = 0; other < il; other++) {
            place += hook->capture_layer[other] >= 0 &&
                     route->blocks[other].device == block->device;
        }
        const int64_t size = stride(route, (int64_t)hook->n_rows * hook->n_embd);
        if (leave(hook, kept, place * size, block->output)) {
            block->kept_at = place;
        }
    }
    return block->output;
}

static void blank(const sp_hook *hook, const sp_shelf *shelf, int64_t n) {
    for (int64_t at = 0; at < n; at++) {
        shelf->copy[at] = -1;
    }
    hook->tensor_set(shelf->tensor, shelf->copy, 0, sizeof(float) * n);
}

void sp_prepare(sp_hook *hook) {
    sp_route *route = hook->route;
    const bool begins = route->later && route->n_pending == 0;
    const bool is_read = hook->active && !route->later;
    if ((route->upload || begins || is_read) && !route->is_waited_for) {
        route->synchronize(route->context); /* the last decode may use what is written here */
    }
    route->is_waited_for = 0;
    if (route->upload) {
        for (int32_t i = 0; i < route->n_devices; i++) {
            hook->tensor_set(route->devices[i].S, route->strengths, 0,
                             sizeof(float) * route->n_columns * route->n_units);
        }
        route->upload = 0;
    }
    if (begins) {
        route->n_after = 0;
    }
    for (int32_t i = 0; i < route->n_devices; i++) {
        const sp_device *device = &route->devices[i];
        const int64_t n = n_told(hook, device);
        if (is_read) {
            blank(hook, &device->told, n);
        } else if (begins && SP_PAST * n <= device->past.size) {
            blank(hook, &device->past, SP_PAST * n);
        }
    }
    if (!hook->active) {
        return;
    }
    for (int32_t il = 0; il < hook->n_layer; il++) {
        sp_block *block = &route->blocks[il];
        block->n_built = 0;
        if (hook->captured && hook->capture_layer[il] >= 0 && block->kept_at < 0) {
            route->rebuild = 1;
        }
    }
    route->must_build = route->rebuild;
}

/* Whether the graph was the one that was asked for, as far as it is seen where graphs are built. */
static bool is_as_built(sp_hook *hook, int64_t n_outputs) {
    const sp_route *route = hook->route;
    if (route->must_build && route->rebuild) {
        return sp_fail(hook, SP_NOT_BUILT, -1, 0);
    }
    if (route->built_rows != hook->n_rows) {
        return sp_fail(hook, SP_ROW_COUNT, 0, route->built_rows);
    }
    for (int32_t il = 0; il < hook->n_layer; il++) {
        const sp_block *block = &route->blocks[il];
        if (block->device < 0) {
            continue;
        }
        if (block->n_found < 0) {
            return sp_fail(hook, SP_NOT_FLOAT32, il, hook->n_embd);
        }
        const bool is_last = il == hook->n_layer - 1;
        if (block->n_found != hook->n_rows && !(is_last && block->n_found == n_outputs)) {
            return sp_fail(hook, SP_ROW_COUNT, il, block->n_found);
        }
        /* it got its name after it was built; before the next graph is, it is still there */
        if (block->n_built && sp_block_of(hook, block->output) != il) {
            return sp_fail(hook, SP_NOT_FIRED, il, 0);
        }
    }
    return true;
}

static void settle_row(sp_hook *hook, int32_t il, int32_t row, float length, float change) {
    const sp_term *terms = hook->terms + hook->first[row];
    const int32_t n_terms = hook->first[row + 1] - hook->first[row];
    if (!n_terms || !sp_is_steered(terms, n_terms, il) || length < 0 || change < 0) {
        return; /* too few are counted then, where it was to be steered */
    }
    const float h = length / sqrtf((float)hook->n_embd);
    const float moved = h > 0 ? sqrtf(change) / h : sqrtf(change);
    if (!isfinite(moved)) {
        sp_fail(hook, SP_NOT_FINITE, il, row);
    }
    hook->moved[row] += moved;
    hook->steered[row]++;
    hook->applied++;
}

/* Account for what is told of a block's rows, each |h| * sqrt(n_embd) and then each |change|^2. */
static void settle_block(sp_hook *hook, int32_t il, const float *told) {
    const sp_block *block = &hook->route->blocks[il];
    const int64_t step = stride(hook->route, hook->n_rows);
    const float *length = told + 2 * block->slot * step, *change = length + step;
    hook->seen[il] = block->n_found == 0 || length[0] >= 0 || isnan(length[0]);
    int64_t place = 0;
    for (int32_t row = 0; row < hook->n_rows; row++) {
        if (block->n_found == hook->n_rows || hook->output[row]) {
            settle_row(hook, il, row, length[place], change[place]);
            place++;
        }
    }
}

/* Account for the last decode, or (past) for one that is pending: 0 is the latest of them. */
static void settle(sp_hook *hook, bool past, int32_t which) {
    for (int32_t il = 0; il < hook->n_layer; il++) {
        const int32_t i = hook->route->blocks[il].device;
        if (i >= 0) {
            const sp_device *device = &hook->route->devices[i];
            const sp_shelf *shelf = past ? &device->past : &device->told;
            settle_block(hook, il, shelf->copy + which * n_told(hook, device));
        }
    }
}

static void wait(sp_hook *hook) {
    hook->route->synchronize(hook->route->context);
    hook->route->is_waited_for = 1;
}

static void read(const sp_hook *hook, const sp_shelf *shelf, int64_t n) {
    if (n) {
        hook->tensor_get(shelf->tensor, shelf->copy, 0, sizeof(float) * n);
    }
}

/* Hand over what is to be captured and was kept. */
static void capture(sp_hook *hook) {
    const sp_route *route = hook->route;
    const int64_t size = stride(route, (int64_t)hook->n_rows * hook->n_embd);
    for (int32_t i = 0; i < route->n_devices; i++) {
        int64_t n_kept = 0;
        for (int32_t il = 0; il < hook->n_layer; il++) {
            n_kept += route->blocks[il].device == i && route->blocks[il].kept_at >= 0;
        }
        read(hook, &route->devices[i].kept, n_kept * size);
    }
    for (int32_t il = 0; il < hook->n_layer; il++) {
        const sp_block *block = &route->blocks[il];
        if (block->device < 0 || block->kept_at < 0) {
            continue;
        }
        const float *h = route->devices[block->device].kept.copy + block->kept_at * size;
        for (int32_t row = 0; row < hook->n_rows; row++) {
            if (block->n_found == hook->n_rows || hook->output[row]) {
                sp_capture_row(hook, row, il, h);
                h += hook->n_embd;
            }
        }
    }
}

/* Whether the last decode put what it has told in front of what others have. */
static bool is_remembered(const sp_hook *hook) {
    const sp_route *route = hook->route;
    for (int32_t i = 0; i < route->n_devices; i++) {
        if (!route->devices[i].remembers) {
            return false;
        }
    }
    return true;
}

bool sp_settle(sp_hook *hook) {
    sp_route *route = hook->route;
    int64_t n_outputs = 0;
    for (int32_t row = 0; row < hook->n_rows; row++) {
        n_outputs += hook->output[row] != 0;
    }
    if (hook->status != SP_OK || !is_as_built(hook, n_outputs)) {
        route->n_after = route->later;
        return true;
    }
    if (route->later && is_remembered(hook)) {
        const size_t at = (size_t)route->n_pending++ * route->max_rows;
        memcpy(route->moved + at, hook->moved, sizeof(float) * hook->n_rows);
        memcpy(route->steered + at, hook->steered, sizeof(int32_t) * hook->n_rows);
        return false;
    }
    wait(hook);
    for (int32_t i = 0; i < route->n_devices; i++) {
        read(hook, &route->devices[i].told, n_told(hook, &route->devices[i]));
    }
    settle(hook, false, 0);
    if (hook->captured && hook->status == SP_OK) {
        capture(hook);
    }
    return true;
}

/* Read what pending decodes have told; they are accounted for one by one then. */
SP_API void sp_recall(sp_hook *hook) {
    sp_route *route = hook->route;
    wait(hook);
    for (int32_t i = 0; i < route->n_devices; i++) {
        const sp_device *device = &route->devices[i];
        read(hook, &device->past, (route->n_after + route->n_pending) * n_told(hook, device));
    }
    route->n_left = route->n_pending;
}

/* Report what the oldest pending decode did, as if it had been the last one; returns its status. */
SP_API int32_t sp_account(sp_hook *hook) {
    sp_route *route = hook->route;
    const size_t at = (size_t)(route->n_left - route->n_pending) * route->max_rows;
    sp_report_nothing(hook);
    for (int32_t row = 0; row < hook->n_rows; row++) {
        hook->moved[row] = route->moved[at + row];
        hook->steered[row] = route->steered[at + row];
        hook->applied += hook->steered[row];
    }
    route->n_pending--;
    settle(hook, true, route->n_after + route->n_pending);
    return sp_conclude(hook);
}

#endif
