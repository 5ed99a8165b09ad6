// Proves the attention kernels' numerics on the host against a naive softmax in double. Usage: attention_test [flash|decode|portable]
#include "cuda.h"
#include "flash_sm90.cu"
#include "flash_sm80.cu"
#include "decode_splitkv.cu"
#include "mla_decode_sm90.cu"
#define RP_TYPE 2
#define RP_D 64
#define RP_NAME rp_flash_portable
#include "flash_portable.cu"
#include <string>

static u32 state = 1;
static float normal() { auto next = [] { state = state * 1664525u + 1013904223u; return (state >> 8) / 16777216.f; }; float s = 0; for (int i = 0; i < 12; i++) s += next(); return s - 6; }
static std::vector<u16> random_tensor(size_t n, float scale, bool f16) { std::vector<u16> v(n + 128, 0x7FC0); for (size_t i = 0; i < n; i++) v[i] = f16 ? fibres::float_to_half(scale * normal()) : fibres::float_to_bf16(scale * normal()); return v; }
struct Shape { int b, hq, hkv, sq, sk; float scale; };
static int failures = 0;

static void check(const char* name, const Shape& s, int d, bool causal, bool f16, const std::vector<u16>& q, const std::vector<u16>& k, const std::vector<u16>& v, const std::vector<u16>& o, const int* lengths = nullptr) {
    auto w = [&](u16 h) { return (double)(f16 ? fibres::half_to_float(h) : fibres::bf16_to_float(h)); };
    double worst = 0, num = 0, den = 0;
    for (int bh = 0; bh < s.b * s.hq; bh++) for (int i = 0; i < s.sq; i++) {
        int length = lengths ? lengths[bh / s.hq] : s.sk, sees = causal ? std::min(length, i + length - s.sq + 1) : length, kv = bh / (s.hq / s.hkv);
        std::vector<double> p(std::max(sees, 0)), out(d, 0.0); double top = -1e300, sum = 0;
        for (int j = 0; j < sees; j++) { double x = 0; for (int c = 0; c < d; c++) x += w(q[((size_t)bh * s.sq + i) * d + c]) * w(k[((size_t)kv * s.sk + j) * d + c]); p[j] = x / std::sqrt((double)d); top = std::max(top, p[j]); }
        for (int j = 0; j < sees; j++) { p[j] = std::exp(p[j] - top); sum += p[j]; for (int c = 0; c < d; c++) out[c] += p[j] * w(v[((size_t)kv * s.sk + j) * d + c]); }
        for (int c = 0; c < d; c++) { double y = sees > 0 ? out[c] / sum : 0, e = std::fabs(w(o[((size_t)bh * s.sq + i) * d + c]) - y); if (!(e < 1e300)) e = 1e6; worst = std::max(worst, e); num += e * e; den += y * y; }
    }
    bool intact = true; for (int i = 0; i < 128; i++) intact &= o[o.size() - 128 + i] == 0xFFFF;
    double l2 = std::sqrt(num / std::max(den, 1e-30)); bool ok = l2 < (f16 ? 1e-3 : 8e-3) && worst < 0.06 && intact; failures += !ok;
    printf("%s %-24s b%d hq%d hkv%d sq%d sk%d d%d %s max %.1e l2 %.1e%s\n", ok ? "ok " : "BAD", name, s.b, s.hq, s.hkv, s.sq, s.sk, d, causal ? "causal" : "full", worst, l2, intact ? "" : " wrote past the end");
}

