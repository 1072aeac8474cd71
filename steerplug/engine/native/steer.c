/* The hot path: steer and capture the activations of one block, row by row.
 *
 * Equation, for row r of a batch at the output h of block il (`l_out-{il}` in most graphs):
 *
 *     h  <-  h + sum_i  strength_i * delta_i(h)
 *     delta(h) = z + Z^T . act(W . norm(h) + b)
 *
 * Shapes: h, z (n_embd); W, Z (k, n_embd); b (k); float32. All deltas of a row read the same h.
 * Where a row has several streams, h is one of them or their mean, and the sum is added to each.
 * engine/reference.py states the same functions in NumPy and is the oracle of this file.
 *
 * It allocates nothing, calls no Python and needs no ggml header: struct layouts change between
 * versions, so it is handed the addresses of ggml's functions instead. A failure is recorded in the
 * hook and raised by Python after the decode call, because nothing here can return one.
 */

#include "steer.h"

#include <math.h>
#include <string.h>

#define LANES 16

#if defined(__GNUC__)
#define INLINED static inline __attribute__((always_inline))
#else
#define INLINED static inline
#endif

/* On x86 the processor's widest vectors are chosen when the library is loaded. They add up in the
 * same order as narrow ones, so the bits are the same. */
#if defined(__x86_64__) && defined(__GLIBC__) && defined(__GNUC__) && !defined(__clang__)
#define WIDEST __attribute__((target_clones("avx512f", "avx2", "default")))
#else
#define WIDEST
#endif

INLINED float dot(const float *a, const float *b, int32_t n) {
    float lane[LANES] = {0};
    int32_t i = 0;
    for (; i + LANES <= n; i += LANES) {
        for (int32_t j = 0; j < LANES; j++) {
            lane[j] += a[i + j] * b[i + j];
        }
    }
    float sum = 0;
    for (; i < n; i++) {
        sum += a[i] * b[i];
    }
    for (int32_t j = 0; j < LANES; j++) {
        sum += lane[j];
    }
    return sum;
}

INLINED void add_scaled(float *out, const float *x, float scale, int32_t n) {
    for (int32_t i = 0; i < n; i++) {
        out[i] += scale * x[i];
    }
}

/* out += strength * delta(h); returns whether anything was added. */
INLINED bool add_delta(const sp_delta *d, float strength, const float *h, float inverse_rms,
                       float *out, int32_t n_embd) {
    bool added = false;
    if (d->z) {
        add_scaled(out, d->z, strength, n_embd);
        added = true;
    }
    for (int32_t u = 0; u < d->k; u++) {
        float read = dot(d->W + (size_t)u * n_embd, h, n_embd);
        if (d->rms) {
            read *= inverse_rms;
        }
        read += d->b[u];
        if (d->relu && read < 0) {
            read = 0;
        }
        if (read != 0) {
            add_scaled(out, d->Z + (size_t)u * n_embd, strength * read, n_embd);
            added = true;
        }
    }
    return added;
}

static bool is_empty(const sp_delta *d) { return !d->z && d->k == 0; }

bool sp_is_steered(const sp_term *terms, int32_t n_terms, int32_t il) {
    for (int32_t i = 0; i < n_terms; i++) {
        if (!is_empty(&terms[i].layers[il])) {
            return true;
        }
    }
    return false;
}

/* Steer one row in place; returns |change| / |h|, NaN or infinite if the result is. */
SP_API WIDEST float sp_steer_row(float *h, const sp_term *terms, int32_t n_terms, int32_t il,
                                 float *delta, int32_t n_embd) {
    const float length_squared = dot(h, h, n_embd);
    const float inverse_rms = /* a quotient of roots: the other way it could underflow */
        length_squared > 0 ? sqrtf((float)n_embd) / sqrtf(length_squared) : 0.0f;
    bool added = false;
    memset(delta, 0, sizeof(float) * n_embd);
    for (int32_t i = 0; i < n_terms; i++) {
        const sp_delta *d = &terms[i].layers[il];
        added |= add_delta(d, terms[i].strength, h, inverse_rms, delta, n_embd);
    }
    if (!added) {
        return 0.0f;
    }
    add_scaled(h, delta, 1.0f, n_embd);
    const float change = dot(delta, delta, n_embd);
    return length_squared > 0 ? sqrtf(change) / sqrtf(length_squared) : sqrtf(change);
}

