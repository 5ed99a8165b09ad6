// One attention on the host: random operands in the layouts that the kernels' contracts name, and a naive softmax in double.
#pragma once
#include "cuda.h"
#include <string>

namespace attention {

inline u32 state = 1;
inline float normal() { auto next = [] { state = state * 1664525u + 1013904223u; return (state >> 8) / 16777216.f; }; float s = 0; for (int i = 0; i < 12; i++) s += next(); return s - 6; }

struct Shape {
    int b, hq, hkv, sq, sk; float scale;  // `scale` multiplies Q: a sharp softmax, whose maximum moves
    int d, dv; bool f16, causal;
    int window = 0, page = 0; bool sinks = false, kv8 = false, latent = false, q8 = false;  // `latent`: one K a sequence, V its first columns
    std::vector<int> lengths = {};
};

inline float read16(bool f16, u16 h) { return f16 ? fibres::half_to_float(h) : fibres::bf16_to_float(h); }
inline u16 round16(bool f16, float x) { return f16 ? fibres::float_to_half(x) : fibres::float_to_bf16(x); }

struct Operands {
    Shape s; float scale, k_scale = 1, v_scale = 1; int pool;
    std::vector<u16> q, o;
    std::vector<unsigned char> k, v, q8;  // bytes: pages of a pool where `page` is set; q8 instead of q
    std::vector<int> table;
    std::vector<float> sinks;

