// Packing matrices of float32 in as few bytes as give back exactly the same numbers.
//
// Many checkpoints were made in fewer bits than they are served in: in bfloat16 or float16, or from the blocks of a GGUF
// file. Their numbers in float32 say so: the lower bits are zeros, or those of a block lie on a line. Whoever reads the
// weights at every token reads a half to a sixth then, and computes what it would have. (The sign of a zero may be lost.
// No sum that begins with 0 can tell.)

#include <algorithm>
#include <atomic>
#include <cstring>

#include "forms.h"
#include "linear.h"
#include "threads.h"

namespace {

// W [features, depth], rows `stride` apart.
struct Matrix {
    const float *numbers;
    long stride, features, depth;
};

// Numbers that are of the type `Number` by themselves.
Half converted(float value, Half *) { return to_half(value); }
uint16_t converted(float value, uint16_t *) {
    uint16_t half;
    round_to(half, value);
    return half;
}
float restored(Half half) { return to_float(half); }
float restored(uint16_t half) {
    const uint32_t bits = static_cast<uint32_t>(half) << 16;
    float value;
    std::memcpy(&value, &bits, sizeof value);
    return value;
}

template <typename Number>
bool all_are(const float *row, long depth) {
    bool all = true;
    for (long k = 0; k < depth; ++k) all &= restored(converted(row[k], static_cast<Number *>(nullptr))) == row[k];
    return all;
}

// BLOCK numbers that are scale * code + offset.
struct Block {
    Half scale, offset;
    int32_t codes[BLOCK];
};

// With codes from `lowest` to `highest`, if there are such of these scale and offset.
bool find_codes(const float *numbers, float scale, float offset, float lowest, float highest, Block &block) {
    block.scale = to_half(scale);
    block.offset = to_half(offset);
    scale = to_float(block.scale);
    offset = to_float(block.offset);
    const float inverse = scale ? 1 / scale : 0;
    Ints all = Ints{} == 0;
    for (long k = 0; k < BLOCK; k += LANES) {
        const Vec here = load(numbers + k), code = nearest((here - offset) * inverse);
        all &= (code >= lowest) & (code <= highest) & (scale * code + offset == here);
        const Ints whole = __builtin_convertvector(code, Ints);
        std::memcpy(block.codes + k, &whole, sizeof whole);
    }
    return all_lanes(all);
}

// Q4_1 reaches from its least number to its greatest, Q4_0 from the one farthest from zero, whose code is 0, to the
// other side: -8 scales to 7.
bool find_block4(const float *numbers, Block &block) {
    Vec low = load(numbers), high = low;
    for (long k = LANES; k < BLOCK; k += LANES) {
        const Vec here = load(numbers + k);
        low = here < low ? here : low;
        high = here > high ? here : high;
    }
    const float least = -largest(-low), greatest = largest(high), farthest = -least > greatest ? least : greatest;
    return find_codes(numbers, (greatest - least) / 15, least, 0, 15, block) ||
           find_codes(numbers, farthest / -8, farthest, 0, 15, block);
}

bool find_block8(const float *numbers, Block &block) {
    Vec most = {};
    for (long k = 0; k < BLOCK; k += LANES) {
        const Vec here = load(numbers + k), size = here < 0.0f ? -here : here;
        most = size > most ? size : most;
    }
    return find_codes(numbers, largest(most) / 127, 0, -128, 127, block);
}

template <bool (*find)(const float *, Block &)>
bool all_blocks(const float *row, long depth) {
    Block block;
    for (long k = 0; k < depth; k += BLOCK)
        if (!find(row + k, block)) return false;
    return depth % BLOCK == 0;
}

// Does it hold for every row? One that it does not hold for ends the search.
template <typename Holds>
bool for_all_rows(const Matrix &w, const Holds &holds) {
    const long together = std::max<long>(1, 65536 / (w.depth + 1));
    std::atomic<bool> all{true};
    team().share((w.features + together - 1) / together, [&](long piece) {
        for (long row = piece * together; row < std::min(w.features, (piece + 1) * together); ++row)
            if (!all.load(std::memory_order_relaxed) || !holds(w.numbers + row * w.stride, w.depth)) {
                all.store(false, std::memory_order_relaxed);
                return;
            }
    });
    return all;
}

// Calls put(panel, column of the panel, row of W) for all rows, with room of zeros for each panel.
template <typename Form, typename Put>
void pack_rows(const Matrix &w, char *packed, const Put &put) {
    const long size = Form::bytes(w.depth);
    team().share(panels_of(w.features), [&](long panel) {
        const long first = panel * TILE_COLUMNS, width = std::min<long>(TILE_COLUMNS, w.features - first);
        for (long c = 0; c < width; ++c) put(packed + panel * size, c, w.numbers + (first + c) * w.stride);
    });
}

template <typename Number>
void pack_plain(const Matrix &w, char *packed) {
    pack_rows<Plain<Number>>(w, packed, [&](char *panel, long column, const float *row) {
        Number *to = reinterpret_cast<Number *>(panel) + column;
        for (long k = 0; k < w.depth; ++k) {
            if constexpr (sizeof(Number) == sizeof(float))
                to[k * TILE_COLUMNS] = row[k];
            else
                to[k * TILE_COLUMNS] = converted(row[k], static_cast<Number *>(nullptr));
        }
    });
}

void pack_blocks4(const Matrix &w, char *packed) {
    pack_rows<Blocks4>(w, packed, [&](char *panel, long column, const float *row) {
        for (long k = 0; k < w.depth; k += BLOCK, panel += Blocks4::BYTES) {
            Block block;
            find_block4(row + k, block);
            Half *scales = reinterpret_cast<Half *>(panel);
            scales[column] = block.scale;
            scales[TILE_COLUMNS + column] = block.offset;
            char *codes = panel + 2 * Blocks4::SCALES + column % LANES;
            for (long i = 0; i < BLOCK; ++i) codes[i * LANES] |= block.codes[i] << (column < LANES ? 0 : 4);
        }
    });
}

void pack_blocks8(const Matrix &w, char *packed) {
    pack_rows<Blocks8>(w, packed, [&](char *panel, long column, const float *row) {
        for (long k = 0; k < w.depth; k += BLOCK, panel += Blocks8::BYTES) {
            Block block;
            find_block8(row + k, block);
            reinterpret_cast<Half *>(panel)[column] = block.scale;
            char *codes = panel + Blocks8::SCALES + column;
            for (long i = 0; i < BLOCK; ++i) codes[i * TILE_COLUMNS] = block.codes[i];
        }
    });
}

}  // namespace