int32_t sp_block_of(const sp_hook *hook, const struct ggml_tensor *tensor) {
    const char *name = hook->get_name(tensor); /* views and copies carry other names */
    const size_t length = strlen(hook->output_name);
    if (strncmp(name, hook->output_name, length) != 0 || name[length] == '\0') {
        return -1;
    }
    int32_t il = 0;
    for (const char *c = name + length; *c; c++) {
        if (*c < '0' || *c > '9' || il >= hook->n_layer) {
            return -1;
        }
        il = il * 10 + (*c - '0');
    }
    return il < hook->n_layer ? il : -1;
}

bool sp_fail(sp_hook *hook, int32_t status, int32_t il, int64_t found) {
    if (hook->status == SP_OK) {
        hook->status = status;
        hook->status_il = il;
        hook->found = found;
    }
    return false;
}

void sp_capture_row(sp_hook *hook, int32_t row, int32_t il, const float *h) {
    if (hook->captured && hook->capture_layer[il] >= 0 && hook->capture_row[row] >= 0) {
        const size_t place = (size_t)hook->capture_layer[il] * hook->n_captured_rows +
                             (size_t)hook->capture_row[row];
        memcpy(hook->captured + place * hook->n_embd, h, sizeof(float) * hook->n_embd);
    }
}

static bool handle_row(sp_hook *hook, int32_t row, int32_t il, float *h) {
    const sp_term *terms = hook->terms + hook->first[row];
    const int32_t n_terms = hook->first[row + 1] - hook->first[row];
    if (n_terms && sp_is_steered(terms, n_terms, il)) {
        const float moved = sp_steer_row(h, terms, n_terms, il, hook->delta, hook->n_embd);
        if (!isfinite(moved)) {
            memset(h, 0, sizeof(float) * hook->n_embd); /* no cell is to hold what is infinite */
            return sp_fail(hook, SP_NOT_FINITE, il, row);
        }
        hook->moved[row] += moved;
        hook->steered[row]++;
        hook->applied++;
    }
    sp_capture_row(hook, row, il, h);
    return true;
}

/* The same for a row of several streams, each `step` floats after the one before. */
static bool handle_streams(sp_hook *hook, int32_t row, int32_t il, float *streams, size_t step) {
    const int32_t n_read = hook->mean ? hook->n_streams : 1;
    memset(hook->h, 0, sizeof(float) * hook->n_embd);
    for (int32_t s = 0; s < n_read; s++) {
        add_scaled(hook->h, streams + s * step, 1.0f / (float)n_read, hook->n_embd);
    }
    const int64_t applied = hook->applied;
    if (!handle_row(hook, row, il, hook->h)) {
        return false;
    }
    for (int32_t s = 0; hook->applied != applied && s < hook->n_streams; s++) {
        add_scaled(streams + s * step, hook->delta, 1.0f, hook->n_embd);
    }
    return true;
}

static bool handle_rows(sp_hook *hook, int32_t il, float *data, int64_t n_found) {
    const bool only_outputs = n_found != hook->n_rows;
    const size_t n_embd = (size_t)hook->n_embd;
    const size_t row_step = hook->mean ? hook->n_streams * n_embd : n_embd;
    const size_t stream_step = hook->mean ? n_embd : n_found * n_embd;
    for (int32_t row = 0; row < hook->n_rows; row++) {
        if (only_outputs && !hook->output[row]) {
            continue;
        }
        if (!(hook->n_streams == 1 ? handle_row(hook, row, il, data)
                                   : handle_streams(hook, row, il, data, stream_step))) {
            return false;
        }
        data += row_step;
    }
    return true;
}

typedef struct {
    int64_t begin, end;
} span;

/* From the first to the last of the block's rows in which there is something to do: to steer, or
 * also to capture. Streams that do not lie side by side are taken whole. */
static span rows_to_copy(const sp_hook *hook, int32_t il, int64_t n_found, bool captured_too) {
    span rows = {0, 0};
    int64_t place = 0;
    for (int32_t row = 0; row < hook->n_rows; row++) {
        if (n_found != hook->n_rows && !hook->output[row]) {
            continue;
        }
        const int32_t n_terms = hook->first[row + 1] - hook->first[row];
        if (sp_is_steered(hook->terms + hook->first[row], n_terms, il) ||
            (captured_too && hook->captured && hook->capture_layer[il] >= 0 &&
             hook->capture_row[row] >= 0)) {
            rows.begin = rows.end ? rows.begin : place;
            rows.end = place + 1;
        }
        place++;
    }
    const bool is_whole = rows.end && hook->n_streams > 1 && !hook->mean;
    return is_whole ? (span){0, n_found} : rows;
}

