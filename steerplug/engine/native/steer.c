/* The hot path: steer and capture activations while llama.cpp evaluates its graph.
 *
 * Equation, for row r of a batch at the output h of block il (the tensor `l_out-{il}`):
 *
 *     h  <-  h + sum_i  strength_i * delta_i(h)
 *     delta(h) = z + Z^T . act(W . norm(h) + b)
 *
 * Shapes: h, z (n_embd); W, Z (k, n_embd); b (k); float32. All deltas of a row read the same h.
 * engine/reference.py states the same functions in NumPy and is the oracle of this file.
 *
 * `sp_eval` is the scheduler's evaluation callback. It allocates nothing, calls no Python and needs
 * no ggml header: struct layouts change between versions, so it is handed the addresses of six ggml
 * functions instead. A failure is recorded in the hook and raised by Python after the decode call,
 * because a callback cannot return one.
 */

#include <math.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#if defined(_WIN32)
#define SP_API __declspec(dllexport)
#else
#define SP_API __attribute__((visibility("default")))
#endif

#define LANES 16

struct ggml_tensor;

enum sp_status {
    SP_OK = 0,
    SP_NOT_FLOAT32 = 1,  /* the block's output is not contiguous float32 rows of n_embd */
    SP_ROW_COUNT = 2,    /* it holds neither all rows of the batch nor only those with logits */
    SP_NOT_FINITE = 3,   /* steering made an activation infinite or NaN */
    SP_NOT_FIRED = 4,    /* the decode ended without every steered row having been steered */
};

typedef struct {
    const float *z; /* NULL: no constant part */
    const float *W;
    const float *b;
    const float *Z;
    int32_t k;
    int32_t relu;
    int32_t rms;
} sp_delta;

typedef struct {
    const sp_delta *layers; /* n_layer entries, all zero where nothing is added */
    float strength;
} sp_term;

typedef struct {
    /* set once, for one context */
    const char *(*get_name)(const struct ggml_tensor *);
    int64_t (*nelements)(const struct ggml_tensor *);
    size_t (*nbytes)(const struct ggml_tensor *);
    void *(*get_data)(const struct ggml_tensor *);
    void (*tensor_get)(const struct ggml_tensor *, void *, size_t, size_t);
    void (*tensor_set)(struct ggml_tensor *, const void *, size_t, size_t);
    int32_t n_embd, n_layer;
    int32_t on_host; /* tensors may be written in place; otherwise by get and set */
    float *copy;     /* rows of the largest batch * n_embd */
    float *delta;    /* n_embd */

    /* set for each decode, before sp_begin */
    int32_t n_rows;
    const uint8_t *output;  /* n_rows: are this row's logits asked for */
    const uint8_t *watched; /* n_layer: is there anything to do at this block */
    const int32_t *first;   /* n_rows + 1: row r has terms[first[r] .. first[r + 1]) */
    const sp_term *terms;
    const int32_t *capture_layer; /* n_layer: place in `captured`, or -1 */
    const int32_t *capture_row;   /* n_rows: place in `captured`, or -1 */
    float *captured;              /* (layers, n_captured_rows, n_embd); NULL: capture nothing */
    int32_t n_captured_rows;
    int32_t last_il; /* compute nothing above this block; -1: compute all */

    /* reported */
    float *moved;   /* n_rows: sum over blocks of |change of h| / |h| */
    int32_t *steered; /* n_rows: at how many blocks the row was steered */
    int32_t *seen;  /* n_layer: how often the callback met this block */
    int64_t applied, expected;
    int64_t found; /* with a status: the number that was wrong */
    int32_t status, status_il;
    int32_t active;
} sp_hook;

