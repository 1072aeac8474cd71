/* llama.cpp's AMX kernels: left out, on Linux, unless they were tried on this machine and work.
 *
 * Some compilers drop the stores that fill the tile configuration (llama.cpp issue 20824), and then
 * the first product ends the process. ggml asks `ggml_backend_amx_buffer_type` once whether there
 * are such kernels. This library defines that function too, and is loaded first and for all to see
 * (native.py), so the dynamic linker takes this one: it knows of none until `sp_allow_amx`. The
 * repacked kernels for other instructions stay. See amx.py for who allows them.
 */

#include "steer.h"

#if !defined(__linux__)

SP_API void sp_allow_amx(void) {}

#else

#define AMX_BUFFER_TYPE _Z28ggml_backend_amx_buffer_typev

typedef struct ggml_backend_buffer_type *buffer_type_fn(void);

static bool allowed;

SP_API void sp_allow_amx(void) { allowed = true; }

/* ggml calls this once per process, before it lays the first weights. */
SP_API struct ggml_backend_buffer_type *AMX_BUFFER_TYPE(void) {
    buffer_type_fn *own = NULL;
    if (allowed) {
        *(void **)&own = sp_original(__builtin_return_address(0), SP_NAME_OF(AMX_BUFFER_TYPE));
    }
    return own ? own() : NULL;
}

#endif