/* The same by get and set: no more rows are copied than from the first to the last at hand. */
static bool handle_copy(sp_hook *hook, struct ggml_tensor *tensor, int32_t il, int64_t n_found) {
    const size_t row = sizeof(float) * hook->n_embd * hook->n_streams;
    const span read = rows_to_copy(hook, il, n_found, true);
    if (!read.end) {
        return true;
    }
    char *copy = (char *)hook->copy;
    hook->tensor_get(tensor, copy + read.begin * row, read.begin * row,
                     (read.end - read.begin) * row);
    const int64_t applied = hook->applied;
    if (!handle_rows(hook, il, hook->copy, n_found)) {
        return false;
    }
    if (hook->applied != applied) {
        const span steered = rows_to_copy(hook, il, n_found, false);
        hook->tensor_set(tensor, copy + steered.begin * row, steered.begin * row,
                         (steered.end - steered.begin) * row);
    }
    return true;
}

bool sp_handle_block(sp_hook *hook, struct ggml_tensor *tensor, int32_t il, bool in_place) {
    hook->seen[il]++;

    const int64_t n = hook->nelements(tensor);
    const size_t size = hook->nbytes(tensor);
    const int64_t width = (int64_t)hook->n_embd * hook->n_streams;
    if (n % width || size != (size_t)n * sizeof(float)) {
        return sp_fail(hook, SP_NOT_FLOAT32, il, n);
    }
    const int64_t n_found = n / width;
    int64_t n_outputs = 0;
    for (int32_t row = 0; row < hook->n_rows; row++) {
        n_outputs += hook->output[row] != 0;
    }
    if (n_found != hook->n_rows && !(il == hook->n_layer - 1 && n_found == n_outputs)) {
        return sp_fail(hook, SP_ROW_COUNT, il, n_found);
    }
    if (n_found == 0) {
        return true;
    }
    return in_place ? handle_rows(hook, il, (float *)hook->get_data(tensor), n_found)
                    : handle_copy(hook, tensor, il, n_found);
}

void sp_report_nothing(sp_hook *hook) {
    hook->applied = hook->found = 0;
    hook->status = SP_OK;
    hook->status_il = -1;
    memset(hook->moved, 0, sizeof(float) * hook->n_rows);
    memset(hook->steered, 0, sizeof(int32_t) * hook->n_rows);
    memset(hook->seen, 0, sizeof(int32_t) * hook->n_layer);
}

/* Before a decode of n_rows rows in which nothing is steered or captured. */
SP_API void sp_stand_by(sp_hook *hook, int32_t n_rows) {
    hook->n_rows = n_rows;
    hook->expected = 0;
    hook->given_il = -1;
    hook->n_built = 0;
    sp_report_nothing(hook);
    if (hook->route) {
        sp_prepare(hook);
    }
    sp_build_for(hook);
}

/* Before a decode of n_rows rows that does what the tables say. */
SP_API void sp_begin(sp_hook *hook, int32_t n_rows) {
    hook->n_rows = n_rows;
    hook->expected = 0;
    hook->n_built = 0;
    if (hook->given_il >= 0) {
        hook->graph_clear(hook->left_out);
    }
    sp_report_nothing(hook);
    hook->active = 1;
    if (hook->route) {
        sp_prepare(hook);
    }
    sp_build_for(hook);
    const int32_t begin = hook->given_il < 0 ? 0 : hook->given_il;
    const int32_t end = hook->last_il < 0 ? hook->n_layer : hook->last_il + 1;
    for (int32_t row = 0; row < n_rows; row++) {
        const int32_t n_terms = hook->first[row + 1] - hook->first[row];
        for (int32_t il = begin; n_terms && il < end; il++) {
            /* the last block may hold only rows with logits; a row without any ends there unread */
            const bool read = il < hook->n_layer - 1 || hook->output[row];
            hook->expected += read && sp_is_steered(hook->terms + hook->first[row], n_terms, il);
        }
    }
}

int32_t sp_conclude(sp_hook *hook) {
    if (hook->status == SP_OK && hook->applied < hook->expected) {
        sp_fail(hook, SP_NOT_FIRED, -1, hook->applied);
    }
    return hook->status;
}

/* After a decode, or one that llama.cpp refused; returns its status. */
SP_API int32_t sp_end(sp_hook *hook, bool decoded) {
    const bool reported = !(hook->active && hook->route && decoded) || sp_settle(hook);
    hook->active = 0;
    sp_build_for(NULL);
    return reported ? sp_conclude(hook) : SP_OK;
}
