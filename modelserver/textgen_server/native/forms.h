// The forms in which a panel of weights lies in memory, and how each becomes float32 on its way into the registers.
//
// A panel is TILE_COLUMNS output features, zeros beyond the last. All forms but that of int8 give back exactly the
// float32 numbers that were packed (compact.cpp), so that a layer's results do not depend on the form.
//
//     Form::bytes(depth)             of a panel
//     Form::each(panel, depth, use)  calls use(k, columns) for each input feature k in turn, with the panel's column of W
#pragma once

#include "simd.h"

template <typename Number>
struct Plain {  // [k][TILE_COLUMNS]
    static long bytes(long depth) { return depth * TILE_COLUMNS * static_cast<long>(sizeof(Number)); }

    template <typename Use>
    static void each(const char *panel, long depth, Use use) {
        const Number *from = reinterpret_cast<const Number *>(panel);
        for (long k = 0; k < depth; ++k, from += TILE_COLUMNS) {
            const Vec columns[2] = {load(from), load(from + LANES)};
            use(k, columns);
        }
    }
};

// Of the blocks of GGUF's Q4_0, Q4_1 and Q8_0: so many input features of an output feature share a scale.
constexpr long BLOCK = 32;

struct Blocks4 {  // for each block: scales and offsets [TILE_COLUMNS], codes [k][LANES], those of two columns in a byte
    static constexpr long SCALES = TILE_COLUMNS * sizeof(Half), BYTES = 2 * SCALES + BLOCK * LANES;

    static long bytes(long depth) { return depth / BLOCK * BYTES; }

    template <typename Use>
    static void each(const char *panel, long depth, Use use) {
        for (long start = 0; start < depth; start += BLOCK, panel += BYTES) {
            const Half *scales = reinterpret_cast<const Half *>(panel), *offsets = scales + TILE_COLUMNS;
            const Vec scale[2] = {load(scales), load(scales + LANES)}, offset[2] = {load(offsets), load(offsets + LANES)};
            const uint8_t *codes = reinterpret_cast<const uint8_t *>(panel + 2 * SCALES);
#pragma GCC unroll 4
            for (long k = 0; k < BLOCK; ++k, codes += LANES) {
                Vec columns[2];
                load_nibbles(codes, columns);
                // Exact: a scale of 11 bits times a code of 4, rounded once when the offset is added.
                for (int v = 0; v < 2; ++v) columns[v] = scale[v] * columns[v] + offset[v];
                use(start + k, columns);
            }
        }
    }
};

struct Blocks8 {  // for each block: scales [TILE_COLUMNS], codes [k][TILE_COLUMNS]
    static constexpr long SCALES = TILE_COLUMNS * sizeof(Half), BYTES = SCALES + BLOCK * TILE_COLUMNS;

    static long bytes(long depth) { return depth / BLOCK * BYTES; }

    template <typename Use>
    static void each(const char *panel, long depth, Use use) {
        for (long start = 0; start < depth; start += BLOCK, panel += BYTES) {
            const Half *scales = reinterpret_cast<const Half *>(panel);
            const Vec scale[2] = {load(scales), load(scales + LANES)};
            const int8_t *codes = reinterpret_cast<const int8_t *>(panel + SCALES);
#pragma GCC unroll 4
            for (long k = 0; k < BLOCK; ++k, codes += TILE_COLUMNS) {
                const Vec columns[2] = {load(codes) * scale[0], load(codes + LANES) * scale[1]};
                use(start + k, columns);
            }
        }
    }
};
