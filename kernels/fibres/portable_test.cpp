// Proves the portable attention kernel, in all that it can be asked for, on the host against a softmax in double.
#include "cuda.h"
#define RP_NAME portable_bf16
#define RP_D 64
#define RP_TYPE 2
#include "flash_portable.cu"
#undef RP_NAME
#undef RP_KV
#define RP_NAME portable_bf16_e4m3
#define RP_KV 3
#include "flash_portable.cu"
#undef RP_NAME
#undef RP_KV
#undef RP_TYPE
#undef RP_D
#undef RP_DV
#define RP_NAME portable_f32
#define RP_TYPE 0
#define RP_D 24
#define RP_DV 20
#include "flash_portable.cu"
#undef RP_NAME
#undef RP_KV
#undef RP_TYPE
#undef RP_D
#undef RP_DV
#undef RP_TILE
#define RP_NAME portable_fnuz
#define RP_TYPE 4
#define RP_D 96
#include "flash_portable.cu"
#undef RP_NAME
#undef RP_KV
#undef RP_TYPE
#undef RP_D
#undef RP_DV
#undef RP_TILE
#define RP_NAME portable_wide
#define RP_TYPE 2
#define RP_D 136
#define RP_DV 132
#include "flash_portable.cu"
#undef RP_NAME
#undef RP_KV
#undef RP_TYPE
#undef RP_D
#undef RP_DV
#undef RP_TILE
#undef RP_SHARED_KV
#define RP_NAME portable_latent
#define RP_TYPE 1
#define RP_D 576
#define RP_DV 512
#define RP_SHARED_KV 1
#include "flash_portable.cu"
#include <string>

struct Shape { int b, hq, hkv, sq, sk, d, dv; bool causal; int window, page; bool sinks, ragged, shared; };
static u32 state = 1;
static float uniform() { state = state * 1664525u + 1013904223u; return (state >> 8) / 16777216.f; }
static float normal() { float s = -6; for (int i = 0; i < 12; i++) s += uniform(); return s; }

// FP8 by the definition of the format, not by the kernel's way.
static float e4m3(int x, int bias) {
    int e = x >> 3 & 15, m = x & 7; float f = std::ldexp(e ? 8.f + m : m, (e ? e : 1) - bias - 3);
    return (bias == 7 ? (x & 127) == 127 : x == 128) ? NAN : x & 128 ? -f : f;
}
// Element i of a buffer of a type, read, and made.
static double get(int type, const void* p, size_t i) {
    if (type == 0) return ((const float*)p)[i];
    if (type == 1) return fibres::half_to_float(((const u16*)p)[i]);
    if (type == 2) return fibres::bf16_to_float(((const u16*)p)[i]);
    return e4m3(((const unsigned char*)p)[i], type == 3 ? 7 : 8);
}
static int size_of(int type) { return type == 0 ? 4 : type < 3 ? 2 : 1; }
static std::vector<unsigned char> tensor(int type, size_t n, float gain) {
    std::vector<unsigned char> v(n * size_of(type) + 256, 0xFF);
    for (size_t i = 0; i < n; i++) {
        float x = gain * normal();
        if (type == 0) memcpy(&v[4 * i], &x, 4);
        else if (type < 3) { u16 h = type == 1 ? fibres::float_to_half(x) : fibres::float_to_bf16(x); memcpy(&v[2 * i], &h, 2); }
        else { int best = 0; for (int c = 1; c < 256; c++) if (std::fabs(e4m3(c, type == 3 ? 7 : 8) - x) < std::fabs(e4m3(best, type == 3 ? 7 : 8) - x)) best = c; v[i] = best; }
    }
    return v;
}

