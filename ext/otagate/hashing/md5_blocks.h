/* The block function of MD5 (RFC 1321), over one stream and over several at once, a stream in each lane of a
 * vector. Nothing here knows of lengths, padding or scheduling: that is lanes.pyx.
 *
 * One stream cannot go faster than its chain of 64 dependent steps a block, and leaves most of a core idle.
 * So lanes are filled with other streams, and two vectors are interleaved, since even a vector's chain leaves
 * room for another. The vectors are GCC's own: where the processor has narrower ones they are split.
 */
#ifndef OTAGATE_MD5_BLOCKS_H
#define OTAGATE_MD5_BLOCKS_H

#include <stddef.h>
#include <stdint.h>
#include <string.h>

#if __BYTE_ORDER__ != __ORDER_LITTLE_ENDIAN__
#error "MD5 reads its words little-endian, and so does this file"
#endif

#define MD5_LANES 16 /* room for the widest variant */

/* Written so that what does not depend on b, the newest value, can be computed ahead. */
#define MD5_F(b, c, d) ((d) ^ ((b) & ((c) ^ (d))))
#define MD5_G(b, c, d) ((~(d) & (c)) + ((d) & (b)))
#define MD5_H(b, c, d) (((c) ^ (d)) ^ (b))
#define MD5_I(b, c, d) ((c) ^ ((b) | ~(d)))

#define MD5_STEP(f, a, b, c, d, word, s, k) \
    a = a + ((word) + (k)) + f(b, c, d);    \
    a = (a << (s) | a >> (32 - (s))) + b;

#define MD5_FOUR(EACH, f, i, j, k, l, r, s, t, u, x0, x1, x2, x3) \
    EACH(f, a, b, c, d, i, r, x0) EACH(f, d, a, b, c, j, s, x1)   \
    EACH(f, c, d, a, b, k, t, x2) EACH(f, b, c, d, a, l, u, x3)

/* RFC 1321 section 3.4: word, shift and constant of each step. */
#define MD5_ROUNDS(EACH)                                                                                     \
    MD5_FOUR(EACH, MD5_F, 0, 1, 2, 3, 7, 12, 17, 22, 0xd76aa478u, 0xe8c7b756u, 0x242070dbu, 0xc1bdceeeu)     \
    MD5_FOUR(EACH, MD5_F, 4, 5, 6, 7, 7, 12, 17, 22, 0xf57c0fafu, 0x4787c62au, 0xa8304613u, 0xfd469501u)     \
    MD5_FOUR(EACH, MD5_F, 8, 9, 10, 11, 7, 12, 17, 22, 0x698098d8u, 0x8b44f7afu, 0xffff5bb1u, 0x895cd7beu)   \
    MD5_FOUR(EACH, MD5_F, 12, 13, 14, 15, 7, 12, 17, 22, 0x6b901122u, 0xfd987193u, 0xa679438eu, 0x49b40821u) \
    MD5_FOUR(EACH, MD5_G, 1, 6, 11, 0, 5, 9, 14, 20, 0xf61e2562u, 0xc040b340u, 0x265e5a51u, 0xe9b6c7aau)     \
    MD5_FOUR(EACH, MD5_G, 5, 10, 15, 4, 5, 9, 14, 20, 0xd62f105du, 0x02441453u, 0xd8a1e681u, 0xe7d3fbc8u)    \
    MD5_FOUR(EACH, MD5_G, 9, 14, 3, 8, 5, 9, 14, 20, 0x21e1cde6u, 0xc33707d6u, 0xf4d50d87u, 0x455a14edu)     \
    MD5_FOUR(EACH, MD5_G, 13, 2, 7, 12, 5, 9, 14, 20, 0xa9e3e905u, 0xfcefa3f8u, 0x676f02d9u, 0x8d2a4c8au)    \
    MD5_FOUR(EACH, MD5_H, 5, 8, 11, 14, 4, 11, 16, 23, 0xfffa3942u, 0x8771f681u, 0x6d9d6122u, 0xfde5380cu)   \
    MD5_FOUR(EACH, MD5_H, 1, 4, 7, 10, 4, 11, 16, 23, 0xa4beea44u, 0x4bdecfa9u, 0xf6bb4b60u, 0xbebfbc70u)    \
    MD5_FOUR(EACH, MD5_H, 13, 0, 3, 6, 4, 11, 16, 23, 0x289b7ec6u, 0xeaa127fau, 0xd4ef3085u, 0x04881d05u)    \
    MD5_FOUR(EACH, MD5_H, 9, 12, 15, 2, 4, 11, 16, 23, 0xd9d4d039u, 0xe6db99e5u, 0x1fa27cf8u, 0xc4ac5665u)   \
    MD5_FOUR(EACH, MD5_I, 0, 7, 14, 5, 6, 10, 15, 21, 0xf4292244u, 0x432aff97u, 0xab9423a7u, 0xfc93a039u)    \
    MD5_FOUR(EACH, MD5_I, 12, 3, 10, 1, 6, 10, 15, 21, 0x655b59c3u, 0x8f0ccc92u, 0xffeff47du, 0x85845dd1u)   \
    MD5_FOUR(EACH, MD5_I, 8, 15, 6, 13, 6, 10, 15, 21, 0x6fa87e4fu, 0xfe2ce6e0u, 0xa3014314u, 0x4e0811a1u)   \
    MD5_FOUR(EACH, MD5_I, 4, 11, 2, 9, 6, 10, 15, 21, 0xf7537e82u, 0xbd3af235u, 0x2ad7d2bbu, 0xeb86d391u)

