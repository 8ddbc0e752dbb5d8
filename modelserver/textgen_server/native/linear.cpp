// x W^T + b in float32, from one row to hundreds, with W packed in panels of TILE_COLUMNS output features:
// panel p holds W[p * TILE_COLUMNS + c][k] at [k][c], zeros beyond the last feature. W is in float32, or in int8 with a
// scale for each output feature, and then becomes float32 on its way into the registers.

#include <algorithm>

#include "simd.h"
#include "threads.h"

namespace {

long panels_of(long features) { return (features + TILE_COLUMNS - 1) / TILE_COLUMNS; }

template <typename Number>
struct Product {
    const float *x;
    long x_stride;
    const Number *packed;
    const float *scales, *bias;  // [features] or null
    float *out;
    long rows, depth, features;

    // Output features of one panel, for all rows.
    void panel(long number) const {
        const long blocks = (rows + TILE_ROWS - 1) / TILE_ROWS;
        for (long block = 0; block < blocks; ++block) {
            const long first = rows * block / blocks, end = rows * (block + 1) / blocks;
            with_rows(static_cast<int>(end - first), [&]<int ROWS>() { tile<ROWS>(number, first); });
        }
    }

    template <int ROWS>
    void tile(long number, long first) const {
        const Number *columns = packed + number * depth * TILE_COLUMNS;
        Vec sums[ROWS][2] = {};
        multiply_add<ROWS, 2>(x + first * x_stride, x_stride, columns, TILE_COLUMNS, depth, sums);
        const long column = number * TILE_COLUMNS, width = std::min<long>(TILE_COLUMNS, features - column);
        for (int m = 0; m < ROWS; ++m) {
            float row[TILE_COLUMNS];
            store(row, sums[m][0]);
            store(row + LANES, sums[m][1]);
            float *to = out + (first + m) * features + column;
            for (long c = 0; c < width; ++c) {
                const float scaled = scales ? row[c] * scales[column + c] : row[c];
                to[c] = bias ? scaled + bias[column + c] : scaled;
            }
        }
    }
};

template <typename Number>
void multiply(const Product<Number> &product) {
    const long panels = panels_of(product.features), size = product.depth * TILE_COLUMNS;
    // About 64 kB of weights, or two million products, a piece: enough to be worth a turn, and little enough to share.
    const long bytes = size * static_cast<long>(sizeof(Number)), rows = std::max<long>(1, product.rows);
    const long together = std::max<long>(1, std::min(65536 / bytes + 1, 2000000 / (size * rows)));
    team().share((panels + together - 1) / together, [&](long piece) {
        for (long p = piece * together; p < std::min(panels, (piece + 1) * together); ++p) product.panel(p);
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

void textgen_pack_int8(const int8_t *weight, long stride, int8_t *packed, long features, long depth) {
    pack(weight, stride, packed, features, depth);
}

// x [rows, depth] with rows `x_stride` apart -> out [rows, features]; bias [features] or null
void textgen_linear(const float *x, long x_stride, const float *packed, const float *bias, float *out, long rows,
                    long depth, long features) {
    multiply(Product<float>{x, x_stride, packed, nullptr, bias, out, rows, depth, features});
}

// The same with W = packed * scales, scales [features].
void textgen_linear_int8(const float *x, long x_stride, const int8_t *packed, const float *scales, float *out,
                         long rows, long depth, long features) {
    multiply(Product<int8_t>{x, x_stride, packed, scales, nullptr, out, rows, depth, features});
}
}