static int failures = 0;
template <class Q, class K, class O>
static void prove(const char* what, void (*kernel)(const Q*, const K*, const K*, O*, const int*, const float*, const int*, const float*, int, int, int, int, int, int, int, float),
                  int type, int kv, const Shape& s, int tile, float gain = 1) {
    const int width = s.page ? (s.sk + s.page - 1) / s.page : 0, pool = s.b * width + 3, output = type >= 3 ? 2 : type;
    const size_t rows = s.page ? (size_t)pool * s.hkv * s.page : (size_t)s.b * s.hkv * s.sk, queries = (size_t)s.b * s.hq * s.sq;
    auto q = tensor(type, queries * s.d, gain), k = tensor(kv, rows * s.d, gain), v = s.shared ? k : tensor(kv, rows * s.dv, 1);
    std::vector<unsigned char> o(queries * s.dv * size_of(output) + 256, 0xFF);
    std::vector<int> lengths, table; std::vector<float> sinks; const float scales[3] = {0.5f, 1.5f, s.shared ? 1.5f : 1.25f};
    for (int b = 0; b < s.b; b++) lengths.push_back(b == 0 ? s.sk : b == 1 ? 0 : b == 2 ? 1 : s.sk / 2);
    for (int h = 0; h < s.hq; h++) sinks.push_back(2 * normal());
    auto length = [&](int b) { return s.ragged ? lengths[b] : s.sk; };
    for (int i = 0; i < s.b * width; i++) table.push_back((i * 5 + 2) % pool);
    for (int i = 0; s.page && i < pool; i++) {  // pages without a key of anyone are poisoned, and what names them is not to be read
        bool used = false; for (int n = 0; n < s.b * width; n++) used |= table[n] == i && n % width * s.page < length(n / width);
        if (used) continue;
        int nan = kv == 4 ? 0x80 : 0xFF;
        memset(&k[(size_t)i * s.hkv * s.page * s.d * size_of(kv)], nan, (size_t)s.hkv * s.page * s.d * size_of(kv));
        memset(&v[(size_t)i * s.hkv * s.page * s.dv * size_of(kv)], nan, s.shared ? 0 : (size_t)s.hkv * s.page * s.dv * size_of(kv));
    }
    for (int n = 0; n < s.b * width; n++) if (n % width * s.page >= length(n / width)) table[n] = 1 << 30;
    const bool fp8 = type >= 3 || kv >= 3; const float sq = type >= 3 ? scales[0] : 1, used[3] = {sq, scales[1], scales[2]}; const double root = 1 / std::sqrt((double)s.d);
    fibres::launch(dim3((s.sq + tile - 1) / tile, s.b * s.hq), dim3(256), [&] {
        kernel((const Q*)q.data(), (const K*)k.data(), (const K*)(s.shared ? k : v).data(), (O*)o.data(), s.ragged ? lengths.data() : nullptr, s.sinks ? sinks.data() : nullptr,
               s.page ? table.data() : nullptr, fp8 ? used : nullptr, s.hq, s.hq / s.hkv, s.sq, s.sk, s.causal, s.window, s.page, (float)root); });
    double num = 0, den = 0; bool zeros = true;
    for (size_t r = 0; r < queries; r++) {
        const int b = r / (s.hq * s.sq), h = r / s.sq % s.hq, i = r % s.sq, kvh = h / (s.hq / s.hkv), L = length(b);
        std::vector<double> w, y(s.dv, 0.0); std::vector<size_t> at; double top = s.sinks ? sinks[h] : -1e300, sum = 0;
        for (int j = 0; j < L; j++) {
            if (s.causal && (j > i + L - s.sq || (s.window && j <= i + L - s.sq - s.window))) continue;
            size_t row = s.page ? ((size_t)table[b * width + j / s.page] * s.hkv + kvh) * s.page + j % s.page : ((size_t)b * s.hkv + kvh) * s.sk + j;
            double x = 0; for (int c = 0; c < s.d; c++) x += get(type, q.data(), r * s.d + c) * get(kv, k.data(), row * s.d + c);
            x *= root * (fp8 ? used[0] * used[1] : 1); w.push_back(x); at.push_back(row); top = std::max(top, x);
        }
        for (size_t j = 0; j < w.size(); j++) { w[j] = std::exp(w[j] - top); sum += w[j]; for (int c = 0; c < s.dv; c++) y[c] += w[j] * get(kv, s.shared ? k.data() : v.data(), at[j] * (s.shared ? s.d : s.dv) + c) * (fp8 ? used[s.shared ? 1 : 2] : 1); }
        if (s.sinks) sum += std::exp(sinks[h] - top);
        for (int c = 0; c < s.dv; c++) {
            double got = get(output, o.data(), r * s.dv + c), want = w.empty() ? 0 : y[c] / sum, e = std::fabs(got - want);
            if (!(e < 1e300)) e = 1e6;
            num += e * e; den += want * want; zeros &= !w.empty() || got == 0;
        }
    }
    bool intact = true; for (int i = 0; i < 256; i++) intact &= o[o.size() - 256 + i] == 0xFF;
    const double l2 = std::sqrt(num / std::max(den, 1e-30)); const bool ok = l2 < (output == 0 ? 2e-5 * gain * gain : output == 1 ? 1e-3 : 4e-3) && intact && zeros; failures += !ok;
    printf("%s %-18s b%d hq%d hkv%d sq%d sk%d d%d/%d%s w%d page%d%s%s l2 %.1e%s%s\n", ok ? "ok " : "BAD", what, s.b, s.hq, s.hkv, s.sq, s.sk, s.d, s.dv, s.causal ? " causal" : "", s.window, s.page,
           s.sinks ? " sinks" : "", s.ragged ? " ragged" : "", l2, intact ? "" : " wrote past the end", zeros ? "" : " a row without keys is not zero");
    if (!ok) fibres::failed();
}

