// Runs our CUDA kernels on the host, so that their numerics are proven where there is no GPU.
//
// One fibre stands for each CUDA thread; a block runs on one OS thread, its fibres in turn, and a fibre gives way only where
// the kernel waits. Shared memory is poisoned with NaN before each block. What is modelled is what can be wrong: the fragments of
// mma.sync, ldmatrix and wgmma, the descriptor of wgmma with its strides and 128-byte swizzle, TMA's box, swizzle and zero fill,
// mbarrier parity, arrivals and transaction bytes, named barriers, and asynchrony: cp.async and wgmma take effect only at the wait
// that covers them, TMA's loads some time later and in no order, so that a missing wait shows. So does a product that reads, or a load
// that overwrites, what threads stored and did not fence, and a product of registers that no wgmma.fence followed. A wait that nothing can
// end is reported and aborts.
// What is not: timing, memory ordering, bank conflicts, registers.
#pragma once
#define RP_HOST_FIBRES 1
#ifndef RP_LANES
#define RP_LANES 32  // of a warp; AMD's wave has 64 on CDNA
#endif
#include "fibre.h"
#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <deque>
#include <functional>
#include <map>
#include <type_traits>
#include <vector>

struct dim3 { unsigned x, y, z; dim3(unsigned a = 1, unsigned b = 1, unsigned c = 1) : x(a), y(b), z(c) {} };
struct float2 { float x, y; };
struct uint4 { unsigned x, y, z, w; };
inline float2 make_float2(float x, float y) { return {x, y}; }
inline uint4 make_uint4(unsigned x, unsigned y, unsigned z, unsigned w) { return {x, y, z, w}; }
template <class A, class B> std::common_type_t<A, B> min(A a, B b) { using T = std::common_type_t<A, B>; return (T)a < (T)b ? (T)a : (T)b; }
template <class A, class B> std::common_type_t<A, B> max(A a, B b) { using T = std::common_type_t<A, B>; return (T)a > (T)b ? (T)a : (T)b; }

typedef unsigned short u16;
typedef unsigned int u32;
typedef unsigned long long u64;
#define RP_DEVICE static inline
#define RP_DYNAMIC_SMEM(NAME, ALIGN) unsigned char* NAME = fibres::smem
#define __global__
#define __device__
#define __host__
#define __forceinline__ inline
#define __restrict__
#define __grid_constant__
#define __launch_bounds__(...)
#define __align__(N) alignas(N)
#define __shared__ static

