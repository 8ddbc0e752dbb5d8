// x W^T + b in float32, from one row to hundreds, with W packed in panels of TILE_COLUMNS output features:
// panel p holds W[p * TILE_COLUMNS + c][k] at [k][c], zeros beyond the last feature. W is in float32, or in int8 with a
// scale for each output feature, and then becomes float32 on its way into the registers.

#include "linear.h"

#include <algorithm>

#include "threads.h"

namespace {

template <typename Number>
void multiply(const TextgenLinear &layer, const float *x, long x_stride, float *out, long rows) {
    const long panels = panels_of(layer.features), size = layer.depth * TILE_COLUMNS;
    const long together = panels_together(size * static_cast<long>(sizeof(Number)), size * rows);
    const Number *packed = static_cast<const Number *>(layer.packed);
    team().share((panels + together - 1) / together, [&](long piece) {
        for (long p = piece * together; p < std::min(panels, (piece + 1) * together); ++p)
            in_tiles(rows, [&]<int ROWS>(long first) {
                Vec sums[ROWS][2] = {};
                multiply_add<ROWS, 2>(x + first * x_stride, x_stride, packed + p * size, TILE_COLUMNS, layer.depth, sums);
                for (int m = 0; m < ROWS; ++m)
                    finish(sums[m], layer, 1, p * TILE_COLUMNS, out + (first + m) * layer.features + p * TILE_COLUMNS);
            });
    });
}

template <typename Number>
void pack(const Number *weight, long stride, Number *packed, long features, long depth) {
    team().share(panels_of(features), [=](long panel) {
        Number *to = packed + panel * depth * TILE_COLUMNS;
        const long first = panel * TILE_COLUMNS, width = std::min<long>(TILE_COLUMNS, features - first);
        for (long k = 0; k < depth; ++k, to += TILE_COLUMNS)
            for (long c = 0; c < TILE_COLUMNS; ++c) to[c] = c < width ? weight[(first + c) * stride + k] : Number{0};
    });
}

}  // namespace

extern "C" {

long textgen_packed_size(long features, long depth) { return panels_of(features) * TILE_COLUMNS * depth; }

// weight [features, depth] with rows `stride` apart -> packed [textgen_packed_size]
void textgen_pack(const float *weight, long stride, float *packed, long features, long depth) {
    pack(weight, stride, packed, features, depth);
}

void textgen_pack_int8_weights(const int8_t *weight, long stride, int8_t *packed, long features, long depth) {
    pack(weight, stride, packed, features, depth);
}

void textgen_linear(const TextgenLinear *layer, const float *x, long x_stride, float *out, long rows) {
    switch (layer->kind) {
    case FLOAT32: return multiply<float>(*layer, x, x_stride, out, rows);
    case INT8_WEIGHTS: return multiply<int8_t>(*layer, x, x_stride, out, rows);
    case INT8: return multiply_int8(*layer, x, x_stride, out, rows);
    }
}
}