int main() {
    //                b hq hkv sq  sk  d   dv  causal w page sinks ragged shared
    for (Shape s : {Shape{1, 2, 1, 70, 70, 64, 64, false}, Shape{1, 2, 1, 70, 70, 64, 64, true}, Shape{1, 2, 2, 5, 100, 64, 64, true}, Shape{1, 1, 1, 100, 5, 64, 64, true},
                    Shape{1, 2, 1, 70, 100, 64, 64, true, 33}, Shape{1, 1, 1, 40, 40, 64, 64, true, 1}, Shape{4, 2, 1, 40, 70, 64, 64, true, 0, 0, true, true},
                    Shape{4, 2, 2, 1, 70, 64, 64, false, 0, 16, true, true}, Shape{2, 2, 1, 33, 70, 64, 64, true, 20, 1}})
        prove("bf16", portable_bf16, 2, 2, s, 32);
    for (Shape s : {Shape{1, 2, 1, 3, 70, 64, 64, true}, Shape{4, 4, 2, 1, 100, 64, 64, false, 0, 64, true, true}}) prove("bf16, KV e4m3", portable_bf16_e4m3, 2, 3, s, 32);
    for (Shape s : {Shape{3, 2, 1, 35, 50, 24, 20, true, 7, 16, true, true}, Shape{1, 1, 1, 1, 1, 24, 20}}) prove("f32", portable_f32, 0, 0, s, 32);
    prove("f32 huge logits", portable_f32, 0, 0, Shape{1, 2, 1, 20, 50, 24, 20, true, 0, 0, true}, 32, 40);
    prove("e4m3fnuz", portable_fnuz, 4, 4, Shape{3, 2, 2, 20, 40, 96, 96, true, 0, 16, false, true}, 32);
    for (Shape s : {Shape{3, 2, 1, 20, 50, 136, 132, true, 19, 8, true, true}, Shape{1, 1, 1, 1, 1, 136, 132}}) prove("bf16, rows of 16", portable_wide, 2, 2, s, 16);
    prove("bf16 huge logits", portable_wide, 2, 2, Shape{1, 2, 1, 20, 50, 136, 132, true, 0, 0, true}, 16, 40);
    for (Shape s : {Shape{1, 1, 1, 1, 1, 576, 512, false, 0, 0, false, false, true}, Shape{1, 3, 1, 1, 40, 576, 512, false, 0, 0, false, false, true}, Shape{3, 2, 1, 2, 30, 576, 512, false, 0, 16, true, true, true}}) prove("latent f16", portable_latent, 1, 1, s, 8);
    printf("%d failures\n", failures);
    return failures != 0;
}