namespace fibres {

constexpr int MAX_THREADS = 1024, SMEM_BYTES = 228 * 1024, SMEM_ORIGIN = 1024;  // a shared address is an offset from SMEM_ORIGIN
alignas(1024) inline unsigned char smem[SMEM_BYTES];
// Four bytes that a thread (by its number + 1) stored and no fence.proxy.async of its own followed: wgmma and TMA may not see them.
inline u16 unfenced[SMEM_BYTES / 4];
inline unsigned char known[SMEM_BYTES];  // shared memory as TMA, stmatrix and store_shared left it: whoever stores past them shows

struct Fibre : Stack { unsigned thread; bool done; };
inline std::vector<Fibre> all;
inline Fibre* current;
inline std::function<void()> body;
inline dim3 grid, block, block_index;
inline dim3 thread_index() { unsigned t = current->thread; return dim3(t % block.x, t / block.x % block.y, t / (block.x * block.y)); }
inline u64 progress;  // counts whatever can end a wait
inline std::vector<std::function<void()>> in_flight;  // TMA's loads

inline void give_way() { give_way(*current); }
template <class Done> void wait_until(Done done) { give_way_until(*current, done); progress++; }
[[noreturn]] inline void fail(const char* why) { fprintf(stderr, "fibres: %s (block %u,%u,%u thread %u)\n", why, block_index.x, block_index.y, block_index.z, current ? current->thread : 0); abort(); }

// A meeting of `count` fibres: the last to come runs `work`, then all go on.
struct Meeting { unsigned arrived = 0, round = 0; };
template <class Work> void meet(Meeting& m, unsigned count, Work work) {
    unsigned round = m.round;
    if (++m.arrived == count) { work(); m.arrived = 0; m.round++; progress++; return; }
    wait_until([&] { return m.round != round; });
}

struct Warp { Meeting meeting; u64 in[RP_LANES][8]; };
struct Product { std::function<void()> run; };
struct Warpgroup { Meeting meeting; std::vector<void*> args; };
struct MBarrier { int count = 0, pending = 0; long long bytes = 0; unsigned phase = 0; };
struct Copy { void* dst; u64 data[2]; };
struct Thread { std::deque<std::vector<Copy>> copies; std::vector<Copy> open; std::vector<u32> stored; bool ordered = false; };  // stored: words to fence; ordered: by wgmma.fence
inline Warp warps[32];
inline Meeting whole, named[16];
inline std::map<u32, MBarrier> barriers;
inline Thread threads[MAX_THREADS];
struct Queue { std::deque<std::vector<std::function<void()>>> groups; std::vector<std::function<void()>> open; Meeting meeting; const void* slot[128][4]; };
inline Queue queues[8];

inline Warp& warp() { return warps[current->thread / RP_LANES]; }
inline unsigned lane() { return current->thread % RP_LANES; }
inline unsigned char* at(u32 address) { if (address < SMEM_ORIGIN || address - SMEM_ORIGIN >= SMEM_BYTES) fail("a shared address outside shared memory"); return smem + (address - SMEM_ORIGIN); }
// Leaves bytes, none past a word, in shared memory: a thread's (its number + 1), or the copy engine's (0).
inline void leave(u32 address, const void* data, u32 bytes, unsigned owner) {
    memcpy(at(address), data, bytes); memcpy(known + (address - SMEM_ORIGIN), data, bytes);
    u16& word = unfenced[(address - SMEM_ORIGIN) / 4];
    if (!owner && word) fail("a load lands on what was stored without a fence");
    if (owner) { word = (u16)owner; threads[owner - 1].stored.push_back((address - SMEM_ORIGIN) / 4); }
}
inline u32 swizzled(u32 address, u32 bytes) { return address ^ (address >> 7 & (bytes / 16 - 1)) << 4; }

inline void entry() { body(); current->done = true; progress++; give_way(); }
template <class Kernel> void launch(dim3 g, dim3 b, Kernel kernel) {
    grid = g; block = b; body = kernel; unsigned n = b.x * b.y * b.z; if (all.size() < n) all.resize(n);
    for (unsigned z = 0; z < g.z; z++) for (unsigned y = 0; y < g.y; y++) for (unsigned x = 0; x < g.x; x++) {
        block_index = dim3(x, y, z); memset(smem, 0xFF, sizeof smem); memset(known, 0xFF, sizeof known); memset(unfenced, 0, sizeof unfenced); barriers.clear();
        for (auto& w : warps) w = Warp(); whole = Meeting(); for (auto& m : named) m = Meeting(); for (auto& t : threads) t = Thread(); for (auto& q : queues) q = Queue();
        for (unsigned i = 0; i < all.size(); i++) { all[i].thread = i; all[i].done = i >= n; if (i < n) all[i].prepare(256 << 10, entry); }
        static bool late; late = !late;
        // One warpgroup in turn, and in every fourth pair of blocks none, goes on only when no other can: who does not wait for it shows.
        static unsigned blocks; const unsigned slow = blocks++ / 2 % 4;
        bool stuck = false;
        for (int idle = 0;;) {
            bool left = false; u64 before = progress;
            for (auto& f : all) if (!f.done) { left = true; if (f.thread / 128 == slow && !stuck) continue; current = &f; run(f); }
            stuck = progress == before;
            // In every other block loads land at once, which shows what is overwritten too early. In the others they land when nothing else can
            // move, every third, the newest first, and the oldest when it is alone, which shows what is not waited for.
            if (!late || progress == before) for (size_t n = in_flight.size(), i = n; i-- > 0;) if (!late || n == 1 || i % 3 == 1) { auto land = std::move(in_flight[i]); in_flight.erase(in_flight.begin() + i); land(); progress++; }
            if (!left) { if (!in_flight.empty()) fail("the block left with loads in flight"); break; }
            if (progress == before && ++idle > 2) fail("deadlock: every thread waits");
            if (progress != before) idle = 0;
        }
    }
}

// ---- numbers --------------------------------------------------------------------------------------------------------------

inline float from_bits(u32 u) { float f; memcpy(&f, &u, 4); return f; }
inline u32 to_bits(float f) { u32 u; memcpy(&u, &f, 4); return u; }
inline float bf16_to_float(u16 h) { return from_bits((u32)h << 16); }
inline u16 float_to_bf16(float f) { if (f != f) return 0x7FC0; u32 u = to_bits(f); return (u16)(u + 0x7FFF + (u >> 16 & 1) >> 16); }
inline float half_to_float(u16 h) { _Float16 x; memcpy(&x, &h, 2); return (float)x; }
inline u16 float_to_half(float f) { _Float16 x = (_Float16)f; u16 h; memcpy(&h, &x, 2); return h; }
template <bool F16> float widen(u16 h) { return F16 ? half_to_float(h) : bf16_to_float(h); }
inline float e4m3_to_float(unsigned char x) { int e = x >> 3 & 15, m = x & 7; float v = (x & 0x7f) == 0x7f ? NAN : e ? std::ldexp(8.f + m, e - 10) : std::ldexp((float)m, -9); return x & 0x80 ? -v : v; }
// To the nearest, ties to even; 448 at most.
inline unsigned char float_to_e4m3(float f) {
    if (f != f) return 0x7F;
    float a = std::fmin(std::fabs(f), 448.f); int e = a > 0 ? std::max(std::ilogb(a), -6) : -6, n = (int)std::nearbyint(std::ldexp(a, 3 - e));  // so many of 2^(e − 3)
    return (unsigned char)((std::signbit(f) ? 0x80 : 0) | (n + (e + 6) * 8));  // a carry into the exponent, and none for what is subnormal, come by themselves
}
// The types of wgmma's operands here.
struct Bf16 { static constexpr int BYTES = 2; static float widen(u32 x) { return bf16_to_float((u16)x); } };
struct F16 { static constexpr int BYTES = 2; static float widen(u32 x) { return half_to_float((u16)x); } };
struct E4m3 { static constexpr int BYTES = 1; static float widen(u32 x) { return e4m3_to_float((unsigned char)x); } };

// An element of an operand of wgmma, found as the hardware finds it from the descriptor (of 128 bytes, or K-major of 64 or none).
template <class T> float operand(u64 d, int outer, int k, bool k_major) {
    u32 layout = (u32)(d >> 62), row = layout == 1 ? 128 : 64;
    if (layout == 3 || layout != 1 && !k_major) fail("a wgmma descriptor with a swizzle that is not modelled");
    u32 start = (d & 0x3FFF) << 4, leading = (d >> 16 & 0x3FFF) << 4, stride = (d >> 32 & 0x3FFF) << 4, along = k * T::BYTES, x = 0;
    u32 address = layout == 0 ? start + outer / 8 * stride + outer % 8 * 16 + along / 16 * leading + along % 16
        : swizzled(k_major ? start + outer / 8 * stride + outer % 8 * row + along : start + outer / 64 * leading + k / 8 * stride + k % 8 * 128 + outer % 64 * 2, row);
    memcpy(&x, at(address), T::BYTES);
    if (unfenced[(address - SMEM_ORIGIN) / 4]) fail("a product reads what was stored without a fence");
    if (memcmp(&x, known + (address - SMEM_ORIGIN), T::BYTES)) fail("a product reads what was not stored by store_shared");
    return T::widen(x);
}
// One warpgroup's product: fibres leave their fragments, the last queues the work, the wait runs it. `a` null: A from shared memory.
template <int N, class T> void wgmma(float* d, const u32* a, u64 da, u64 db, bool accumulate, bool b_k_major) {
    constexpr int K = 32 / T::BYTES, WORD = 4 / T::BYTES;  // an instruction's, and a register's
    Queue& q = queues[current->thread / 128]; unsigned t = current->thread % 128;
    if (!threads[current->thread].ordered) fail("a product of registers that no wgmma.fence followed");
    static u64 descs[8][2]; q.slot[t][0] = d; q.slot[t][1] = a; descs[current->thread / 128][0] = da; descs[current->thread / 128][1] = db;
    meet(q.meeting, 128, [&] {
        std::vector<float*> out(128); std::vector<std::vector<u32>> frag(128);
        // A in registers is read at the wait too: a kernel that overwrites P too early is caught.
        std::vector<const u32*> regs(128); for (int i = 0; i < 128; i++) { out[i] = (float*)q.slot[i][0]; regs[i] = (const u32*)q.slot[i][1]; }
        q.open.push_back([=] {
            std::vector<float> A(64 * K), B(K * N);
            for (int r = 0; r < 64; r++) for (int k = 0; k < K; k++) {
                if (a) { int thread = r / 16 * 32 + r % 8 * 4 + k % (K / 2) / WORD, word = r / 8 % 2 + k / (K / 2) * 2; A[r * K + k] = T::widen(regs[thread][word] >> 8 * T::BYTES * (k % WORD)); }
                else A[r * K + k] = operand<T>(da, r, k, true);
            }
            for (int n = 0; n < N; n++) for (int k = 0; k < K; k++) B[k * N + n] = operand<T>(db, n, k, b_k_major);
            for (int r = 0; r < 64; r++) {
                auto sum = [&](int n) -> float& { return out[r / 16 * 32 + r % 8 * 4 + n % 8 / 2][n / 8 * 4 + r / 8 % 2 * 2 + n % 2]; };
                float s[N]; for (int n = 0; n < N; n++) s[n] = accumulate ? sum(n) : 0;
                for (int k = 0; k < K; k++) for (int n = 0; n < N; n++) s[n] += A[r * K + k] * B[k * N + n];
                for (int n = 0; n < N; n++) sum(n) = s[n];
            }
        });
    });
}
}  // namespace fibres