static TensorMap tensor_map(const std::vector<u16>& t, int d, int seq, int heads, int rows) {
    HostMap m{(const unsigned char*)t.data(), {64, (u64)seq, (u64)d / 64, (u64)heads}, {(u64)d * 2, 128, (u64)seq * d * 2}, {64, (u32)rows, (u32)d / 64, 1}};
    TensorMap r; memcpy(&r, &m, sizeof m); return r;
}
typedef void (*Flash)(const TensorMap, const TensorMap, const TensorMap, u16*, u32*, int, int, int, int, float);
static void flash(const char* name, Flash kernel, int d, int n, bool causal, bool f16, const Shape& s, int grid) {
    auto q = random_tensor((size_t)s.b * s.hq * s.sq * d, s.scale, f16), k = random_tensor((size_t)s.b * s.hkv * s.sk * d, 1, f16), v = random_tensor((size_t)s.b * s.hkv * s.sk * d, 1, f16);
    std::vector<u16> o(q.size(), 0xFFFF); u32 counter[2] = {0, 0}; float scale = 1 / std::sqrt((float)d);
    auto mq = tensor_map(q, d, s.sq, s.b * s.hq, 64), mk = tensor_map(k, d, s.sk, s.b * s.hkv, n), mv = tensor_map(v, d, s.sk, s.b * s.hkv, n);
    fibres::launch(dim3(grid), dim3(384), [&] { kernel(mq, mk, mv, o.data(), counter, s.b * s.hq, s.hq / s.hkv, s.sq, s.sk, scale); });
    check(name, s, d, causal, f16, q, k, v, o);
    if (counter[0] || counter[1]) { printf("BAD the counters were left at %u, %u\n", counter[0], counter[1]); failures++; }
}
typedef void (*Flash80)(const u16*, const u16*, const u16*, u16*, int, int, int, float);
static void flash80(const char* name, Flash80 kernel, int d, bool causal, bool f16, const Shape& s) {
    auto q = random_tensor((size_t)s.b * s.hq * s.sq * d, s.scale, f16), k = random_tensor((size_t)s.b * s.hkv * s.sk * d, 1, f16), v = random_tensor((size_t)s.b * s.hkv * s.sk * d, 1, f16);
    std::vector<u16> o(q.size(), 0xFFFF);
    fibres::launch(dim3((s.sq + 127) / 128, s.b * s.hq), dim3(128), [&] { kernel(q.data(), k.data(), v.data(), o.data(), s.hq / s.hkv, s.sq, s.sk, 1 / std::sqrt((float)d)); });
    check(name, s, d, causal, f16, q, k, v, o);
}
typedef void (*Decode)(const u16*, const u16*, const u16*, u16*, float*, float2*, const int*, int, int, int, int, int, float);
typedef void (*Combine)(const float*, const float2*, u16*, int, int);
static void decode_case(const char* name, Decode run, Combine combine, int d, bool f16, const Shape& s, int splits, const int* lengths) {
    auto q = random_tensor((size_t)s.b * s.hq * s.sq * d, s.scale, f16), k = random_tensor((size_t)s.b * s.hkv * s.sk * d, 1, f16), v = random_tensor((size_t)s.b * s.hkv * s.sk * d, 1, f16);
    std::vector<u16> o(q.size(), 0xFFFF); int rows = s.hq / s.hkv * s.sq, total = s.b * s.hkv * rows; float scale = 1 / std::sqrt((float)d);
    std::vector<float> partial((size_t)total * splits * d, NAN); std::vector<float2> stats((size_t)total * splits, {NAN, NAN});
    fibres::launch(dim3(splits, (rows + 15) / 16, s.b * s.hkv), dim3(128), [&] { run(q.data(), k.data(), v.data(), o.data(), partial.data(), stats.data(), lengths, rows, s.sq, s.hkv, s.sk, splits, scale); });
    if (splits > 1) fibres::launch(dim3((total + 3) / 4), dim3(128), [&] { combine(partial.data(), stats.data(), o.data(), total, splits); });
    check(name, s, d, true, f16, q, k, v, o, lengths);
}

