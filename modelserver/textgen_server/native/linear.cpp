// x W^T + b in float32, from one row to hundreds, with W packed in panels of one of the forms of forms.h.

#include "linear.h"

#include <algorithm>
#include <vector>

#include "forms.h"
#include "threads.h"

namespace {

// sums[m] += a[m, :] W, one product after another in the order of k. Every element is summed in the same order whatever
// ROWS is, so a row's result does not depend on the rows beside it.
template <typename Form, int ROWS>
inline void multiply_panel(const float *x, long x_stride, const char *panel, long depth, Vec (&sums)[ROWS][2]) {
    Form::each(panel, depth, [&](long k, const Vec(&columns)[2]) {
#pragma GCC unroll 12
        for (int m = 0; m < ROWS; ++m) {
            const Vec one = splat(x[m * x_stride + k]);
            for (int v = 0; v < 2; ++v) sums[m][v] += one * columns[v];
        }
    });
}

template <typename Form>
void multiply_rows(const TextgenLinear &layer, const float *x, long x_stride, const char *panel, long column, float *out,
                   long rows) {
    in_tiles(rows, [&]<int ROWS>(long first) {
        Vec sums[ROWS][2] = {};
        multiply_panel<Form, ROWS>(x + first * x_stride, x_stride, panel, layer.depth, sums);
        for (int m = 0; m < ROWS; ++m)
            finish(sums[m], layer, 1, column, out + (first + m) * layer.features + column);
    });
}

// The panel's weights in float32, in memory of this thread.
template <typename Form>
const char *unpacked(const char *panel, long depth) {
    thread_local std::vector<float> memory;
    memory.resize(depth * TILE_COLUMNS);
    float *to = memory.data();
    Form::each(panel, depth, [=](long k, const Vec(&columns)[2]) {
        for (int v = 0; v < 2; ++v) store(to + k * TILE_COLUMNS + v * LANES, columns[v]);
    });
    return reinterpret_cast<const char *>(to);
}

template <typename Form>
void multiply(const TextgenLinear &layer, const float *x, long x_stride, float *out, long rows) {
    const long panels = panels_of(layer.features), size = Form::bytes(layer.depth);
    const long together = panels_together(size, layer.depth * TILE_COLUMNS * rows);
    const char *packed = static_cast<const char *>(layer.packed);
    team().share((panels + together - 1) / together, [&](long piece) {
        for (long p = piece * together; p < std::min(panels, (piece + 1) * together); ++p) {
            const char *panel = packed + p * size;
            if (rows > TILE_ROWS)  // several tiles: once for all of them
                multiply_rows<Plain<float>>(layer, x, x_stride, unpacked<Form>(panel, layer.depth), p * TILE_COLUMNS, out,
                                            rows);
            else
                multiply_rows<Form>(layer, x, x_stride, panel, p * TILE_COLUMNS, out, rows);
        }
    });
}

template <>
const char *unpacked<Plain<float>>(const char *panel, long) {
    return panel;
}

}  // namespace

extern "C" {

void textgen_linear(const TextgenLinear *layer, const float *x, long x_stride, float *out, long rows) {
    switch (layer->kind) {
    case FLOAT32: return multiply<Plain<float>>(*layer, x, x_stride, out, rows);
    case FLOAT16: return multiply<Plain<Half>>(*layer, x, x_stride, out, rows);
    case BFLOAT16: return multiply<Plain<uint16_t>>(*layer, x, x_stride, out, rows);
    case BLOCKS8: return multiply<Blocks8>(*layer, x, x_stride, out, rows);
    case BLOCKS4: return multiply<Blocks4>(*layer, x, x_stride, out, rows);
    case INT8_WEIGHTS: return multiply<Plain<int8_t>>(*layer, x, x_stride, out, rows);
    case INT8: return multiply_int8(*layer, x, x_stride, out, rows);
    }
}
}