#define threadIdx (fibres::thread_index())
#define blockIdx (fibres::block_index)
#define blockDim (fibres::block)
#define gridDim (fibres::grid)

// ---- what the kernels call ------------------------------------------------------------------------------------------------

inline void __syncthreads() { unsigned alive = 0; for (auto& f : fibres::all) alive += !f.done; fibres::meet(fibres::whole, alive, [] {}); }
inline void __syncwarp(unsigned = ~0u) { fibres::meet(fibres::warp().meeting, RP_LANES, [] {}); }
template <class T> T __shfl_sync(unsigned, T v, int source) { auto& w = fibres::warp(); memcpy(w.in[fibres::lane()], &v, sizeof v); __syncwarp(); T r; memcpy(&r, w.in[source & (RP_LANES - 1)], sizeof r); __syncwarp(); return r; }
template <class T> T __shfl_xor_sync(unsigned m, T v, int mask) { return __shfl_sync(m, v, (int)fibres::lane() ^ mask); }
inline bool __any_sync(unsigned, bool x) { auto& w = fibres::warp(); w.in[fibres::lane()][0] = x; __syncwarp(); bool r = false; for (auto& i : w.in) r |= i[0] != 0; __syncwarp(); return r; }
inline u32 atomicAdd(u32* p, u32 x) { u32 o = *p; *p += x; return o; }
inline u32 atomicInc(u32* p, u32 top) { u32 o = *p; *p = o >= top ? 0 : o + 1; return o; }
inline u32 atomicExch(u32* p, u32 x) { u32 o = *p; *p = x; return o; }

