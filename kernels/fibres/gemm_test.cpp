// Proves a GEMM kernel's numerics on the host against a product in double. Compiled once a variant, by gemm_test.py:
// -DKERNEL="…cu", -DKIND_wgmma, _wgmma_block, _tcgen05, _mma, _gemv or _tile, and the macros the kernel knows.
#include "tensor.h"
#include KERNEL
#ifndef RP_OUT
#define RP_OUT RP_DTYPE
#endif
#ifndef RP_DTYPE_B
#define RP_DTYPE_B RP_DTYPE
#endif

#if RP_SPLIT
// The kernel leaves parts in f32, and RP_C is what they are added up to.
#undef RP_OUT
#define RP_OUT RP_C
#include "../gemm/combine.cu"
#endif

using fibres::Type;
static const Type kIn = Type::RP_DTYPE, kInB = Type::RP_DTYPE_B, kOut = Type::RP_OUT;

// Products with a B each, one behind the other: the first, the third and the last of them have no row.
#ifdef RP_GROUPED
static const int kGroups = 6;
static std::vector<int> offsets(int m) { return {0, 0, (m + 2) / 3, (m + 2) / 3, m - m / 4, m, m}; }
#else
// A batch: products of as many rows each.
#ifndef RP_BATCH
#define RP_BATCH 1
#endif
static const int kGroups = RP_BATCH;
static std::vector<int> offsets(int m) {
    std::vector<int> of;
    for (int group = 0; group <= kGroups; ++group) of.push_back(m / kGroups * group);
    return of;
}
#endif

static std::mt19937 random_bits(7);
// Operands of about unit size; random low bits, so that a product of two rows identifies them.
static std::vector<unsigned char> operand(Type type, size_t rows, size_t k) {
    int size = fibres::bytes_of(kIn);
    std::vector<unsigned char> v(rows * k * size);
    std::normal_distribution<float> normal;
    std::map<float, unsigned char> bytes;    // of numbers up to 16
    for (int b = 0; b < 256 && size == 1; ++b) { unsigned char c = b; float w = fibres::widen(type, &c); if (std::fabs(w) < 16) bytes.emplace(w, c); }
    for (size_t i = 0; i < rows * k; ++i) {
        float x = normal(random_bits);
        if (size == 2) { uint16_t h = fibres::narrow16(type, x); memcpy(&v[i * 2], &h, 2); }
        else if (size == 4) memcpy(&v[i * 4], &x, 4);
        else {
            // The nearest byte, by search: no rounding of our own to get wrong.
            auto above = bytes.lower_bound(x), below = std::prev(above);
            v[i] = above->first - x < x - below->first ? above->second : below->second;
        }
    }
    return v;
}

#if defined(KIND_wgmma_block) || RP_SCALES
static const double kLargest = 4;    // two scales' product
#else
static const double kLargest = 1;
#endif
static std::vector<float> scales(size_t n) {
    std::vector<float> v(n);
    std::uniform_real_distribution<float> between(0.25f, 2.0f);
    for (float& x : v) x = between(random_bits);
    return v;
}