extern "C" {

// The kind of the smallest form that holds exactly weight [features, depth] with rows `stride` apart.
int64_t textgen_smallest_form(const float *weight, long stride, long features, long depth) {
    const Matrix w{weight, stride, features, depth};
    if (for_all_rows(w, all_blocks<find_block4>)) return BLOCKS4;
    if (for_all_rows(w, all_blocks<find_block8>)) return BLOCKS8;
    if (for_all_rows(w, all_are<uint16_t>)) return BFLOAT16;
    if (for_all_rows(w, all_are<Half>)) return FLOAT16;
    return FLOAT32;
}

// Bytes of a packed matrix.
long textgen_packed_bytes(int64_t kind, long features, long depth) {
    const long panels = panels_of(features);
    switch (kind) {
    case BLOCKS4: return panels * Blocks4::bytes(depth);
    case BLOCKS8: return panels * Blocks8::bytes(depth);
    case BFLOAT16: return panels * Plain<uint16_t>::bytes(depth);
    case FLOAT16: return panels * Plain<Half>::bytes(depth);
    case INT8_WEIGHTS: return panels * Plain<int8_t>::bytes(depth);
    default: return panels * Plain<float>::bytes(depth);
    }
}

// weight, which the form holds exactly -> packed, which is all zeros
void textgen_pack(int64_t kind, const float *weight, long stride, char *packed, long features, long depth) {
    const Matrix w{weight, stride, features, depth};
    switch (kind) {
    case BLOCKS4: return pack_blocks4(w, packed);
    case BLOCKS8: return pack_blocks8(w, packed);
    case BFLOAT16: return pack_plain<uint16_t>(w, packed);
    case FLOAT16: return pack_plain<Half>(w, packed);
    default: return pack_plain<float>(w, packed);
    }
}

void textgen_pack_int8_weights(const int8_t *weight, long stride, int8_t *packed, long features, long depth) {
    const long size = Plain<int8_t>::bytes(depth);
    team().share(panels_of(features), [=](long panel) {
        const long first = panel * TILE_COLUMNS, width = std::min<long>(TILE_COLUMNS, features - first);
        for (long k = 0; k < depth; ++k)
            for (long c = 0; c < width; ++c) packed[panel * size + k * TILE_COLUMNS + c] = weight[(first + c) * stride + k];
    });
}
}