inline u32 smem_address(const void* p) { return (u32)((const unsigned char*)p - fibres::smem) + fibres::SMEM_ORIGIN; }
inline float minus_infinity() { return -INFINITY; }
inline float float_of(u32 bits) { return fibres::from_bits(bits); }
inline u32 bits_of(float x) { return fibres::to_bits(x); }
inline float exp2_approx(float x) { return exp2f(x); }
template <bool F16> u32 pack(float low, float high) { using namespace fibres; return F16 ? float_to_half(low) | (u32)float_to_half(high) << 16 : float_to_bf16(low) | (u32)float_to_bf16(high) << 16; }
inline u32 pack8(float a, float b, float c, float d) { using fibres::float_to_e4m3; return float_to_e4m3(a) | float_to_e4m3(b) << 8 | float_to_e4m3(c) << 16 | (u32)float_to_e4m3(d) << 24; }
template <bool F16> u32 multiply_pairs(u32 a, u32 b) { using namespace fibres; return pack<F16>(widen<F16>((u16)a) * widen<F16>((u16)b), widen<F16>((u16)(a >> 16)) * widen<F16>((u16)(b >> 16))); }
inline u32 permute_bytes(u32 a, u32 b, u32 selector) { u32 r = 0; for (int i = 0; i < 4; i++) r |= (u32)(((u64)b << 32 | a) >> 8 * (selector >> 4 * i & 7) & 0xFF) << 8 * i; return r; }