static float dot(const float *a, const float *b, int32_t n) {
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

static void add_scaled(float *out, const float *x, float scale, int32_t n) {
    for (int32_t i = 0; i < n; i++) {
        out[i] += scale * x[i];
    }
}

/* out += strength * delta(h); returns whether anything was added. */
static bool add_delta(const sp_delta *d, float strength, const float *h, float inverse_rms,
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

static bool is_steered(const sp_term *terms, int32_t n_terms, int32_t il) {
    for (int32_t i = 0; i < n_terms; i++) {
        if (!is_empty(&terms[i].layers[il])) {
            return true;
        }
    }
    return false;
}

/* Steer one row in place; returns |change| / |h|, NaN or infinite if the result is. */
SP_API float sp_steer_row(float *h, const sp_term *terms, int32_t n_terms, int32_t il,
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

/* Returns il if the name is exactly `l_out-{il}`, else -1: views and copies carry other names. */
static int32_t block_of(const char *name) {
    if (strncmp(name, "l_out-", 6) != 0 || name[6] == '\0') {
        return -1;
    }
    int32_t il = 0;
    for (const char *c = name + 6; *c; c++) {
        if (*c < '0' || *c > '9' || il > 99999) {
            return -1;
        }
        il = il * 10 + (*c - '0');
    }
    return il;
}

static bool fail(sp_hook *hook, int32_t status, int32_t il, int64_t found) {
    if (hook->status == SP_OK) {
        hook->status = status;
        hook->status_il = il;
        hook->found = found;
    }
    return false;
}

static bool handle_row(sp_hook *hook, int32_t row, int32_t il, float *h) {
    const sp_term *terms = hook->terms + hook->first[row];
    const int32_t n_terms = hook->first[row + 1] - hook->first[row];
    if (n_terms && is_steered(terms, n_terms, il)) {
        const float moved = sp_steer_row(h, terms, n_terms, il, hook->delta, hook->n_embd);
        if (!isfinite(moved)) {
            return fail(hook, SP_NOT_FINITE, il, row);
        }
        hook->moved[row] += moved;
        hook->steered[row]++;
        hook->applied++;
    }
    if (hook->captured && hook->capture_layer[il] >= 0 && hook->capture_row[row] >= 0) {
        const size_t place = (size_t)hook->capture_layer[il] * hook->n_captured_rows +
                             (size_t)hook->capture_row[row];
        memcpy(hook->captured + place * hook->n_embd, h, sizeof(float) * hook->n_embd);
    }
    return true;
}

static bool handle_rows(sp_hook *hook, int32_t il, float *h, bool only_outputs) {
    for (int32_t row = 0; row < hook->n_rows; row++) {
        if (only_outputs && !hook->output[row]) {
            continue;
        }
        if (!handle_row(hook, row, il, h)) {
            return false;
        }
        h += hook->n_embd;
    }
    return true;
}

static bool handle_block(sp_hook *hook, struct ggml_tensor *tensor, int32_t il) {
    hook->seen[il]++;

    const int64_t n = hook->nelements(tensor);
    const size_t size = hook->nbytes(tensor);
    if (n % hook->n_embd || size != (size_t)n * sizeof(float)) {
        return fail(hook, SP_NOT_FLOAT32, il, n);
    }
    const int64_t n_found = n / hook->n_embd;
    int64_t n_outputs = 0;
    for (int32_t row = 0; row < hook->n_rows; row++) {
        n_outputs += hook->output[row] != 0;
    }
    const bool all = n_found == hook->n_rows;
    if (!all && !(il == hook->n_layer - 1 && n_found == n_outputs)) {
        return fail(hook, SP_ROW_COUNT, il, n_found);
    }
    if (n_found == 0) {
        return true;
    }
    if (hook->on_host) {
        return handle_rows(hook, il, (float *)hook->get_data(tensor), !all);
    }
    hook->tensor_get(tensor, hook->copy, 0, size);
    const int64_t applied = hook->applied;
    if (!handle_rows(hook, il, hook->copy, !all)) {
        return false;
    }
    if (hook->applied != applied) {
        hook->tensor_set(tensor, hook->copy, 0, size);
    }
    return true;
}

/* The scheduler asks first which tensors to stop at (ask), then hands each one over, computed. */
SP_API bool sp_eval(struct ggml_tensor *tensor, bool ask, void *user_data) {
    sp_hook *hook = user_data;
    if (!hook->active) {
        return !ask;
    }
    const int32_t il = block_of(hook->get_name(tensor));
    if (il < 0 || il >= hook->n_layer || !hook->watched[il]) {
        return !ask;
    }
    return ask || (handle_block(hook, tensor, il) && il != hook->last_il);
}

/* Arm the hook for one decode of n_rows rows. */
SP_API void sp_begin(sp_hook *hook) {
    hook->applied = hook->expected = hook->found = 0;
    hook->status = SP_OK;
    hook->status_il = -1;
    hook->active = 1;
    memset(hook->moved, 0, sizeof(float) * hook->n_rows);
    memset(hook->steered, 0, sizeof(int32_t) * hook->n_rows);
    memset(hook->seen, 0, sizeof(int32_t) * hook->n_layer);
    const int32_t n_computed = hook->last_il < 0 ? hook->n_layer : hook->last_il + 1;
    for (int32_t row = 0; row < hook->n_rows; row++) {
        const int32_t n_terms = hook->first[row + 1] - hook->first[row];
        for (int32_t il = 0; n_terms && il < n_computed; il++) {
            /* the last block may hold only rows with logits; a row without any ends there unread */
            const bool read = il < hook->n_layer - 1 || hook->output[row];
            hook->expected += read && is_steered(hook->terms + hook->first[row], n_terms, il);
        }
    }
}

/* Disarm the hook; returns the status of the decode. */
SP_API int32_t sp_end(sp_hook *hook) {
    hook->active = 0;
    if (hook->status == SP_OK && hook->applied < hook->expected) {
        fail(hook, SP_NOT_FIRED, -1, hook->applied);
    }
    return hook->status;
}
