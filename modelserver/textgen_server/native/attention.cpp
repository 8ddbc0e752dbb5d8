// Causal attention over blocks of keys and values, read where they lie.
//
// A cell of the key pool is one KV head of one block, [head_dim, tokens]: a vector holds one feature of consecutive
// tokens, so that scores of many tokens come from one load. A cell of the value pool is [tokens, head_dim].
// The softmax is taken over one block after another (Milakov and Gimelshein 2018; Dao et al. 2022), always from the
// first: what a query gets depends on its own sequence alone.

#include <algorithm>
#include <vector>

#include "kernels.h"
#include "simd.h"
#include "threads.h"

namespace {

using Step = TextgenAttention;

// One piece of work: some tokens of one sequence, for some of the query heads of one KV head; a row for each pair.
struct Piece {
    long sequence, kv_head, first_token, tokens, first_head, heads;
};

// `Number` is what the pools hold.
template <typename Number>
struct Attend {
    const Step &step;
    const Piece &piece;
    long context = step.contexts[piece.sequence];
    long queries = step.starts[piece.sequence + 1] - step.starts[piece.sequence];
    long cell = step.padded_block * step.head_dim;
    long first_key = step.first_keys ? step.first_keys[piece.sequence] : 0;

    long positions[TILE_ROWS], first_seen[TILE_ROWS];  // of rows

    Attend(const Step &step, const Piece &piece) : step(step), piece(piece) {
        for (long row = 0; row < piece.tokens * piece.heads; ++row) {
            positions[row] = context - queries + piece.first_token + row / piece.heads;
            first_seen[row] = step.window ? std::max(first_key, positions[row] + 1 - step.window) : first_key;
        }
    }

    // Row r is token r / heads of the piece, and its query head r % heads.
    long token(int row) const { return step.starts[piece.sequence] + piece.first_token + row / piece.heads; }
    long head(int row) const { return piece.first_head + row % piece.heads; }

    template <int ROWS>
    void rows() const {
        const long dim = step.head_dim, width = step.padded_block;
        thread_local std::vector<float> memory;
        memory.resize(ROWS * (2 * dim + width));
        float *query = memory.data(), *sums = query + ROWS * dim, *weights = sums + ROWS * dim;
        float highest[ROWS];
        Vec total[ROWS] = {};  // in each lane, of its own tokens
        for (int r = 0; r < ROWS; ++r) {
            const float *from = step.queries + token(r) * step.query_stride + head(r) * dim;
            for (long i = 0; i < dim; ++i) query[r * dim + i] = from[i] * step.scale;
            highest[r] = -std::numeric_limits<float>::infinity();
        }
        std::fill(sums, sums + ROWS * dim, 0.0f);
        const long end = positions[ROWS - 1] + 1, first = first_seen[0];
        const Number *keys = static_cast<const Number *>(step.key_pool);
        const Number *values = static_cast<const Number *>(step.value_pool);
        const int32_t *table = step.tables + piece.sequence * step.table_width;
        const long last = (end - 1) / step.block_size;
        for (long block = first / step.block_size; block <= last; ++block) {
            const long offset = cell_of(table[block]), ahead = block < last ? cell_of(table[block + 1]) - offset : 0;
            scores<ROWS>(query, keys + offset, weights, ahead);
            bend(weights, block * step.block_size, ROWS);
            for (int r = 0; r < ROWS; ++r) soften(weights + r * width, sums + r * dim, highest[r], total[r]);
            weigh<ROWS>(weights, values + offset, std::min(step.block_size, end - block * step.block_size), sums, ahead);
        }
        for (int r = 0; r < ROWS; ++r) {
            float *to = step.out + (token(r) * step.heads + head(r)) * dim;
            const float all = sum(total[r]);
            for (long i = 0; i < dim; ++i) to[i] = sums[r * dim + i] / all;
        }
    }

    long cell_of(long block) const { return (block * step.kv_heads + piece.kv_head) * cell; }

    // weights = query keys
    template <int ROWS>
    void scores(const float *query, const Number *keys, float *weights, long ahead) const {
        const long width = step.padded_block;
        long column = 0;
        for (; column + TILE_COLUMNS <= width; column += TILE_COLUMNS)
            product<ROWS, 2>(query, step.head_dim, keys + column, width, step.head_dim, weights + column, width, ahead, false);
        for (; column < width; column += LANES)
            product<ROWS, 1>(query, step.head_dim, keys + column, width, step.head_dim, weights + column, width, ahead, false);
    }

    // sums += weights values, of so many tokens
    template <int ROWS>
    void weigh(const float *weights, const Number *values, long tokens, float *sums, long ahead) const {
        const long width = step.padded_block, dim = step.head_dim;
        long column = 0;
        if constexpr (ROWS * 4 <= TILE_ROWS * 2)  // few rows: more columns, so that sums do not wait for each other
            for (; column + 4 * LANES <= dim; column += 4 * LANES)
                product<ROWS, 4>(weights, width, values + column, dim, tokens, sums + column, dim, ahead, true);
        for (; column + TILE_COLUMNS <= dim; column += TILE_COLUMNS)
            product<ROWS, 2>(weights, width, values + column, dim, tokens, sums + column, dim, ahead, true);
        for (; column < dim; column += LANES)
            product<ROWS, 1>(weights, width, values + column, dim, tokens, sums + column, dim, ahead, true);
    }