// mbarrier: a phase ends when its arrivals and its bytes are both complete.
inline void barrier_settle(fibres::MBarrier& b) { if (b.pending == 0 && b.bytes == 0) { b.phase ^= 1; b.pending = b.count; fibres::progress++; } }
inline fibres::MBarrier& barrier_at(u32 bar) { auto i = fibres::barriers.find(bar); if (i == fibres::barriers.end()) fibres::fail("an mbarrier that was never initialised"); return i->second; }
inline void barrier_init(u32 bar, u32 count) { if (bar % 8) fibres::fail("a misaligned mbarrier"); fibres::MBarrier b; b.count = b.pending = (int)count; fibres::barriers[bar] = b; }
inline void barrier_init_fence() {}
inline void barrier_arrive(u32 bar) { auto& b = barrier_at(bar); if (b.pending-- <= 0) fibres::fail("more arrivals than an mbarrier expects"); barrier_settle(b); }
inline void barrier_expect(u32 bar, u32 bytes) { auto& b = barrier_at(bar); b.bytes += bytes; barrier_arrive(bar); }
inline void barrier_wait(u32 bar, u32 parity) { barrier_at(bar); fibres::wait_until([=] { return fibres::barriers[bar].phase != parity; }); }
inline void named_sync(int id, int count) { fibres::meet(fibres::named[id], (unsigned)count, [] {}); }
inline void named_arrive(int id, int count) { auto& m = fibres::named[id]; if (++m.arrived == (unsigned)count) { m.arrived = 0; m.round++; } fibres::progress++; }
template <int> void registers_give() {}
template <int> void registers_take() {}
inline void compute_before_wait(float, u32) {}

// A tensor map on the host says what the driver would encode: four dimensions, byte strides of the upper three, the box.
// `swizzle` bytes: 16-byte units of so many change places by the number of the 128-byte line.
struct HostMap { const unsigned char* base; u64 dims[4], strides[3]; u32 box[4], swizzle, element = 2; };
template <class Map> void load_box(u32 dst, const Map* map, u32 bar, int column, int row, int slab, int head) {
    HostMap m; static_assert(sizeof m <= sizeof *map, ""); memcpy(&m, map, sizeof m);
    if (dst % (m.swizzle * 8)) fibres::fail("a TMA tile that does not start where its swizzle begins");
    fibres::in_flight.push_back([=] {
        u32 bytes = 0;
        for (u32 c = 0; c < m.box[2]; c++) for (u32 r = 0; r < m.box[1]; r++) for (u32 e = 0; e < m.box[0]; e++, bytes += m.element) {
            u64 y = (u64)(row + (int)r), z = c + (u64)slab; u16 x = 0;
            if (e + (u64)column < m.dims[0] && y < m.dims[1] && z < m.dims[2] && (u64)head < m.dims[3]) memcpy(&x, m.base + (e + (u64)column) * m.element + y * m.strides[0] + z * m.strides[1] + head * m.strides[2], m.element);
            fibres::leave(fibres::swizzled(dst + ((c * m.box[1] + r) * m.box[0] + e) * m.element, m.swizzle), &x, m.element, 0);
        }
        auto& b = barrier_at(bar); b.bytes -= bytes; barrier_settle(b);
    });
}
template <class Map> void load_slab(u32 dst, const Map* map, u32 bar, int row, int slab, int head) { load_box(dst, map, bar, 0, row, slab, head); }
template <class Map> void load_columns(u32 dst, const Map* map, u32 bar, int column, int row, int head) { load_box(dst, map, bar, column, row, 0, head); }
template <class Map> void load_tile(u32 dst, const Map* map, u32 bar, int row, int head) { load_slab(dst, map, bar, row, 0, head); }

template <bool IS> using Half = std::conditional_t<IS, fibres::F16, fibres::Bf16>;
template <int N, bool F16> void mma_ss(float (&d)[N / 2], u64 a, u64 b, int accumulate) { fibres::wgmma<N, Half<F16>>(d, nullptr, a, b, accumulate != 0, true); }
template <int N, bool F16> void mma_rs(float (&d)[N / 2], const u32* a, u64 b) { fibres::wgmma<N, Half<F16>>(d, a, 0, b, true, false); }
template <bool F16> void mma_rs_k(float (&d)[32], const u32* a, u64 b) { fibres::wgmma<64, Half<F16>>(d, a, 0, b, true, true); }
template <bool F16> void mma_ss_mn(float (&d)[128], u64 a, u64 b) { fibres::wgmma<256, Half<F16>>(d, nullptr, a, b, true, false); }
template <int N> void mma8_ss(float (&d)[N / 2], u64 a, u64 b, int accumulate) { fibres::wgmma<N, fibres::E4m3>(d, nullptr, a, b, accumulate != 0, true); }
template <int N> void mma8_rs(float (&d)[N / 2], const u32* a, u64 b) { fibres::wgmma<N, fibres::E4m3>(d, a, 0, b, true, true); }
inline u32 renewed(u32 x) { return x; }
template <class T> void store_shared(void* p, T x) { for (u32 i = 0; i < sizeof x; i += 4) fibres::leave(smem_address(p) + i, (const char*)&x + i, 4, fibres::current->thread + 1); }
inline void fence_async() { auto& t = fibres::threads[fibres::current->thread]; for (u32 i : t.stored) if (fibres::unfenced[i] == fibres::current->thread + 1) fibres::unfenced[i] = 0; t.stored.clear(); }
inline fibres::Queue& wgmma_queue() { return fibres::queues[fibres::current->thread / 128]; }
inline void wgmma_fence() { fibres::threads[fibres::current->thread].ordered = true; }
inline void wgmma_commit() { auto& q = wgmma_queue(); fibres::meet(q.meeting, 128, [&] { q.groups.push_back(std::move(q.open)); q.open.clear(); }); }
// The products take their time: whoever was told too early that an operand is free gets to overwrite it.
template <int PENDING> void wgmma_wait() { for (int i = 0; i < 4; i++) { fibres::progress++; fibres::give_way(); } auto& q = wgmma_queue(); fibres::threads[fibres::current->thread].ordered = false; fibres::meet(q.meeting, 128, [&] { while (q.groups.size() > PENDING) { for (auto& f : q.groups.front()) f(); q.groups.pop_front(); } }); }
template <int COUNT> void pin(float (&)[COUNT]) {}