/* -- one stream ------------------------------------------------------------------------------------------ */

#define MD5_ONE(f, p, q, r, s, i, shift, k) MD5_STEP(f, p, q, r, s, word[i], shift, k)

static void md5_blocks(uint32_t state[4], const uint8_t *data, size_t blocks)
{
    uint32_t a = state[0], b = state[1], c = state[2], d = state[3], word[16];
    for (; blocks; blocks--, data += 64) {
        const uint32_t a0 = a, b0 = b, c0 = c, d0 = d;
        memcpy(word, data, 64);
        MD5_ROUNDS(MD5_ONE)
        a += a0, b += b0, c += c0, d += d0;
    }
    state[0] = a, state[1] = b, state[2] = c, state[3] = d;
}

/* -- several ----------------------------------------------------------------------------------------------- */

/* Word i of every lane's block, i of 0 to width - 1, from `width` words of each: a transposition. */
typedef uint32_t Md5Vector4 __attribute__((vector_size(16)));
typedef uint32_t Md5Vector4Anywhere __attribute__((vector_size(16), aligned(1), may_alias));
typedef uint32_t Md5Vector8 __attribute__((vector_size(32)));
typedef uint32_t Md5Vector8Anywhere __attribute__((vector_size(32), aligned(1), may_alias));

#define MD5_TRANSPOSE4(out, data, at)                                                                   \
    do {                                                                                                \
        const Md5Vector4 low = {0, 4, 1, 5}, high = {2, 6, 3, 7}, left = {0, 1, 4, 5}, right = {2, 3, 6, 7}; \
        Md5Vector4 row[4], pair[4];                                                                     \
        for (int n = 0; n < 4; n++)                                                                     \
            row[n] = *(const Md5Vector4Anywhere *)((data)[n] + (at));                                   \
        for (int n = 0; n < 4; n += 2) {                                                                \
            pair[n] = __builtin_shuffle(row[n], row[n + 1], low);                                       \
            pair[n + 1] = __builtin_shuffle(row[n], row[n + 1], high);                                  \
        }                                                                                               \
        for (int n = 0; n < 2; n++) {                                                                   \
            (out)[2 * n] = __builtin_shuffle(pair[n], pair[n + 2], left);                               \
            (out)[2 * n + 1] = __builtin_shuffle(pair[n], pair[n + 2], right);                          \
        }                                                                                               \
    } while (0)

#define MD5_TRANSPOSE8(out, data, at)                                                                   \
    do {                                                                                                \
        const Md5Vector8 low = {0, 8, 1, 9, 4, 12, 5, 13}, high = {2, 10, 3, 11, 6, 14, 7, 15};         \
        const Md5Vector8 left = {0, 1, 8, 9, 4, 5, 12, 13}, right = {2, 3, 10, 11, 6, 7, 14, 15};       \
        const Md5Vector8 upper = {0, 1, 2, 3, 8, 9, 10, 11}, lower = {4, 5, 6, 7, 12, 13, 14, 15};      \
        Md5Vector8 row[8], pair[8], four[8];                                                            \
        for (int n = 0; n < 8; n++)                                                                     \
            row[n] = *(const Md5Vector8Anywhere *)((data)[n] + (at));                                   \
        for (int n = 0; n < 8; n += 2) {                                                                \
            pair[n] = __builtin_shuffle(row[n], row[n + 1], low);                                       \
            pair[n + 1] = __builtin_shuffle(row[n], row[n + 1], high);                                  \
        }                                                                                               \
        for (int h = 0; h < 8; h += 4)                                                                  \
            for (int n = 0; n < 2; n++) {                                                               \
                four[h + 2 * n] = __builtin_shuffle(pair[h + n], pair[h + n + 2], left);                \
                four[h + 2 * n + 1] = __builtin_shuffle(pair[h + n], pair[h + n + 2], right);           \
            }                                                                                           \
        for (int n = 0; n < 4; n++) {                                                                   \
            (out)[n] = __builtin_shuffle(four[n], four[n + 4], upper);                                  \
            (out)[n + 4] = __builtin_shuffle(four[n], four[n + 4], lower);                              \
        }                                                                                               \
    } while (0)

