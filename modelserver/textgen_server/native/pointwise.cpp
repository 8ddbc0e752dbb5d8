// What lies between the matrices: norms, activations and rotation, row by row in float32.

#include <algorithm>

#include "kernels.h"
#include "simd.h"
#include "threads.h"

namespace {

// Rows are shared by threads only where there are enough numbers to pay for waking them.
template <typename Work>
void share_rows(long rows, long width, const Work &work) {
    const long together = std::max<long>(1, 8192 / width);
    team().share((rows + together - 1) / together, [&](long piece) {
        for (long row = piece * together; row < std::min(rows, (piece + 1) * together); ++row) work(row);
    });
}

}  // namespace

extern "C" {

// sum = x + added, where there is something to add; out = sum / sqrt(mean(sum^2) + eps) * weight, for rows [rows, width]
void textgen_rms_norm(const float *x, const float *added, float *sums, const float *weight, float eps, float *out,
                      long rows, long width) {
    share_rows(rows, width, [=](long row) {
        const float *from = x + row * width;
        float *to = out + row * width;
        if (added) {
            const float *more = added + row * width;
            float *both = sums + row * width;
            long i = 0;
            for (; i + LANES <= width; i += LANES) store(both + i, load(from + i) + load(more + i));
            for (; i < width; ++i) both[i] = from[i] + more[i];
            from = both;
        }
        Vec squares = {};
        long i = 0;
        for (; i + LANES <= width; i += LANES) squares += load(from + i) * load(from + i);
        float total = sum(squares);
        for (; i < width; ++i) total += from[i] * from[i];
        const float factor = 1.0f / std::sqrt(total / width + eps);
        for (i = 0; i + LANES <= width; i += LANES) store(to + i, load(from + i) * factor * load(weight + i));
        for (; i < width; ++i) to[i] = from[i] * factor * weight[i];
    });
}

// out = silu(gate) * up, with gate and up the halves of x [rows, 2 width]; out's rows are `out_stride` apart, and it may
// be x itself.
void textgen_silu_and_multiply(const float *x, float *out, long out_stride, long rows, long width) {
    share_rows(rows, width, [=](long row) {
        const float *gate = x + row * 2 * width, *up = gate + width;
        float *to = out + row * out_stride;
        long i = 0;
        for (; i + LANES <= width; i += LANES) {
            const Vec g = load(gate + i);
            store(to + i, g / (1.0f + exp(-g)) * load(up + i));
        }
        for (; i < width; ++i) to[i] = gate[i] / (1.0f + std::exp(-gate[i])) * up[i];
    });
}

// Of each row of x [rows, width]: the place of the largest number, the first of several.
void textgen_argmax(const float *x, int64_t *places, long rows, long width) {
    share_rows(rows, width, [=](long row) {
        const float *from = x + row * width;
        Vec most = splat(-std::numeric_limits<float>::infinity());
        Ints steps = {};
        long i = 0;
        for (; i + LANES <= width; i += LANES) {
            const Vec values = load(from + i);
            const Ints more = values > most;
            most = more ? values : most;
            steps = more ? Ints{} + static_cast<int32_t>(i) : steps;
        }
        const float highest = largest(most);
        long place = width;
        for (int lane = 0; lane < LANES; ++lane)
            if (most[lane] == highest) place = std::min<long>(place, steps[lane] + lane);
        float found = highest;
        for (; i < width; ++i)
            if (from[i] > found) found = from[i], place = i;
        places[row] = place < width ? place : 0;
    });
}

// log(sum(e^x)) of each row of x [rows, width]
void textgen_log_sum_exp(const float *x, float *out, long rows, long width) {
    share_rows(rows, width, [=](long row) {
        const float *from = x + row * width;
        const long whole = width / LANES * LANES;
        Vec most = splat(-std::numeric_limits<float>::infinity());
        for (long i = 0; i < whole; i += LANES) {
            const Vec values = load(from + i);
            most = values > most ? values : most;
        }
        float highest = largest(most);
        for (long i = whole; i < width; ++i) highest = std::max(highest, from[i]);
        if (std::isinf(highest)) {
            out[row] = highest;
            return;
        }
        // In blocks: a sum of 100,000 small numbers in one float32 a lane would lose some of them.
        double total = 0;
        for (long start = 0; start < whole; start += 256 * LANES) {
            Vec sums = {};
            for (long i = start; i < std::min(whole, start + 256 * LANES); i += LANES) sums += exp(load(from + i) - highest);
            total += sum(sums);
        }
        for (long i = whole; i < width; ++i) total += std::exp(from[i] - highest);
        out[row] = highest + static_cast<float>(std::log(total));
    });
}

// In place: each pair (x[i], x[i + dim / 2]) of `heads` heads turns by its row's angle; x's rows are `x_stride` apart,
// heads `head_dim`, and cos and sin are [rows, dim].
void textgen_rotate(float *x, long x_stride, const float *cos, const float *sin, long rows, long heads, long head_dim,
                    long dim) {
    const long half = dim / 2;
    share_rows(rows, heads * dim, [=](long row) {
        const float *c = cos + row * dim, *s = sin + row * dim;
        for (long head = 0; head < heads; ++head) {
            float *first = x + row * x_stride + head * head_dim, *second = first + half;
            long i = 0;
            for (; i + LANES <= half; i += LANES) {
                const Vec a = load(first + i), b = load(second + i);
                store(first + i, a * load(c + i) - b * load(s + i));
                store(second + i, b * load(c + half + i) + a * load(s + half + i));
            }
            for (; i < half; ++i) {
                const float a = first[i], b = second[i];
                first[i] = a * c[i] - b * s[i];
                second[i] = b * c[half + i] + a * s[half + i];
            }
        }
    });
}
}