    template <int ROWS, int VECTORS>
    static void product(const float *a, long a_stride, const Number *b, long b_stride, long depth, float *out,
                        long out_stride, long ahead, bool add) {
        Vec sums[ROWS][VECTORS] = {};
        if (add)
            for (int r = 0; r < ROWS; ++r)
                for (int v = 0; v < VECTORS; ++v) sums[r][v] = load(out + r * out_stride + v * LANES);
        multiply_add<ROWS, VECTORS>(a, a_stride, b, b_stride, depth, ahead, sums);
        for (int r = 0; r < ROWS; ++r)
            for (int v = 0; v < VECTORS; ++v) store(out + r * out_stride + v * LANES, sums[r][v]);
    }

    // Softcap, biases, and -inf for what a row does not see.
    void bend(float *weights, long start, int rows) const {
        const long width = step.padded_block;
        for (int r = 0; r < rows; ++r) {
            float *row = weights + r * width;
            const long seen_to = positions[r] + 1;
            if (step.softcap)
                for (long i = 0; i < width; ++i) row[i] = step.softcap * std::tanh(row[i] / step.softcap);
            if (step.slopes)
                for (long i = 0; i < width; ++i) row[i] += step.slopes[head(r)] * (start + i - positions[r]);
            if (step.bias) {
                const float *by_distance = step.bias + head(r) * step.bias_distances;
                for (long i = 0; i < width; ++i)
                    row[i] += by_distance[std::clamp<long>(positions[r] - start - i, 0, step.bias_distances - 1)];
            }
            for (long i = 0; i < std::min(width, first_seen[r] - start); ++i) row[i] = HIDDEN;
            for (long i = std::max<long>(0, std::min(step.block_size, seen_to - start)); i < width; ++i) row[i] = HIDDEN;
        }
    }

    // One more block of a row's scores: they become weights, and what was summed before is scaled to the new maximum.
    void soften(float *row, float *sums, float &highest, Vec &total) const {
        const long width = step.padded_block;
        Vec most = splat(highest);
        for (long i = 0; i < width; i += LANES) {
            const Vec scores = load(row + i);
            most = scores > most ? scores : most;
        }
        const float now = largest(most);
        if (now == HIDDEN) {  // nothing seen yet
            std::fill(row, row + width, 0.0f);
            return;
        }
        Vec added = {};
        for (long i = 0; i < width; i += LANES) {
            const Vec weight = exp(load(row + i) - now);
            store(row + i, weight);
            added += weight;
        }
        if (now > highest) {
            const float shrink = exp(splat(highest - now))[0];
            total *= shrink;
            for (long i = 0; i < step.head_dim; ++i) sums[i] *= shrink;
            highest = now;
        }
        total += added;
    }

    static constexpr float HIDDEN = -std::numeric_limits<float>::infinity();
};

template <typename Number>
void write(const Step &step, long token) {
    const long block = step.slots[token] / step.block_size, offset = step.slots[token] % step.block_size;
    const long cell = step.padded_block * step.head_dim;
    for (long head = 0; head < step.kv_heads; ++head) {
        const float *key = step.keys + token * step.key_stride + head * step.head_dim;
        const float *value = step.values + token * step.value_stride + head * step.head_dim;
        const long start = (block * step.kv_heads + head) * cell;
        Number *keys = static_cast<Number *>(step.key_pool) + start + offset;
        Number *values = static_cast<Number *>(step.value_pool) + start + offset * step.head_dim;
        for (long i = 0; i < step.head_dim; ++i) round_to(keys[i * step.padded_block], key[i]);
        for (long i = 0; i < step.head_dim; ++i) round_to(values[i], value[i]);
    }
}

std::vector<Piece> pieces_of(const Step &step) {
    const long group = step.heads / step.kv_heads, heads = std::min<long>(group, TILE_ROWS), together = TILE_ROWS / heads;
    std::vector<Piece> pieces;
    // The longest first, so that no thread is left alone with it.
    for (long sequence = step.sequences - 1; sequence >= 0; --sequence) {
        const long queries = step.starts[sequence + 1] - step.starts[sequence];
        for (long token = (queries - 1) / together * together; token >= 0; token -= together)
            for (long kv_head = 0; kv_head < step.kv_heads; ++kv_head)
                for (long head = 0; head < group; head += heads)
                    pieces.push_back({sequence, kv_head, token, std::min(together, queries - token),
                                      kv_head * group + head, std::min(heads, group - head)});
    }
    return pieces;
}

template <typename Number>
void write_all(const Step &step) {
    const long together = std::max<long>(1, 4096 / (step.kv_heads * step.head_dim));
    team().share((step.tokens + together - 1) / together, [&](long piece) {
        for (long t = piece * together; t < std::min(step.tokens, (piece + 1) * together); ++t) write<Number>(step, t);
    });
}

template <typename Number>
void attend_all(const Step &step) {
    const std::vector<Piece> pieces = pieces_of(step);
    team().share(static_cast<long>(pieces.size()), [&](long number) {
        const Piece &piece = pieces[number];
        with_rows(static_cast<int>(piece.tokens * piece.heads),
                  [&]<int ROWS>() { Attend<Number>(step, piece).template rows<ROWS>(); });
    });
}

template <typename Number>
void run(const Step &step) {
    if (step.keys) write_all<Number>(step);
    if (step.queries) attend_all<Number>(step);
}

}  // namespace

extern "C" {

// Features of a head, and the padded tokens of a block, must be multiples of this.
long textgen_lanes() { return LANES; }

void textgen_attention(const TextgenAttention *call) {
    call->pool_bytes == 2 ? run<uint16_t>(*call) : run<float>(*call);
}
}
