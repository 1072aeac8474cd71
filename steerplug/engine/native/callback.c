/* The scheduler's evaluation callback: llama.cpp stops at the blocks' outputs and hands them over.
 *
 * It works on every device and platform, at the price that the graph is evaluated in as many pieces
 * as blocks are watched. Where nodes of the graph steer (node.c), it only ends a decode early.
 */

#include "steer.h"

/* The scheduler asks first which tensors to stop at (ask), then hands each one over, computed;
 * it goes on when told true. */
SP_API bool sp_eval(struct ggml_tensor *tensor, bool ask, void *user_data) {
    sp_hook *hook = user_data;
    if (!hook->active || (hook->in_graph && hook->last_il < 0)) {
        return !ask;
    }
    const int32_t il = sp_block_of(hook, tensor);
    if (il < 0 || !hook->watched[il] || (hook->in_graph && il != hook->last_il)) {
        return !ask;
    }
    return ask || (!hook->in_graph && sp_handle_block(hook, tensor, il, hook->on_host) &&
                   il != hook->last_il);
}
