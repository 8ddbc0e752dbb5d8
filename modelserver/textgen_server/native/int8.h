// Products of whole numbers of 8 bits, exact in 32 bits: lanes that sum the products of neighbouring pairs of codes.
#pragma once

#include "simd.h"

#if defined(__AVX512VNNI__) || defined(__AVXVNNI__)
// An instruction for them multiplies unsigned by signed codes: those of x are moved by 128.
typedef uint8_t Code;
constexpr int OFFSET = 128, TOGETHER = 4;
#else
// One for codes of 8 bits would saturate its sums in 16 bits; so they are widened first.
typedef int16_t Code;
constexpr int OFFSET = 0, TOGETHER = 2;
#endif

#if defined(__AVX512F__)
typedef __m512i Codes;
#else
typedef __m256i Codes;
#endif

// TOGETHER codes of the weights for each lane.
inline Codes load_codes(const int8_t *from) {
#if defined(__AVX512VNNI__)
    return _mm512_loadu_si512(from);
#elif defined(__AVX512F__)
    return _mm512_cvtepi8_epi16(_mm256_loadu_si256(reinterpret_cast<const __m256i *>(from)));
#elif defined(__AVXVNNI__)
    return _mm256_loadu_si256(reinterpret_cast<const __m256i *>(from));
#else
    return _mm256_cvtepi8_epi16(_mm_loadu_si128(reinterpret_cast<const __m128i *>(from)));
#endif
}

// sums + the products of TOGETHER codes of x with those of each lane's weights
inline Ints add_products(Ints sums, const Code *x, Codes weights) {
    int32_t together;
    __builtin_memcpy(&together, x, sizeof together);
#if defined(__AVX512VNNI__)
    return (Ints)_mm512_dpbusd_epi32((__m512i)sums, _mm512_set1_epi32(together), weights);
#elif defined(__AVX512F__)
    return sums + (Ints)_mm512_madd_epi16(_mm512_set1_epi32(together), weights);
#elif defined(__AVXVNNI__)
    return (Ints)_mm256_dpbusd_avx_epi32((__m256i)sums, _mm256_set1_epi32(together), weights);
#else
    return sums + (Ints)_mm256_madd_epi16(_mm256_set1_epi32(together), weights);
#endif
}

// The nearest whole numbers, ties to even, within -128 and 127, as codes of x.
inline void store_codes(Code *to, Vec values) {
    values = values < -128.0f ? splat(-128.0f) : values;
    values = values > 127.0f ? splat(127.0f) : values;
#if defined(__AVX512VNNI__)
    const __m512i numbers = _mm512_add_epi32(_mm512_cvtps_epi32((__m512)values), _mm512_set1_epi32(OFFSET));
    _mm_storeu_si128(reinterpret_cast<__m128i *>(to), _mm512_cvtepi32_epi8(numbers));
#elif defined(__AVX512F__)
    _mm256_storeu_si256(reinterpret_cast<__m256i *>(to), _mm512_cvtepi32_epi16(_mm512_cvtps_epi32((__m512)values)));
#else
    const Ints numbers = (Ints)_mm256_cvtps_epi32((__m256)values) + OFFSET;
    for (int i = 0; i < LANES; ++i) to[i] = static_cast<Code>(numbers[i]);
#endif
}
