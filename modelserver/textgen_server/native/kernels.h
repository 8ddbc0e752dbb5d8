// The kernels that other kernels call, and what Python passes to them.
#pragma once

#include <cstdint>

extern "C" {

// How a matrix is packed (forms.h, int8.cpp): ops.py has the same numbers. Of the first ones, which hold numbers of
// float32 and nothing else, compact.cpp finds the smallest that does.
enum : int64_t { FLOAT32, FLOAT16, BFLOAT16, BLOCKS8, BLOCKS4, INT8_WEIGHTS, INT8 };

// Mirrored by Linear in ops.py.
struct TextgenLinear {
    const void *packed;
    const float *scales, *bias;  // [features] or null
    const int32_t *corrections;  // of INT8, see int8.cpp
    int64_t kind, depth, features;
    float input_scale;  // of INT8: what a code of x stands for; 0 where each row's largest number says it
};

// out [rows, features] = x [rows, depth] W^T + bias, with rows of x `x_stride` apart. What a row gets does not depend on
// the rows beside it.
void textgen_linear(const TextgenLinear *layer, const float *x, long x_stride, float *out, long rows);

// What a layer attends to in one step. Mirrored by AttentionCall in attention/native.py.
// Without keys nothing is written, without queries nothing attended to.
struct TextgenAttention {
    const float *queries, *keys, *values;  // [T, heads or kv_heads, head_dim], rows these many floats apart:
    int64_t query_stride, key_stride, value_stride;
    float *out;                      // [T, heads, head_dim]
    void *key_pool, *value_pool;     // [blocks, kv_heads, cells of padded_block * head_dim]
    const int32_t *starts, *contexts, *tables;  // [B + 1], [B], [B, table_width]
    const int64_t *slots;            // [T]
    const int32_t *first_keys;       // [B], no key before it is seen, or null
    const float *slopes;             // ALiBi's, [heads], or null
    const float *bias;               // by distance, [heads, bias_distances], the last for all beyond, or null
    int64_t tokens, sequences, table_width;
    int64_t heads, kv_heads, head_dim, block_size, padded_block;
    int64_t bias_distances;
    int64_t window;                  // 0 for none
    int64_t pool_bytes;              // of a number in the pools: 4 for float32, 2 for bfloat16
    float scale, softcap;            // softcap 0 for none
};
void textgen_attention(const TextgenAttention *call);

// A decoder layer: x + attention(norm(x)), then x + mlp(norm(x)). Mirrored by Layer in ops.py.
struct TextgenLayer {
    const float *attention_norm, *mlp_norm;
    const TextgenLinear *qkv, *output, *gate_up, *down;
    void *key_pool, *value_pool;
    TextgenAttention *call;  // of this step; layers of a kind share it
    float attention_eps, mlp_eps;
};

void textgen_rms_norm(const float *x, const float *added, float *sums, const float *weight, float eps, float *out,
                      long rows, long width);
void textgen_silu_and_multiply(const float *x, float *out, long out_stride, long rows, long width);

void textgen_rotate(float *x, long x_stride, const float *cos, const float *sin, long rows, long heads, long head_dim,
                    long dim);
}