static bool check(int m, int n, int k, float alpha, int grid_limit, int splits = 1) {
#ifdef RP_BATCH
    const int rows = kGroups * m;
#else
    const int rows = m;    // of all groups
#endif
    int s = fibres::bytes_of(kIn), so = fibres::bytes_of(kOut);
    const size_t redzone = 4096;
    auto a = operand(kIn, rows, k), b = operand(kInB, (size_t)kGroups * n, k);
    auto of = offsets(rows);
    // The scales of element x of a row of A and of a row of B, both counted through all products.
#if defined(KIND_wgmma_block)
    int blocks = (k + 127) / 128, lines = (n + 127) / 128;
    auto scale_a = scales((size_t)rows * blocks), scale_b = scales((size_t)kGroups * lines * blocks);
    auto of_a = [&](int i, int x) { return scale_a[((size_t)i / m * blocks + x / 128) * m + i % m]; };
    auto of_b = [&](int j, int x) { return scale_b[((size_t)j / n * lines + j % n / 128) * blocks + x / 128]; };
#elif RP_SCALES
    auto scale_a = scales(rows), scale_b = scales((size_t)kGroups * n);
    auto of_a = [&](int i, int) { return scale_a[i]; };
    auto of_b = [&](int j, int) { return scale_b[j]; };
#else
    auto of_a = [&](int, int) { return alpha; };
    auto of_b = [&](int, int) { return 1.0f; };
#endif
    std::vector<unsigned char> c((size_t)rows * n * so + redzone, 0xff);
#if RP_SPLIT
    // NaN wherever no part is written.
    std::vector<unsigned char> parts((size_t)splits * m * n * 4 + redzone, 0xff);
    fibres::out_type = Type::f32;
#endif
#if defined(KIND_wgmma) || defined(KIND_wgmma_block)
    auto map_a = fibres::encode<rp_wgmma::TensorMap>(a.data(), k, m, 128 / s, 128, s, kGroups);
    auto map_b = fibres::encode<rp_wgmma::TensorMap>(b.data(), k, n, 128 / s, RP_BN / RP_CLUSTER, s, kGroups);
    auto map_c = fibres::encode<rp_wgmma::TensorMap>(c.data(), n, m, 128 / so, 64, so, kGroups);
    int tiles = (m + 128 * RP_CLUSTER - 1) / (128 * RP_CLUSTER) * ((n + RP_BN - 1) / RP_BN) * RP_CLUSTER;
#if RP_SPLIT
    fibres::launch(std::min(tiles * splits, grid_limit), RP_CLUSTER, 384, [&] { rp_gemm_wgmma(map_a, map_b, (float*)parts.data(), m, n, k, splits); });
#elif defined(KIND_wgmma_block)
    fibres::launch(std::min(tiles * kGroups, grid_limit), RP_CLUSTER, 384, [&] { rp_gemm_wgmma_block(map_a, map_b, map_c, scale_a.data(), scale_b.data(), m, n, k, kGroups); });
#elif RP_SCALES
    fibres::launch(std::min(tiles * kGroups, grid_limit), RP_CLUSTER, 384, [&] { rp_gemm_wgmma(map_a, map_b, map_c, scale_a.data(), scale_b.data(), m, n, k, kGroups); });
#else
    fibres::launch(std::min(tiles * kGroups, grid_limit), RP_CLUSTER, 384, [&] { rp_gemm_wgmma(map_a, map_b, map_c, m, n, k, kGroups, alpha); });
#endif
#elif defined(KIND_tcgen05)
    (void)grid_limit;
    auto map_a = fibres::encode<rp_tcgen05::TensorMap>(a.data(), k, m, 128 / s, 128, s);
    auto map_b = fibres::encode<rp_tcgen05::TensorMap>(b.data(), k, n, 128 / s, RP_BN, s);
    fibres::launch((m + 127) / 128 * ((n + RP_BN - 1) / RP_BN), 1, 192, [&] { rp_gemm_tcgen05(map_a, map_b, c.data(), m, n, k, alpha); });
#elif defined(KIND_mma)
    (void)grid_limit;
    fibres::readable = {{a.data(), a.size()}, {b.data(), b.size()}};
    int tiles = (m + 127) / 128 * ((n + RP_BN - 1) / RP_BN);
#if RP_SPLIT
    fibres::launch(tiles * splits, 1, RP_BN, [&] { rp_gemm_mma(a.data(), b.data(), parts.data(), m, n, k, 1.0f, splits); });
#else
    fibres::launch(tiles * kGroups, 1, RP_BN, [&] { rp_gemm_mma(a.data(), b.data(), c.data(), m, n, k, alpha); });
#endif
#elif defined(KIND_gemv)
    (void)grid_limit;
    fibres::launch((n + 2 * RP_ROWS - 1) / (2 * RP_ROWS), 1, 64, [&] { rp_gemv(a.data(), b.data(), c.data(), n, k); });
#elif defined(RP_GROUPED)
    (void)grid_limit;
    fibres::launch((m / 128 + kGroups) * ((n + 127) / 128), 1, 256, [&] { rp_gemm_grouped(a.data(), b.data(), c.data(), of.data(), kGroups, n, k, alpha); });
#else
    (void)grid_limit;
    fibres::launch((m + 127) / 128 * ((n + 127) / 128), 1, 256, [&] { rp_gemm_tile(a.data(), b.data(), c.data(), m, n, k, alpha); });
#endif
    double worst = 0, error = 0, norm = 0; size_t unwritten = 0, beyond = 0;
#if RP_SPLIT
    for (size_t i = parts.size() - redzone; i < parts.size(); ++i) beyond += parts[i] != 0xff;
    rp_u64 elements = (rp_u64)m * n;
    fibres::launch((unsigned)((elements + 1023) / 1024), 1, 256, [&] { rp_gemm_combine((const rp_combined::sum*)parts.data(), (rp_combined::type*)c.data(), elements, splits, alpha); });
#endif
    auto scaled = [&](const std::vector<unsigned char>& from, Type type, auto scale) {
        std::vector<double> v(from.size() / s);
        for (size_t i = 0; i < v.size(); ++i) v[i] = (double)scale(i / k, i % k) * fibres::widen(type, &from[i * s]);
        return v;
    };
    const std::vector<double> wide_a = scaled(a, kIn, of_a), wide_b = scaled(b, kInB, of_b);
    for (int i = 0; i < rows; ++i)
        for (int j = 0; j < n; ++j) {
            double r = 0;
            size_t group = 0;
            while (i >= of[group + 1]) ++group;
            for (int x = 0; x < k; ++x) r += wide_a[(size_t)i * k + x] * wide_b[(group * n + j) * k + x];
            double v = fibres::widen(kOut, &c[((size_t)i * n + j) * so]), e = std::fabs(v - r);
            if (!(e < 1e30)) { ++unwritten; continue; }
            worst = std::max(worst, e); error += e * e; norm += r * r;
        }
    for (size_t i = c.size() - redzone; i < c.size(); ++i) beyond += c[i] != 0xff;
    double relative = std::sqrt(error / norm), limit = kOut == Type::bf16 ? 2.5e-3 : kOut == Type::f16 ? 4e-4 : 2e-6;
    double top = 8 * limit * kLargest * std::fabs(alpha) * std::sqrt((double)k);
    bool ok = relative < limit && worst < std::max(top, 1e-5) && !unwritten && !beyond;
    printf("%s %d×%d×%d alpha %g: relative error %.1e (limit %.1e), worst %.1e, %zu not numbers, %zu bytes beyond\n", ok ? "ok " : "BAD", m, n, k, alpha, relative, limit, worst, unwritten, beyond);
    if (!ok) fibres::failed();
    return ok;
}

