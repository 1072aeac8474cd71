/* What devices that steer by themselves are told before a decode, and what they tell, on Linux.
 *
 * The graph (device.c) leaves what it tells in memory that is filled with -1 before the decode and
 * read once after it: what is not negative then was computed by this decode. One that does what the
 * last one did need not be waited for: the graph itself fills `told` with -1 first, and in the end
 * puts what is there in front of what the decodes before have told (`past`), of which the oldest
 * falls out. Up to SP_PAST are accounted for at once, each by what it has told itself; one that
 * told nothing leaves the -1 of which `past` is full as they begin.
 */

#include "steer.h"

#include <math.h>
#include <string.h>

#if !defined(__linux__)

void sp_prepare(sp_hook *hook) { (void)hook; }
bool sp_settle(sp_hook *hook) { return hook != NULL; }

#else

int64_t sp_stride(const sp_route *route, int64_t n) {
    return (n + route->alignment - 1) / route->alignment * route->alignment;
}

/* Floats that a decode leaves in `told`. */
int64_t sp_n_told(const sp_hook *hook, const sp_device *device) {
    return 2 * device->n_blocks * sp_stride(hook->route, hook->n_rows);
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
        const int64_t n = sp_n_told(hook, device);
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
    if (!isfinite(moved) || change >= SP_LARGEST * SP_LARGEST) {
        sp_fail(hook, SP_NOT_FINITE, il, row);
    }
    hook->moved[row] += moved;
    hook->steered[row]++;
    hook->applied++;
}

/* Account for what is told of a block's rows, each |h| * sqrt(n_embd) and then each |change|^2. */
static void settle_block(sp_hook *hook, int32_t il, const float *told) {
    const sp_block *block = &hook->route->blocks[il];
    const int64_t step = sp_stride(hook->route, hook->n_rows);
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
            settle_block(hook, il, shelf->copy + which * sp_n_told(hook, device));
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
    const int64_t size = sp_stride(route, (int64_t)hook->n_rows * hook->n_embd);
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
        read(hook, &route->devices[i].told, sp_n_told(hook, &route->devices[i]));
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
        read(hook, &device->past, (route->n_after + route->n_pending) * sp_n_told(hook, device));
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
