// Vectors of floats, as wide as the machine that this is compiled for has them.
#pragma once

#include <immintrin.h>

#include <cmath>
#include <cstdint>
#include <limits>

#if defined(__AVX512F__)
constexpr int LANES = 16;
constexpr int TILE_ROWS = 12;  // with two vectors of columns: 24 sums of 32 registers
#else
constexpr int LANES = 8;
constexpr int TILE_ROWS = 6;  // 12 sums of 16 registers
#endif
constexpr int TILE_COLUMNS = 2 * LANES;

typedef float Vec __attribute__((vector_size(LANES * 4)));
typedef float Unaligned __attribute__((vector_size(LANES * 4), aligned(4)));
typedef int32_t Ints __attribute__((vector_size(LANES * 4)));

inline Vec load(const float *from) { return *reinterpret_cast<const Unaligned *>(from); }

// GCC makes scalar code of __builtin_convertvector for bytes.
inline Vec load(const int8_t *from) {
#if defined(__AVX512F__)
    return (Vec)_mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i *>(from))));
#else
    return (Vec)_mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(_mm_loadl_epi64(reinterpret_cast<const __m128i *>(from))));
#endif
}

// A number of bfloat16 is the upper half of one of float32.
inline Vec load(const uint16_t *from) {
#if defined(__AVX512F__)
    const __m256i halves = _mm256_loadu_si256(reinterpret_cast<const __m256i *>(from));
    return (Vec)_mm512_slli_epi32(_mm512_cvtepu16_epi32(halves), 16);
#else
    const __m128i halves = _mm_loadu_si128(reinterpret_cast<const __m128i *>(from));
    return (Vec)_mm256_slli_epi32(_mm256_cvtepu16_epi32(halves), 16);
#endif
}

struct Half {  // IEEE's float16
    uint16_t bits;
};

inline Vec load(const Half *from) {
#if defined(__AVX512F__)
    return (Vec)_mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i *>(from)));
#else
    return (Vec)_mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i *>(from)));
#endif
}

inline float to_float(Half half) { return _cvtsh_ss(half.bits); }
inline Half to_half(float value) { return {_cvtss_sh(value, _MM_FROUND_TO_NEAREST_INT)}; }

// Codes of 4 bits, as floats: the lower halves of LANES bytes, and the upper ones.
inline void load_nibbles(const uint8_t *from, Vec (&halves)[2]) {
#if defined(__AVX512F__)
    // A table of 16 numbers is looked up by the lowest 4 bits of each lane.
    const __m512 numbers = _mm512_setr_ps(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
    const __m512i bytes = _mm512_cvtepu8_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i *>(from)));
    halves[0] = (Vec)_mm512_permutexvar_ps(bytes, numbers);
    halves[1] = (Vec)_mm512_permutexvar_ps(_mm512_srli_epi32(bytes, 4), numbers);
#else
    const __m256i bytes = _mm256_cvtepu8_epi32(_mm_loadl_epi64(reinterpret_cast<const __m128i *>(from)));
    halves[0] = (Vec)_mm256_cvtepi32_ps(_mm256_and_si256(bytes, _mm256_set1_epi32(15)));
    halves[1] = (Vec)_mm256_cvtepi32_ps(_mm256_srli_epi32(bytes, 4));
#endif
}

// To the nearest, and of two the even one.
inline void round_to(uint16_t &to, float value) {
    uint32_t bits;
    __builtin_memcpy(&bits, &value, sizeof bits);
    to = value == value ? (bits + 0x7fff + (bits >> 16 & 1)) >> 16 : 0x7fc0;
}
inline void round_to(float &to, float value) { to = value; }

inline void store(float *to, Vec value) { *reinterpret_cast<Unaligned *>(to) = value; }
// `Vec{} + value` would be an addition, for it makes 0 of -0, and a shuffle; this is part of a load.
inline Vec splat(float value) {
#if defined(__AVX512F__)
    return (Vec)_mm512_set1_ps(value);
#else
    return (Vec)_mm256_set1_ps(value);
#endif
}

inline float sum(Vec value) {
    float total = 0;
    for (int i = 0; i < LANES; ++i) total += value[i];
    return total;
}