template <bool F16> void mma(float (&d)[4], const u32 (&a)[4], u32 b0, u32 b1) {
    auto& w = fibres::warp(); u32 mine[6] = {a[0], a[1], a[2], a[3], b0, b1}; unsigned l = fibres::lane();
    for (int i = 0; i < 6; i++) w.in[l][i] = mine[i];
    __syncwarp();
    for (unsigned i = 0; i < 4; i++) { unsigned r = l / 4 + i / 2 * 8, c = l % 4 * 2 + i % 2; float s = d[i];
        for (unsigned k = 0; k < 16; k++) s += fibres::widen<F16>((u16)(w.in[r % 8 * 4 + k % 8 / 2][r / 8 + k / 8 * 2] >> 16 * (k & 1))) * fibres::widen<F16>((u16)(w.in[c * 4 + k % 8 / 2][4 + k / 8] >> 16 * (k & 1)));
        d[i] = s; }
    __syncwarp();
}
inline void ldmatrix(u32 (&r)[4], u32 address, bool transposed) {
    auto& w = fibres::warp(); unsigned l = fibres::lane(); if (address % 16) fibres::fail("an ldmatrix row that is not aligned to 16 bytes");
    w.in[l][0] = address; __syncwarp();
    for (unsigned i = 0; i < 4; i++) { u16 x[2]; for (unsigned j = 0; j < 2; j++) { unsigned row = transposed ? l % 4 * 2 + j : l / 4, col = transposed ? l / 4 : l % 4 * 2 + j; memcpy(&x[j], fibres::at((u32)w.in[i * 8 + row][0]) + col * 2, 2); } r[i] = x[0] | (u32)x[1] << 16; }
    __syncwarp();
}
inline void store_matrices(u32 address, u32 a, u32 b, u32 c, u32 d) {
    auto& w = fibres::warp(); unsigned l = fibres::lane(); if (address % 16) fibres::fail("an stmatrix row that is not aligned to 16 bytes");
    w.in[l][0] = address; __syncwarp();
    const u32 r[4] = {a, b, c, d}; for (unsigned i = 0; i < 4; i++) fibres::leave((u32)w.in[i * 8 + l / 4][0] + l % 4 * 4, &r[i], 4, fibres::current->thread + 1);
    __syncwarp();
}
inline void load_matrices(u32 (&r)[4], u32 address) { ldmatrix(r, address, false); }
inline void load_matrices_transposed(u32 (&r)[4], u32 address) { ldmatrix(r, address, true); }
inline void copy_async(u32 dst, const void* src, bool valid) { fibres::Copy c{fibres::at(dst), {0, 0}}; if (valid) memcpy(c.data, src, 16); fibres::threads[fibres::current->thread].open.push_back(c); }
inline void copy_commit() { auto& t = fibres::threads[fibres::current->thread]; t.copies.push_back(std::move(t.open)); t.open.clear(); }
template <int PENDING> void copy_wait() { auto& t = fibres::threads[fibres::current->thread]; while (t.copies.size() > PENDING) { for (auto& c : t.copies.front()) memcpy(c.dst, c.data, 16); t.copies.pop_front(); } }