    explicit Operands(const Shape& shape) : s(shape), scale(1 / std::sqrt((float)(shape.latent ? 192 : shape.d))) {
        q.resize((size_t)s.b * s.hq * s.sq * s.d);
        for (auto& x : q) x = round16(s.f16, s.scale * normal());
        if (s.q8) for (u16 x : q) q8.push_back(fibres::float_to_e4m3(read16(s.f16, x)));
        o.assign((size_t)s.b * s.hq * s.sq * s.dv + 128, 0xFFFF);
        if (s.sinks) for (int h = 0; h < s.hq; h++) sinks.push_back(normal() * 2 * s.scale);
        // Pages in shuffled order. What no key lies in holds NaN, and the table's entries behind the last key name such pages.
        int pages = s.page ? (s.sk + s.page - 1) / s.page : 0; pool = s.page ? s.b * pages * 2 + 1 : 0;
        std::vector<int> order(pool); for (int i = 0; i < pool; i++) order[i] = i;
        for (int i = pool - 1; i > 0; i--) { state = state * 1664525u + 1013904223u; std::swap(order[i], order[(state >> 8) % (i + 1)]); }
        for (int x = 0, next = 0; x < s.b; x++) for (int i = 0; i < pages; i++) { bool used = i * s.page < length(x); table.push_back(used ? order[next++] : order[pool - 1 - x]); }
        auto fill = [&](std::vector<unsigned char>& t, int d) {
            t.assign((s.page ? (size_t)pool * s.hkv * s.page : (size_t)s.b * s.hkv * s.sk) * d * size() + 128, 0xFF);
            for (int x = 0; x < s.b; x++) for (int h = 0; h < s.hkv; h++) for (int j = 0; j < length(x); j++) for (int c = 0; c < d; c++) {
                unsigned char* at = t.data() + (place(x, h, j) * d + c) * size();
                if (s.kv8) { state = state * 1664525u + 1013904223u; *at = state >> 24 & 0x80 | (state >> 10) % 0x48; }  // 0 to 2, subnormal numbers among them
                else { u16 r = round16(s.f16, normal()); memcpy(at, &r, 2); }
            }
        };
        fill(k, s.d);
        if (!s.latent) fill(v, s.dv);
    }
    float query(size_t i) const { return s.q8 ? fibres::e4m3_to_float(q8[i]) : read16(s.f16, q[i]); }
    int size() const { return s.kv8 ? 1 : 2; }
    int length(int x) const { return s.lengths.empty() ? s.sk : s.lengths[x]; }
    size_t place(int x, int h, int j) const { return s.page ? ((size_t)table[(size_t)x * ((s.sk + s.page - 1) / s.page) + j / s.page] * s.hkv + h) * s.page + j % s.page : ((size_t)x * s.hkv + h) * s.sk + j; }
    double read(const std::vector<unsigned char>& t, int d, int x, int h, int j, int c) const {
        const unsigned char* at = t.data() + (place(x, h, j) * d + c) * size(); u16 r; memcpy(&r, at, 2);
        return s.kv8 ? fibres::e4m3_to_float(*at) : read16(s.f16, r);
    }
    const int* lengths() const { return s.lengths.empty() ? nullptr : s.lengths.data(); }
};

inline int failures = 0;

inline void check(const char* name, const Operands& t) {
    const Shape& s = t.s; double worst = 0, num = 0, den = 0; bool zeros = true;
    for (int x = 0; x < s.b; x++) for (int kv = 0; kv < s.hkv; kv++) {
        const int length = t.length(x), group = s.hq / s.hkv;
        auto rows = [&](const std::vector<unsigned char>& from, int d) { std::vector<double> r; for (int j = 0; j < length; j++) for (int c = 0; c < d; c++) r.push_back(t.read(from, d, x, kv, j, c)); return r; };
        const std::vector<double> k = rows(t.k, s.d), v = s.latent ? k : rows(t.v, s.dv); const int step = s.latent ? s.d : s.dv;  // of V's rows
        for (int h = kv * group; h < (kv + 1) * group; h++) for (int i = 0; i < s.sq; i++) {
            int sees = s.causal ? std::min(length, i + length - s.sq + 1) : length, first = s.window ? std::max(0, sees - s.window) : 0;
            size_t row = ((size_t)x * s.hq + h) * s.sq + i;
            std::vector<double> q, p(std::max(sees, 0)), out(s.dv, 0.0); double top = s.sinks ? t.sinks[h] : -1e300, sum = 0;
            for (int c = 0; c < s.d; c++) q.push_back(t.query(row * s.d + c));
            for (int j = first; j < sees; j++) { double y = 0; for (int c = 0; c < s.d; c++) y += q[c] * k[(size_t)j * s.d + c]; p[j] = y * t.scale * t.k_scale; top = std::max(top, p[j]); }
            if (s.sinks) sum = std::exp(t.sinks[h] - top);
            for (int j = first; j < sees; j++) { p[j] = std::exp(p[j] - top); sum += p[j]; for (int c = 0; c < s.dv; c++) out[c] += p[j] * v[(size_t)j * step + c]; }
            const bool none = sees <= first;
            for (int c = 0; c < s.dv; c++) { double y = none ? 0 : out[c] / sum * t.v_scale, e = std::fabs(read16(s.f16, t.o[row * s.dv + c]) - y); zeros &= !none || e == 0; if (!(e < 1e300)) e = 1e6; worst = std::max(worst, e); num += e * e; den += y * y; }
        }
    }
    bool intact = true; for (int i = 0; i < 128; i++) intact &= t.o[t.o.size() - 128 + i] == 0xFFFF;
    // e4m3 rounds P by up to a sixteenth, and its V is up to 4.7.
    double l2 = std::sqrt(num / std::max(den, 1e-30)); bool ok = l2 < (s.q8 ? 3.5e-2 : s.f16 ? 1e-3 : 8e-3) && worst < (s.q8 ? 0.3 : 0.06) && intact && zeros; failures += !ok;
    printf("%s %-24s b%d hq%d hkv%d sq%d sk%d d%d/%d %s max %.1e l2 %.1e%s%s\n", ok ? "ok " : "BAD", name, s.b, s.hq, s.hkv, s.sq, s.sk, s.d, s.dv, s.causal ? "causal" : "full", worst, l2, intact ? "" : " wrote past the end", zeros ? "" : " a row without keys is not zero");
    if (!ok) fibres::failed();
}

}  // namespace attention
