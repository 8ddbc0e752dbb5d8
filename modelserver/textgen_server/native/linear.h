// What the kinds of linear layers share: panels, tiles, and where a tile's results go.
#pragma once

#include <algorithm>

#include "kernels.h"
#include "simd.h"

inline long panels_of(long features) { return (features + TILE_COLUMNS - 1) / TILE_COLUMNS; }

// Panels that one thread takes at a time: about 20 kB of weights, or two million products, which is enough to be worth a
// turn, and little enough to share.
inline long panels_together(long panel_bytes, long panel_products) {
    return std::max<long>(1, std::min(20480 / panel_bytes + 1, 2000000 / (panel_products + 1)));
}

// Calls body.operator()<ROWS>(first row) for rows in tiles of about the same size.
template <typename Body>
inline void in_tiles(long rows, Body body) {
    const long tiles = (rows + TILE_ROWS - 1) / TILE_ROWS;
    for (long tile = 0; tile < tiles; ++tile) {
        const long first = rows * tile / tiles, end = rows * (tile + 1) / tiles;
        with_rows(static_cast<int>(end - first), [&]<int ROWS>() { body.template operator()<ROWS>(first); });
    }
}

// A row of a tile to where it belongs: values * scale * scales + bias, of which the last two may be null. A panel that
// reaches beyond the last feature goes by way of copies that are as wide as all.
inline void finish(const Vec (&values)[2], const TextgenLinear &layer, float scale, long column, float *out) {
    const long width = layer.features - column;
    float padded[3][TILE_COLUMNS] = {};  // out, scales, bias
    const bool whole = width >= TILE_COLUMNS;
    const float *scales = layer.scales ? layer.scales + column : nullptr, *bias = layer.bias ? layer.bias + column : nullptr;
    if (!whole) {
        for (long c = 0; c < width; ++c) {
            if (scales) padded[1][c] = scales[c];
            if (bias) padded[2][c] = bias[c];
        }
        scales = scales ? padded[1] : nullptr, bias = bias ? padded[2] : nullptr;
    }
    float *to = whole ? out : padded[0];
    for (int v = 0; v < 2; ++v) {
        Vec value = values[v];
        if (scales) value = value * scale * load(scales + v * LANES);
        if (bias) value += load(bias + v * LANES);
        store(to + v * LANES, value);
    }
    if (!whole)
        for (long c = 0; c < width; ++c) out[c] = padded[0][c];
}

void multiply_int8(const TextgenLinear &layer, const float *x, long x_stride, float *out, long rows);
