// x W^T + b with both sides in int8 (W8A8): each row of x is rounded once, by its own largest number or a given scale.
//
// W is packed in panels of TILE_COLUMNS output features: panel p holds W[p * TILE_COLUMNS + c][k] at
// [k / TOGETHER][c][k % TOGETHER], zeros beyond the last of either. Where codes of x are moved by OFFSET, the correction
// of a feature, -OFFSET times the sum of its weights, makes up for it: sums are exact modulo 2^32, and the true one fits
// for a depth of up to 2^17.

#include "int8.h"

#include <algorithm>
#include <vector>

#include "linear.h"
#include "threads.h"

namespace {

long padded(long depth) { return (depth + TOGETHER - 1) / TOGETHER * TOGETHER; }

// Codes [depth] of a row; returns what a code of one stands for.
float round_row(const float *x, long depth, float given, Code *codes) {
    float scale = given;
    const long whole = depth / LANES * LANES;
    float rest[LANES] = {};
    std::copy(x + whole, x + depth, rest);
    if (!given) {
        Vec most = {};
        for (long k = 0; k <= whole; k += LANES) {
            const Vec values = load(k < whole ? x + k : rest), sizes = values < 0.0f ? -values : values;
            most = sizes > most ? sizes : most;
        }
        // The least is the smallest normal number: rows of zeros stay zeros.
        scale = std::max(largest(most) / 127, std::numeric_limits<float>::min());
    }
    for (long k = 0; k < whole; k += LANES) store_codes(codes + k, load(x + k) / scale);
    Code last[LANES];
    store_codes(last, load(rest) / scale);
    std::copy(last, last + (depth - whole), codes + whole);
    return scale;
}

struct Rounded {
    std::vector<Code> codes;    // [rows, padded depth]
    std::vector<float> scales;  // [rows]
};

void round_rows(const TextgenLinear &layer, const float *x, long x_stride, long rows, Rounded &to) {
    const long stride = padded(layer.depth), together = std::max<long>(1, 8192 / (layer.depth + 1));
    to.codes.resize(rows * stride);
    to.scales.resize(rows);
    team().share((rows + together - 1) / together, [&](long piece) {
        for (long row = piece * together; row < std::min(rows, (piece + 1) * together); ++row)
            to.scales[row] = round_row(x + row * x_stride, layer.depth, layer.input_scale, to.codes.data() + row * stride);
    });
}

template <int ROWS>
void tile(const Code *codes, long stride, const int8_t *weights, const int32_t *corrections, Ints (&sums)[ROWS][2]) {
    for (int m = 0; m < ROWS; ++m)
        for (int v = 0; v < 2; ++v) __builtin_memcpy(&sums[m][v], corrections + v * LANES, sizeof(Ints));
    for (long k = 0; k < stride; k += TOGETHER, weights += TILE_COLUMNS * TOGETHER) {
        const Codes columns[2] = {load_codes(weights), load_codes(weights + LANES * TOGETHER)};
#pragma GCC unroll 12
        for (int m = 0; m < ROWS; ++m)
#pragma GCC unroll 2
            for (int v = 0; v < 2; ++v) sums[m][v] = add_products(sums[m][v], codes + m * stride + k, columns[v]);
    }
}

}  // namespace

void multiply_int8(const TextgenLinear &layer, const float *x, long x_stride, float *out, long rows) {
    thread_local Rounded rounded;  // of the thread that calls; those that help read it
    round_rows(layer, x, x_stride, rows, rounded);
    const Code *codes = rounded.codes.data();
    const float *scales = rounded.scales.data();
    const int8_t *packed = static_cast<const int8_t *>(layer.packed);
    const long stride = padded(layer.depth), size = stride * TILE_COLUMNS, panels = panels_of(layer.features);
    const long together = panels_together(size, size * rows / 4);
    team().share((panels + together - 1) / together, [&](long piece) {
        for (long p = piece * together; p < std::min(panels, (piece + 1) * together); ++p)
            in_tiles(rows, [&]<int ROWS>(long first) {
                Ints sums[ROWS][2];
                tile<ROWS>(codes + first * stride, stride, packed + p * size, layer.corrections + p * TILE_COLUMNS, sums);
                for (int m = 0; m < ROWS; ++m) {
                    const Vec values[2] = {__builtin_convertvector(sums[m][0], Vec),
                                           __builtin_convertvector(sums[m][1], Vec)};
                    finish(values, layer, scales[first + m], p * TILE_COLUMNS,
                           out + (first + m) * layer.features + p * TILE_COLUMNS);
                }
            });
    });
}

extern "C" {

// Rows of x [rows, depth], `x_stride` apart, as codes [rows, depth], each by its own largest number; scales [rows].
void textgen_round_rows(const float *x, long x_stride, int8_t *codes, float *scales, long rows, long depth) {
    team().share(rows, [=](long row) {
        thread_local std::vector<Code> moved;
        moved.resize(depth);
        const Code *from = moved.data();
        int8_t *to = codes + row * depth;
        scales[row] = round_row(x + row * x_stride, depth, 0, moved.data());
        for (long k = 0; k < depth; ++k) to[k] = static_cast<int8_t>(from[k] - OFFSET);
    });
}

long textgen_packed_int8_size(long features, long depth) { return panels_of(features) * TILE_COLUMNS * padded(depth); }

// weight [features, depth] with rows `stride` apart -> packed [textgen_packed_int8_size], corrections [panels, columns]
void textgen_pack_int8(const int8_t *weight, long stride, int8_t *packed, int32_t *corrections, long features,
                       long depth) {
    const long size = padded(depth) * TILE_COLUMNS;
    team().share(panels_of(features), [=](long panel) {
        int8_t *to = packed + panel * size;
        const long first = panel * TILE_COLUMNS, width = std::min<long>(TILE_COLUMNS, features - first);
        std::fill(to, to + size, 0);
        for (long k = 0; k < depth; k += TOGETHER, to += TILE_COLUMNS * TOGETHER) {
            const int8_t *from = weight + first * stride + k;
            if (k + TOGETHER <= depth)
                for (long c = 0; c < width; ++c) __builtin_memcpy(to + c * TOGETHER, from + c * stride, TOGETHER);
            else
                for (long c = 0; c < width; ++c) std::copy(from + c * stride, from + c * stride + depth - k, to + c * TOGETHER);
        }
        for (long c = 0; c < TILE_COLUMNS; ++c) {
            int32_t sum = 0;
            for (long k = 0; c < width && k < depth; ++k) sum += weight[(first + c) * stride + k];
            corrections[first + c] = -OFFSET * sum;
        }
    });
}
}