typedef void (*Mla)(const TensorMap, const TensorMap, const u16*, u16*, float*, float2*, const int*, int, int, int, int, int, float);
static void mla_case(const char* name, Mla run, Combine combine, bool f16, int b, int heads, int sq, int sk, int splits, const int* lengths) {
    auto w = [&](u16 h) { return (double)(f16 ? fibres::half_to_float(h) : fibres::bf16_to_float(h)); };
    int rows = sq * heads; auto q = random_tensor((size_t)b * rows * 576, 1, f16), k = random_tensor((size_t)b * sk * 576, 1, f16); std::vector<u16> o((size_t)b * rows * 512 + 128, 0xFFFF);
    std::vector<float> partial((size_t)b * rows * splits * 512, NAN); std::vector<float2> stats((size_t)b * rows * splits, {NAN, NAN}); float scale = 1 / std::sqrt(192.f);
    auto map = [&](const std::vector<u16>& t, int n) { HostMap m{(const unsigned char*)t.data(), {64, (u64)n, 9, (u64)b}, {1152, 128, 1152 * (u64)n}, {64, 64, 1, 1}}; TensorMap r; memcpy(&r, &m, sizeof m); return r; };
    auto mq = map(q, rows), mk = map(k, sk);
    fibres::launch(dim3((rows + 63) / 64, splits, b), dim3(384), [&] { run(mq, mk, q.data(), o.data(), partial.data(), stats.data(), lengths, rows, heads, sk, splits, b, scale); });
    if (splits > 1) fibres::launch(dim3((b * rows + 3) / 4), dim3(128), [&] { combine(partial.data(), stats.data(), o.data(), b * rows, splits); });
    double worst = 0, num = 0, den = 0;
    for (int x = 0; x < b; x++) for (int r = 0; r < rows; r++) {
        int length = lengths ? lengths[x] : sk, sees = std::min(length, r / heads + length - sq + 1); std::vector<double> p(std::max(sees, 0)), out(512, 0.0); double top = -1e300, sum = 0;
        for (int j = 0; j < sees; j++) { double y = 0; for (int c = 0; c < 576; c++) y += w(q[((size_t)x * rows + r) * 576 + c]) * w(k[((size_t)x * sk + j) * 576 + c]); p[j] = y * scale; top = std::max(top, p[j]); }
        for (int j = 0; j < sees; j++) { p[j] = std::exp(p[j] - top); sum += p[j]; for (int c = 0; c < 512; c++) out[c] += p[j] * w(k[((size_t)x * sk + j) * 576 + c]); }
        for (int c = 0; c < 512; c++) { double y = sees > 0 ? out[c] / sum : 0, e = std::fabs(w(o[((size_t)x * rows + r) * 512 + c]) - y); if (!(e < 1e300)) e = 1e6; worst = std::max(worst, e); num += e * e; den += y * y; }
    }
    double l2 = std::sqrt(num / std::max(den, 1e-30)); bool ok = l2 < (f16 ? 1e-3 : 8e-3); failures += !ok;
    printf("%s %-24s b%d heads %d sq%d sk%d splits %d max %.1e l2 %.1e\n", ok ? "ok " : "BAD", name, b, heads, sq, sk, splits, worst, l2);
}