#define MD5_BOTH(f, p, q, r, s, i, shift, k)                              \
    MD5_STEP(f, p##_even, q##_even, r##_even, s##_even, even[i], shift, k) \
    MD5_STEP(f, p##_odd, q##_odd, r##_odd, s##_odd, odd[i], shift, k)

/* `blocks` blocks of each of 2 * width streams. state[i][lane] is word i of a lane's state. */
#define MD5_DEFINE_LANES(name, width, target)                                                           \
    target static void name(uint32_t state[4][MD5_LANES], const uint8_t *const data[], size_t blocks)   \
    {                                                                                                   \
        typedef Md5Vector##width Vector;                                                                \
        typedef Md5Vector##width##Anywhere Anywhere;                                                    \
        Vector a_even = *(Anywhere *)&state[0][0], a_odd = *(Anywhere *)&state[0][width];               \
        Vector b_even = *(Anywhere *)&state[1][0], b_odd = *(Anywhere *)&state[1][width];               \
        Vector c_even = *(Anywhere *)&state[2][0], c_odd = *(Anywhere *)&state[2][width];               \
        Vector d_even = *(Anywhere *)&state[3][0], d_odd = *(Anywhere *)&state[3][width];               \
        Vector even[16], odd[16];                                                                       \
        for (size_t block = 0; block < blocks; block++) {                                               \
            const Vector a0 = a_even, b0 = b_even, c0 = c_even, d0 = d_even;                            \
            const Vector a1 = a_odd, b1 = b_odd, c1 = c_odd, d1 = d_odd;                                \
            for (int i = 0; i < 16; i += width) {                                                       \
                MD5_TRANSPOSE##width(even + i, data, 64 * block + 4 * i);                               \
                MD5_TRANSPOSE##width(odd + i, data + width, 64 * block + 4 * i);                        \
            }                                                                                           \
            MD5_ROUNDS(MD5_BOTH)                                                                        \
            a_even += a0, b_even += b0, c_even += c0, d_even += d0;                                     \
            a_odd += a1, b_odd += b1, c_odd += c1, d_odd += d1;                                         \
        }                                                                                               \
        *(Anywhere *)&state[0][0] = a_even, *(Anywhere *)&state[0][width] = a_odd;                      \
        *(Anywhere *)&state[1][0] = b_even, *(Anywhere *)&state[1][width] = b_odd;                      \
        *(Anywhere *)&state[2][0] = c_even, *(Anywhere *)&state[2][width] = c_odd;                      \
        *(Anywhere *)&state[3][0] = d_even, *(Anywhere *)&state[3][width] = d_odd;                      \
    }

MD5_DEFINE_LANES(md5_lanes_plain, 4, )
#if defined(__x86_64__)
MD5_DEFINE_LANES(md5_lanes_avx2, 8, __attribute__((target("avx2"))))
MD5_DEFINE_LANES(md5_lanes_avx512, 8, __attribute__((target("avx2,avx512f,avx512vl"))))
#endif

/* -- which of them this processor has ----------------------------------------------------------------------- */

typedef struct {
    const char *name;
    int lanes;
    int alone; /* up to so many streams, one after the other is as fast */
    void (*run)(uint32_t state[4][MD5_LANES], const uint8_t *const data[], size_t blocks);
} Md5Variant;

/* The variant of that number, the fastest first; NULL behind the last. */
static const Md5Variant *md5_variant(int number)
{
    static const Md5Variant plain = {"plain", 8, 3, md5_lanes_plain};
#if defined(__x86_64__)
    static const Md5Variant avx2 = {"avx2", 16, 2, md5_lanes_avx2};
    static const Md5Variant avx512 = {"avx512", 16, 2, md5_lanes_avx512};
    __builtin_cpu_init();
    if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512vl") && number-- == 0)
        return &avx512;
    if (__builtin_cpu_supports("avx2") && number-- == 0)
        return &avx2;
#endif
    return number == 0 ? &plain : NULL;
}

#endif