int main() {
    fibres::operand_type = kIn; fibres::operand_type_b = kInB; fibres::out_type = kOut;
#if defined(KIND_tile) || defined(KIND_gemv)
    constexpr int columns = 128;
    int unit = 1, wide = 1;    // no alignment asked
#else
    constexpr int columns = RP_BN;
    int unit = 16 / fibres::bytes_of(kIn), wide = 16 / fibres::bytes_of(kOut);
#endif
    bool ok = true;
#if defined(KIND_gemv)
    ok &= check(RP_M, 6 * RP_ROWS, 640, 1.0f, 0);      // whole warps of rows, several rounds along K, the last not full
    ok &= check(RP_M, RP_ROWS + 1, 8, 1.0f, 0);         // a row of B alone in its warp; one load of one lane
    ok &= check(RP_M, 3, 77, 1.0f, 0);                  // rows that no 16-byte load may read
    return !ok;
#endif
#if RP_SPLIT
    ok &= check(16, columns + 2 * wide, 7 * 8 * unit + unit, 0.5f, 3, 3);    // parts of unlike length, several a block
    ok &= check(136, columns, 2 * 8 * unit, 1.0f, 64, 2);                   // one stage a part
    return !ok;
#endif
#if defined(RP_BATCH) && RP_BATCH > 1
    ok &= check(136, columns + 2 * wide, 2 * 8 * unit + unit, 0.5f, 4);    // tails everywhere, which end at the next product
    return !ok;
#endif
    ok &= check(8, wide, unit, 1.0f, 4);                                  // far less than one tile
    ok &= check(264, 2 * columns - 6 * wide, 5 * 8 * unit + unit, 0.5f, 4);    // tails everywhere, several stages, several tiles a block
    ok &= check(640, columns + wide, 3 * 8 * unit, -1.5f, 4);               // a cluster whose last block lies outside
    return !ok;
}