int main(int argc, char** argv) {
    std::string what = argc > 1 ? argv[1] : "all"; setvbuf(stdout, nullptr, _IOLBF, 0);
    if (what == "all" || what == "flash") {
        flash("flash bf16 full", rp_flash_sm90_bf16_d128_full, 128, 176, false, false, {1, 1, 1, 128, 176, 1}, 1);
        flash("flash bf16 full", rp_flash_sm90_bf16_d128_full, 128, 176, false, false, {1, 2, 1, 130, 600, 1}, 2);
        flash("flash bf16 causal", rp_flash_sm90_bf16_d128_causal, 128, 128, true, false, {1, 2, 1, 300, 300, 1}, 2);
        flash("flash bf16 causal", rp_flash_sm90_bf16_d128_causal, 128, 128, true, false, {1, 1, 1, 200, 77, 1}, 1);
        flash("flash bf16 causal", rp_flash_sm90_bf16_d128_causal, 128, 128, true, false, {1, 2, 1, 77, 500, 1}, 1);
        flash("flash f16 causal huge", rp_flash_sm90_f16_d64_causal, 64, 128, true, true, {2, 2, 2, 129, 257, 60}, 3);
        flash("flash f16 full", rp_flash_sm90_f16_d64_full, 64, 176, false, true, {1, 1, 1, 1, 1, 1}, 1);
    }
    if (what == "all" || what == "flash80") {
        flash80("flash sm80 bf16", rp_flash_sm80_bf16_d128_full, 128, false, false, {1, 2, 1, 130, 200, 1});
        flash80("flash sm80 bf16", rp_flash_sm80_bf16_d128_causal, 128, true, false, {1, 2, 1, 300, 300, 1});
        flash80("flash sm80 bf16", rp_flash_sm80_bf16_d128_causal, 128, true, false, {1, 1, 1, 200, 77, 1});
        flash80("flash sm80 f16 huge", rp_flash_sm80_f16_d64_causal, 64, true, true, {2, 2, 2, 77, 257, 60});
        flash80("flash sm80 f16", rp_flash_sm80_f16_d64_full, 64, false, true, {1, 1, 1, 1, 1, 1});
    }
    if (what == "all" || what == "decode") {
        const int lengths[] = {0, 1, 300};
        decode_case("decode bf16", rp_decode_bf16_d128, rp_decode_combine_bf16_d128, 128, false, {2, 8, 2, 1, 77, 1}, 1, nullptr);
        decode_case("decode bf16 split 3", rp_decode_bf16_d128, rp_decode_combine_bf16_d128, 128, false, {1, 16, 2, 3, 500, 1}, 3, nullptr);
        decode_case("decode f16 ragged", rp_decode_f16_d64, rp_decode_combine_f16_d64, 64, true, {3, 6, 2, 4, 300, 1}, 5, lengths);
        decode_case("decode bf16 d256", rp_decode_bf16_d256, rp_decode_combine_bf16_d256, 256, false, {1, 4, 4, 2, 200, 1}, 2, nullptr);
    }
    if (what == "all" || what == "mla") {
        const int lengths[] = {0, 1, 300};
        mla_case("mla bf16", rp_mla_decode_sm90_bf16, rp_decode_combine_bf16_d512, false, 1, 64, 1, 128, 1, nullptr);
        mla_case("mla bf16", rp_mla_decode_sm90_bf16, rp_decode_combine_bf16_d512, false, 1, 16, 2, 500, 1, nullptr);
        mla_case("mla bf16 split 3", rp_mla_decode_sm90_bf16, rp_decode_combine_bf16_d512, false, 1, 100, 1, 700, 3, nullptr);
        mla_case("mla f16 ragged", rp_mla_decode_sm90_f16, rp_decode_combine_f16_d512, true, 3, 16, 3, 300, 2, lengths);
    }
    if (what == "all" || what == "portable")
        for (int causal = 0; causal < 2; causal++) for (Shape s : {Shape{1, 2, 1, 70, 70, 1}, Shape{1, 2, 2, 5, 100, 1}, Shape{1, 1, 1, 100, 5, 1}}) {
            int d = 64; auto q = random_tensor((size_t)s.b * s.hq * s.sq * d, 1, false), k = random_tensor((size_t)s.b * s.hkv * s.sk * d, 1, false), v = random_tensor((size_t)s.b * s.hkv * s.sk * d, 1, false); std::vector<u16> o(q.size(), 0xFFFF);
            fibres::launch(dim3((s.sq + 31) / 32, s.b * s.hq), dim3(256), [&] { rp_flash_portable(q.data(), k.data(), v.data(), o.data(), nullptr, nullptr, s.hq, s.hq / s.hkv, s.sq, s.sk, causal, 0, 0.125f); });
            check("portable bf16", s, d, causal, false, q, k, v, o);
        }
    printf("%d failures\n", failures); return failures != 0;
}