// By halves: a chain of all lanes would take five times as long.
inline float largest(Vec value) {
#if defined(__AVX512F__)
    return _mm512_reduce_max_ps((__m512)value);
#else
    __m128 most = _mm_max_ps(_mm256_castps256_ps128((__m256)value), _mm256_extractf128_ps((__m256)value, 1));
    most = _mm_max_ps(most, _mm_movehl_ps(most, most));
    return _mm_cvtss_f32(_mm_max_ss(most, _mm_movehdup_ps(most)));
#endif
}

inline bool all_lanes(Ints holds) {
    int32_t all = -1;
    for (int i = 0; i < LANES; ++i) all &= holds[i];
    return all;
}

// The nearest whole number, of two the even one, of x within 2^22 of 0.
inline Vec nearest(Vec x) {
    const Vec magic = splat(12582912.0f);  // 1.5 * 2^23: behind it a float has no fraction
    return (x + magic) - magic;
}

// e^x to two units in the last place: x = n ln 2 + r, and the Taylor series of e^r for |r| <= ln 2 / 2.
// Below the smallest normal number it is 0, also for -inf.
inline Vec exp(Vec x) {
    const Vec lowest = splat(-87.33654f), highest = splat(88.37626f);
    const Ints vanishes = x < lowest;
    x = vanishes ? lowest : x;
    x = x > highest ? highest : x;
    const Vec n = nearest(x * 1.44269504f);
    const Vec r = (x - n * 0.693359375f) - n * -2.12194440e-4f;
    Vec series = splat(1.0f / 5040);
    series = series * r + 1.0f / 720;
    series = series * r + 1.0f / 120;
    series = series * r + 1.0f / 24;
    series = series * r + 1.0f / 6;
    series = series * r + 0.5f;
    series = series * r + 1.0f;
    series = series * r + 1.0f;
    const Ints exponent = (__builtin_convertvector(n, Ints) + 127) << 23;
    return vanishes ? Vec{} : series * (Vec)exponent;
}

// sums[m] += a[m, :] b[:, 0..columns), one product after another in the order of k. Every element is summed in the same
// order whatever ROWS is, so a row's result does not depend on the rows beside it.
//
// With few rows, what lies `ahead` numbers further on is asked for, a vector for each that is used: of memory that comes
// in short pieces the processor does not see where it goes on, and whoever asks for a piece at once waits.
template <int ROWS, int VECTORS, typename Number>
inline void multiply_add(const float *a, long a_stride, const Number *b, long b_stride, long depth, long ahead,
                         Vec (&sums)[ROWS][VECTORS]) {
    for (long k = 0; k < depth; ++k, b += b_stride) {
        Vec columns[VECTORS];
#pragma GCC unroll 4
        for (int v = 0; v < VECTORS; ++v) {
            columns[v] = load(b + v * LANES);
            if constexpr (ROWS * 2 <= TILE_ROWS)
                _mm_prefetch(reinterpret_cast<const char *>(b + v * LANES + ahead), _MM_HINT_T0);
        }
#pragma GCC unroll 12
        for (int m = 0; m < ROWS; ++m) {
            const Vec x = splat(a[m * a_stride + k]);
#pragma GCC unroll 4
            for (int v = 0; v < VECTORS; ++v) sums[m][v] += x * columns[v];
        }
    }
}

// Calls body.operator()<ROWS>() for the number of rows, 1 to TILE_ROWS.
template <typename Body>
inline void with_rows(int rows, Body body) {
    switch (rows) {
    case 1: return body.template operator()<1>();
    case 2: return body.template operator()<2>();
    case 3: return body.template operator()<3>();
    case 4: return body.template operator()<4>();
    case 5: return body.template operator()<5>();
    case 6: return body.template operator()<6>();
#if defined(__AVX512F__)
    case 7: return body.template operator()<7>();
    case 8: return body.template operator()<8>();
    case 9: return body.template operator()<9>();
    case 10: return body.template operator()<10>();
    case 11: return body.template operator()<11>();
    case 12: return body.template operator()<12>();
#endif
    }
}
