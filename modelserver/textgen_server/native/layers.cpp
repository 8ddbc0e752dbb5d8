// Whole layers, so that one call does what would be many from Python: with few rows, a call costs as much as its work.

#include <vector>

#include "kernels.h"

namespace {

// Memory between the kernels of a layer, of the thread that calls.
float *scratch(std::vector<float> &memory, long size) {
    if (static_cast<long>(memory.size()) < size) memory.resize(size);
    return memory.data();
}

}  // namespace

extern "C" {

// out [rows, features] = output(attention(rotated query and key, value)), all three from x [rows, depth] by `qkv`.
// `call` says what is attended to; cos and sin [rows, dim], dim 0 for no rotation.
void textgen_self_attention(const TextgenLinear *qkv, const TextgenLinear *output, TextgenAttention *call,
                            const float *x, long x_stride, const float *cos, const float *sin, long dim, float *out,
                            long rows) {
    thread_local std::vector<float> projected, attended;
    const long stride = qkv->features, queries = call->heads * call->head_dim, keys = call->kv_heads * call->head_dim;
    float *q = scratch(projected, rows * stride);
    textgen_linear(qkv, x, x_stride, q, rows);
    if (dim) textgen_rotate(q, stride, cos, sin, rows, call->heads + call->kv_heads, call->head_dim, dim);
    call->queries = q;
    call->keys = q + queries;
    call->values = q + queries + keys;
    call->query_stride = call->key_stride = call->value_stride = stride;
    call->out = scratch(attended, rows * queries);
    call->tokens = rows;
    textgen_attention(call);
    call->keys = call->values = nullptr;  // the call may go on to a layer that only attends
    textgen_linear(output, call->out, queries, out, rows);
}

// out [rows, features] = down(silu(gate) * up), gate and up from x [rows, depth] by `gate_up`.
void textgen_gated_mlp(const TextgenLinear *gate_up, const TextgenLinear *down, const float *x, long x_stride,
                       float *out, long rows) {
    thread_local std::vector<float> memory;
    const long stride = gate_up->features;
    float *both = scratch(memory, rows * stride);
    textgen_linear(gate_up, x, x_stride, both, rows);
    textgen_silu_and_multiply(both, both, stride, rows, stride / 2);
    textgen_linear(down, both, stride, out, rows);
}

// Layers one after another. x [rows, hidden] is what the first gets; then x + added is what the last gives.
// cos and sin [rows, dim].
void textgen_layers(const TextgenLayer *layers, long count, float *x, float *added, const float *cos, const float *sin,
                    long dim, long rows) {
    thread_local std::vector<float> memory;
    const long hidden = layers->qkv->depth;
    float *normed = scratch(memory, rows * hidden);
    for (const TextgenLayer *layer = layers; layer < layers + count; ++layer) {
        textgen_rms_norm(x, layer == layers ? nullptr : added, x, layer->attention_norm, layer->attention_eps, normed,
                         rows, hidden);
        layer->call->key_pool = layer->key_pool;
        layer->call->value_pool = layer->value_pool;
        textgen_self_attention(layer->qkv, layer->output, layer->call, normed, hidden, cos, sin, dim, added, rows);
        textgen_rms_norm(x, added, x, layer->mlp_norm, layer->mlp_eps, normed, rows, hidden);
        textgen_gated_mlp(layer->gate_up, layer->down, normed, hidden, added, rows);
    }
}
}
