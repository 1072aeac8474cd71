/* What the native hook knows: steerings laid out by Python, and the state of one context.
 *
 *     steer.c      the equation, row by row; one block's rows; the beginning and end of a decode
 *     callback.c   called by the scheduler at the blocks' outputs: any device, any platform
 *     node.c       called by llama.cpp's graph itself: on Linux, for tensors in host memory
 *     device.c     operations of llama.cpp's graph that any device computes: on Linux
 *     told.c       what devices are told before a decode, and tell: on Linux
 *     given.c      leaves out blocks below what is given: on Linux, in host memory
 *     amx.c        leaves out kernels of llama.cpp that were not tried, or crash
 */

#ifndef STEERPLUG_STEER_H
#define STEERPLUG_STEER_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#if defined(_WIN32)
#define SP_API __declspec(dllexport)
#else
#define SP_API __attribute__((visibility("default")))
#endif

#define SP_TEXT_OF(name) #name
#define SP_NAME_OF(macro) SP_TEXT_OF(macro)

struct ggml_backend_buffer;
struct ggml_cgraph;
struct ggml_context;
struct ggml_tensor;

enum sp_status {
    SP_OK = 0,
    SP_NOT_FLOAT32 = 1,  /* the block's output is not contiguous float32 rows of the known width */
    SP_ROW_COUNT = 2,    /* it holds neither all rows of the batch nor only those with logits */
    SP_NOT_FINITE = 3,   /* steering made an activation infinite or NaN */
    SP_NOT_FIRED = 4,    /* the decode ended without every steered row having been steered */
    SP_NOT_BUILT = 5,    /* llama.cpp went on with a graph that had to change */
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

typedef void sp_op1(struct ggml_tensor *, const struct ggml_tensor *, int, int, void *);
typedef void sp_op2(struct ggml_tensor *, const struct ggml_tensor *, const struct ggml_tensor *,
                    int, int, void *);
typedef struct ggml_tensor *sp_map1(struct ggml_context *, struct ggml_tensor *, sp_op1 *, int,
                                    void *);
typedef struct ggml_tensor *sp_map2(struct ggml_context *, struct ggml_tensor *,
                                    struct ggml_tensor *, sp_op2 *, int, void *);

/* What a gate reads: rms(h), or h itself. */
enum { SP_NORMED, SP_PLAIN, SP_KINDS };

/* What steering may change a value of an activation by; its square is a float as well. */
#define SP_LARGEST 1e15f

/* How many decodes may be accounted for at once. */
enum { SP_PAST = 16 };

/* A block of a model, in a context whose devices steer by themselves; see device.c. */
typedef struct {
    int32_t device; /* its place in `devices`; -1: in host memory, where a node steers it */
    int32_t slot;   /* its place among the blocks of that device */
    struct ggml_tensor *W[SP_KINDS], *b[SP_KINDS], *Z[SP_KINDS]; /* its units; NULL: none */

    /* noted while a graph is built */
    struct ggml_tensor *output;
    int64_t n_found; /* rows of it; -1: it is not float32 rows of the known width */
    int32_t n_built; /* how often it was built in this decode */
    int32_t kept_at; /* its place among the blocks that leave their output in `kept`, or -1 */
} sp_block;

/* Memory of a device in which a graph leaves what is read after the decode. */
typedef struct {
    struct ggml_tensor *tensor;
    struct ggml_backend_buffer *buffer;
    float *copy;  /* the same on the host */
    int64_t size; /* floats */
} sp_shelf;

typedef struct {
    struct ggml_tensor *S; /* (units, 2 * max_rows): strengths, set before a decode */
    sp_shelf told;         /* for each block: |h| * sqrt(n_embd), and |change|^2 */
    sp_shelf blank;        /* as large, and filled with -1 */
    sp_shelf past;         /* what the latest SP_PAST decodes have told, the last one first */
    sp_shelf aside;        /* as large, for the moment in which `past` moves on */
    sp_shelf kept;         /* for each captured block: what leaves it */
    int32_t n_blocks;
    int32_t remembers; /* whether the last graph that was built moves `past` on */
} sp_device;

/* How devices steer by themselves. */
typedef struct {
    /* set once */
    struct ggml_tensor *(*rms_norm)(struct ggml_context *, struct ggml_tensor *, float);
    struct ggml_tensor *(*mul_mat)(struct ggml_context *, struct ggml_tensor *,
                                   struct ggml_tensor *);
    struct ggml_tensor *(*add)(struct ggml_context *, struct ggml_tensor *, struct ggml_tensor *);
    struct ggml_tensor *(*clamp)(struct ggml_context *, struct ggml_tensor *, float, float);
    struct ggml_tensor *(*reglu)(struct ggml_context *, struct ggml_tensor *,
                                 struct ggml_tensor *);
    struct ggml_tensor *(*reshape)(struct ggml_context *, struct ggml_tensor *, int64_t, int64_t,
                                   int64_t);
    struct ggml_tensor *(*view)(struct ggml_context *, struct ggml_tensor *, int64_t, int64_t,
                                size_t, size_t);
    struct ggml_tensor *(*concat)(struct ggml_context *, struct ggml_tensor *,
                                  struct ggml_tensor *, int);
    struct ggml_tensor *(*copy)(struct ggml_context *, struct ggml_tensor *, struct ggml_tensor *);
    int (*place)(struct ggml_backend_buffer *, struct ggml_tensor *, void *);
    void (*synchronize)(void *);
    void *context; /* llama_context */
    sp_block *blocks;
    sp_device *devices;
    int32_t n_devices;
    int32_t max_rows;
    int32_t alignment; /* floats */
    float *moved;      /* (SP_PAST, max_rows): of each pending decode, what nodes did to its rows */
    int32_t *steered;

    /* set as units are placed */
    int32_t n_units;
    int32_t rebuild; /* the next decode has to build its graph anew */

    /* set for each decode, before sp_begin */
    const float *strengths; /* (n_columns, n_units): of all rows, then of those with logits */
    int32_t n_columns;
    int32_t upload; /* they are not what the devices have */
    int32_t later;  /* it does what the last one did, and may be accounted for with others */

    int32_t must_build; /* in this decode */
    int32_t built_rows; /* of the batch for which the last graph was built */
    int32_t is_waited_for; /* nothing has been computed since the last wait */
    int32_t n_pending; /* decodes that are not accounted for */
    int32_t n_left;    /* of them, how many there were when they were read */
    int32_t n_after;   /* decodes since, which failed */
} sp_route;

typedef struct {
    /* set once, for one context */
    const char *(*get_name)(const struct ggml_tensor *);
    int64_t (*nelements)(const struct ggml_tensor *);
    size_t (*nbytes)(const struct ggml_tensor *);
    void *(*get_data)(const struct ggml_tensor *);
    void (*tensor_get)(const struct ggml_tensor *, void *, size_t, size_t);
    void (*tensor_set)(struct ggml_tensor *, const void *, size_t, size_t);
    const char *(*op_desc)(const struct ggml_tensor *);
    bool (*is_contiguous)(const struct ggml_tensor *);
    sp_map1 *map1;
    sp_map2 *map2;
    struct ggml_tensor *(*like)(struct ggml_context *, const struct ggml_tensor *);
    void (*expand)(struct ggml_cgraph *, struct ggml_tensor *);
    void (*graph_clear)(struct ggml_cgraph *);
    int (*graph_n_nodes)(struct ggml_cgraph *);
    struct ggml_tensor *(*graph_node)(struct ggml_cgraph *, int);
    const char *output_name; /* of a block's output, up to its number: `l_out-` for most */
    int32_t n_embd, n_layer;
    int32_t n_streams; /* how many vectors of n_embd make up a row; every one is steered */
    int32_t mean;      /* h is their mean, and they lie side by side; else it is the first one */
    int32_t on_host;    /* tensors may be written in place; otherwise by get and set */
    int32_t sources_at; /* at which byte a sum keeps the two tensors it is of; -1: unknown */
    int32_t in_graph;   /* nodes of the graph steer, the callback does not */
    float *copy;        /* rows of the largest batch * n_streams * n_embd */
    float *delta;       /* n_embd */
    float *h;           /* n_embd: that of the row at hand, where it has several streams */
    sp_route *route;    /* how devices steer by themselves, or NULL */
    struct ggml_cgraph *left_out; /* where blocks go that are left out; NULL: nothing is given */

    /* set for each decode, before sp_begin */
    const uint8_t *output;  /* n_rows: are this row's logits asked for */
    const uint8_t *watched; /* n_layer: is there anything to do at this block */
    const int32_t *first;   /* n_rows + 1: row r has terms[first[r] .. first[r + 1]) */
    const sp_term *terms;
    const int32_t *capture_layer; /* n_layer: place in `captured`, or -1 */
    const int32_t *capture_row;   /* n_rows: place in `captured`, or -1 */
    float *captured;              /* (layers, n_captured_rows, n_embd); NULL: capture nothing */
    int32_t n_captured_rows;
    const float *given; /* (n_rows, n_embd): what left block given_il, which is not computed */
    int32_t given_il;   /* -1: all blocks are computed */
    int32_t last_il;    /* compute nothing above this block; -1: compute all */

    int32_t built_for; /* the given_il of the last graph that was built */
    int32_t n_built;   /* blocks of the graph at hand that are built, if one is being built */
    int32_t is_asked;  /* whether llama.cpp has asked if it may use the last graph again */

    /* reported */
    int32_t n_rows;
    float *moved;     /* n_rows: sum over blocks of |change of h| / |h| */
    int32_t *steered; /* n_rows: at how many blocks the row was steered */
    int32_t *seen;    /* n_layer: how often this block was met */
    int64_t applied, expected;
    int64_t found; /* with a status: the number that was wrong */
    int32_t status, status_il;
    int32_t active;
} sp_hook;

/* The block whose output this is: il if it is named exactly `{output_name}{il}`, else -1. */
int32_t sp_block_of(const sp_hook *hook, const struct ggml_tensor *tensor);

/* Steer and capture the rows of a block's output, in place or by get and set; false after a
 * failure, which the hook records. */
bool sp_handle_block(sp_hook *hook, struct ggml_tensor *tensor, int32_t il, bool in_place);

/* Where a tensor keeps those that it is computed from; only where `sources_at` is known. */
struct ggml_tensor **sp_sources_of(const sp_hook *hook, struct ggml_tensor *node);

/* Steer a block's output where it is, from within the graph. See node.c. */
void sp_steer_node(sp_hook *hook, struct ggml_tensor *node);

/* What stands for a block's output h, and for all that it is computed from. See given.c. */
struct ggml_tensor *sp_give(sp_hook *hook, struct ggml_context *context, struct ggml_tensor *h);

/* Record a failure, unless there was one before; returns false. */
bool sp_fail(sp_hook *hook, int32_t status, int32_t il, int64_t found);

/* Whether any of these terms adds something at a block. */
bool sp_is_steered(const sp_term *terms, int32_t n_terms, int32_t il);

/* Hand over what left a block in a row of the batch, if it is to be captured. */
void sp_capture_row(sp_hook *hook, int32_t row, int32_t il, const float *h);

/* Devices that steer by themselves: what they are told before a decode; a block's output, made
 * while a graph is built; and what the graph has told, read after the decode, unless it is left
 * pending (false). See told.c and device.c. */
void sp_prepare(sp_hook *hook);
struct ggml_tensor *sp_build_units(sp_hook *hook, struct ggml_context *context,
                                   struct ggml_tensor *h, int32_t il);
bool sp_settle(sp_hook *hook);

/* How many floats apart numbers lie of which there are n, and how many all blocks of a device leave
 * in `told`: at each of them a kind after the other. */
int64_t sp_stride(const sp_route *route, int64_t n);
int64_t sp_n_told(const sp_hook *hook, const sp_device *device);

/* Forget what is reported, but for what was expected. */
void sp_report_nothing(sp_hook *hook);
/* The status of a decode, of which everything is reported. */
int32_t sp_conclude(sp_hook *hook);

/* The function of this name in the library that called (Linux); another llama.cpp may be loaded. */
void *sp_original(const void *caller, const char *name);

/* Name the hook of the context that this thread builds graphs for, or NULL; tell it. See node.c. */
void sp_build_for(sp_hook *hook);
sp_hook *sp_builds_for(void);

#endif
