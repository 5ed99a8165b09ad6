// Runs the GEMM kernels on the host, so that their numerics are proven where there is no GPU: clusters, multicast, TMA both ways.
//
// One fibre stands for each CUDA thread of one cluster; a fibre gives way only where the kernel waits. What is
// modelled is what can be wrong:
//   - layouts: TMA's box, 128-byte swizzle, zero fill and clipping; wgmma's descriptor; the fragments of wgmma, mma, ldmatrix
//     and stmatrix, for every operand type;
//   - waiting: mbarrier parity, arrivals and bytes, named barriers, and asynchrony taken at its worst. A load lands at a
//     random later moment and in random order; a product reads its operands only at the wait that covers it; a store reads
//     shared memory only at the wait that covers it. So an operand released too early, or a buffer reused too early, shows;
//   - the copy engine's view: a store of bytes written without fence.proxy.async is reported;
//   - lifetime: blocks of a cluster run at uneven speed; an arrival at, or a copy into, a block that has left is reported, and
//     so is a wait that nothing can end.
// What is not: timing, memory ordering among threads, bank conflicts, registers.
#pragma once
#define RP_HOST_FIBRES 1
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
#include <memory>
#include <random>
#include <string>
#include <utility>
#include <vector>

#define __global__
#define __device__
#define __forceinline__ inline
#define __grid_constant__
#define __launch_bounds__(...)
#define __cluster_dims__(...)

struct uint4 { unsigned x, y, z, w; };
inline int min(int a, int b) { return a < b ? a : b; }

namespace fibres {

// ---- numbers --------------------------------------------------------------------------------------------------------

enum class Type { bf16, f16, tf32, e4m3, e5m2, f32 };
inline int bytes_of(Type t) { return t == Type::bf16 || t == Type::f16 ? 2 : t == Type::tf32 || t == Type::f32 ? 4 : 1; }

inline float from_bits(uint32_t u) { float f; memcpy(&f, &u, 4); return f; }
inline uint32_t to_bits(float f) { uint32_t u; memcpy(&u, &f, 4); return u; }
inline float minifloat(unsigned byte, int mantissa, int bias) {
    int e = (byte & 0x7f) >> mantissa, m = byte & ((1 << mantissa) - 1);
    float v = e ? std::ldexp(1.0f + m / (float)(1 << mantissa), e - bias) : std::ldexp(m / (float)(1 << mantissa), 1 - bias);
    return byte & 0x80 ? -v : v;
}
struct Minifloats { float of[256]; Minifloats(int mantissa, int bias) { for (int i = 0; i < 256; ++i) of[i] = minifloat(i, mantissa, bias); } };
inline const Minifloats e4m3(3, 7), e5m2(2, 15);
// What the matrix units read in these bytes; tf32 is f32 without its low 13 bits.
inline float widen(Type t, const void* p) {
    uint32_t u = 0;
    memcpy(&u, p, bytes_of(t));
    switch (t) {
        case Type::bf16: return from_bits(u << 16);
        case Type::f16: { _Float16 h; memcpy(&h, &u, 2); return (float)h; }
        case Type::tf32: return from_bits(u & ~0x1fffu);
        case Type::e4m3: return e4m3.of[u];
        case Type::e5m2: return e5m2.of[u];
        default: return from_bits(u);
    }
}
inline uint16_t narrow16(Type t, float f) {
    if (t == Type::f16) { _Float16 h = (_Float16)f; uint16_t u; memcpy(&u, &h, 2); return u; }
    uint32_t u = to_bits(f);
    return f != f ? 0x7fc0 : (uint16_t)((u + 0x7fff + (u >> 16 & 1)) >> 16);
}

inline Type operand_type, operand_type_b, out_type;    // of A, of B and of C: what the kernel under test was compiled for
inline std::vector<std::pair<const unsigned char*, size_t>> readable;    // what it may read from global memory

// ---- fibres, blocks, the cluster ------------------------------------------------------------------------------------

constexpr uint32_t kShared = 227 * 1024, kOrigin = 1024;    // a shared address is an offset plus kOrigin

struct Meeting { unsigned arrived = 0, round = 0; };
struct MBarrier { int count = 0, pending = 0; long long bytes = 0; unsigned phase = 0; };
typedef std::function<void()> Action;

struct Warp { Meeting meeting; uint64_t in[32][6]; };
struct Warpgroup { Meeting meeting; float* d[128]; std::vector<Action> open; std::deque<std::vector<Action>> groups; };
struct Block {
    alignas(1024) unsigned char shared[kShared];
    std::vector<unsigned> writer = std::vector<unsigned>(kShared, 0);    // 1 + the thread whose write awaits its fence
    std::map<uint32_t, MBarrier> barriers;
    Meeting whole, named[16];
    std::vector<Warp> warps; std::vector<Warpgroup> groups;
    unsigned alive = 0, stalled = 0;
};
struct Copy { unsigned char* to; unsigned char data[16]; };
struct Fibre : Stack {
    unsigned block, thread; bool done;
    std::deque<Action> stores;                                  // bulk stores committed, oldest first
    std::vector<Copy> open; std::deque<std::vector<Copy>> copies;    // cp.async
    std::vector<uint32_t> unfenced;
};

inline std::vector<std::unique_ptr<Block>> blocks;
inline std::vector<Fibre> all;
inline Fibre* current;
inline Action body;
inline unsigned grid_size, block_size, cluster_size, first_block;
inline uint64_t progress;                                       // counts whatever can end a wait
inline Meeting cluster_meeting;
inline std::vector<Action> in_flight;                           // loads that have not landed
inline std::mt19937 dice;

[[noreturn]] inline void fail(const std::string& why) {
    fprintf(stderr, "fibres: %s (block %u, thread %u)\n", why.c_str(), current ? first_block + current->block : 0, current ? current->thread : 0);
    fflush(stderr);
    _Exit(3);
}
inline Block& block() { return *blocks[current->block]; }
inline Warp& warp() { return block().warps[current->thread / 32]; }
inline Warpgroup& warpgroup() { return block().groups[current->thread / 128]; }
inline unsigned lane() { return current->thread % 32; }
inline unsigned char* at(Block& b, uint32_t address) {
    if (address < kOrigin || address - kOrigin >= kShared) fail("a shared address outside shared memory");
    return b.shared + (address - kOrigin);
}
inline uint32_t swizzled(uint32_t address) { return address ^ (address >> 7 & 7) << 4; }

inline void give_way() { give_way(*current); }
template <class Done> void wait_until(Done done) { give_way_until(*current, done); ++progress; }

// The last of `count` fibres to come runs `work`, then all go on.
template <class Work> void meet(Meeting& m, unsigned count, Work work) {
    unsigned round = m.round;
    if (++m.arrived == count) { work(); m.arrived = 0; ++m.round; ++progress; return; }
    wait_until([&] { return m.round != round; });
}
inline void meet(Meeting& m, unsigned count) { meet(m, count, [] {}); }

inline void entry() {
    body();
    if (!current->stores.empty()) fail("a thread left while its stores still read shared memory");
    current->done = true; --block().alive; ++progress; give_way();
}

inline void run_cluster() {
    unsigned threads = cluster_size * block_size;
    blocks.clear(); in_flight.clear(); cluster_meeting = Meeting();
    for (unsigned i = 0; i < cluster_size; ++i) {
        blocks.push_back(std::make_unique<Block>());
        Block& b = *blocks.back();
        memset(b.shared, 0xff, kShared);    // NaN in every type here
        b.alive = block_size; b.warps.resize(block_size / 32); b.groups.resize((block_size + 127) / 128);
    }
    all.resize(threads);
    for (unsigned i = 0; i < threads; ++i) {
        Fibre& f = all[i];
        f.block = i / block_size; f.thread = i % block_size; f.done = false;
        f.stores.clear(); f.open.clear(); f.copies.clear(); f.unfenced.clear();
        f.prepare(128 << 10, entry);
    }
    for (int idle = 0;;) {
        bool left = false; uint64_t before = progress;
        // Blocks run at uneven speed: now and then one stands still for a while.
        for (auto& b : blocks) {
            if (b->stalled) { --b->stalled; ++progress; } else if (cluster_size > 1 && dice() % 32 == 0) b->stalled = dice() % 64;
        }
        for (Fibre& f : all) {
            if (f.done) continue;
            left = true;
            if (blocks[f.block]->stalled) continue;
            current = &f; run(f);
        }
        current = nullptr;
        // Some of the loads land, in any order; all of them have time enough only when nothing else can move.
        for (size_t tries = in_flight.size(); tries-- > 0 && !in_flight.empty();)
            if (progress == before || dice() % 3 == 0) {
                size_t pick = dice() % in_flight.size();
                Action land = std::move(in_flight[pick]);
                in_flight.erase(in_flight.begin() + pick); land(); ++progress;
            }
        if (!left) break;
        if (progress != before) idle = 0; else if (++idle > 2) fail("deadlock: every thread waits");
    }
    if (!in_flight.empty()) fail("the cluster left with loads in flight");
}
template <class Kernel> void launch(unsigned grid, unsigned cluster, unsigned threads, Kernel kernel) {
    grid_size = grid; cluster_size = cluster; block_size = threads; body = kernel;
    for (first_block = 0; first_block < grid; first_block += cluster) run_cluster();
}

inline MBarrier& barrier(Block& b, uint32_t bar) {
    if (!b.alive) fail("an mbarrier of a block that has left");
    auto i = b.barriers.find(bar);
    if (i == b.barriers.end()) fail("an mbarrier that was never initialised");
    return i->second;
}
// A phase ends when its arrivals and its bytes are both complete.
inline void settle(MBarrier& b) { if (b.pending == 0 && b.bytes == 0) { b.phase ^= 1; b.pending = b.count; ++progress; } }
inline void arrive(MBarrier& b) { if (b.pending-- <= 0) fail("more arrivals than an mbarrier expects"); settle(b); }

// What the driver would encode: rows and columns of `count` matrices, their strides and the box, elements of `size` bytes, 128-byte swizzle.
struct HostMap { unsigned char* base; uint64_t dims[3], stride[2]; uint32_t box[2], size; };
template <class Map> HostMap decode(const Map* map) { HostMap m; static_assert(sizeof m <= sizeof *map); memcpy(&m, map, sizeof m); return m; }
template <class Map> Map encode(const void* base, uint64_t inner, uint64_t outer, uint32_t box_inner, uint32_t box_outer, uint32_t size, uint64_t count = 1) {
    HostMap m = {(unsigned char*)base, {inner, outer, count}, {inner * size, inner * outer * size}, {box_inner, box_outer}, size};
    if (m.stride[0] % 16 || box_inner * size != 128 || box_outer > 256) fail("a tensor map the driver would refuse");
    Map r; memcpy(&r, &m, sizeof m); return r;
}
// Calls visit(swizzled shared address, global pointer or null outside) for each element of the box at (x, y) of matrix z.
template <class Visit> void walk_box(const HostMap& m, uint32_t shared, int x, int y, int z, Visit visit) {
    if (shared % 1024) fail("a swizzled tile that does not start at a multiple of 1024 bytes");
    for (uint32_t r = 0; r < m.box[1]; ++r)
        for (uint32_t e = 0; e < m.box[0]; ++e) {
            int64_t i = (int64_t)x + e, j = (int64_t)y + r;
            bool inside = i >= 0 && j >= 0 && i < (int64_t)m.dims[0] && j < (int64_t)m.dims[1] && z >= 0 && z < (int64_t)m.dims[2];
            visit(swizzled(shared + r * 128 + e * m.size), inside ? m.base + z * m.stride[1] + j * m.stride[0] + i * m.size : nullptr);
        }
}

// One operand row of wgmma, 32 bytes of K, found as the hardware finds it from the descriptor.
inline void operand_row(Block& b, uint64_t d, int outer, float* to, Type type = operand_type) {
    if (d >> 62 != 1) fail("a wgmma descriptor without the 128-byte swizzle");
    uint32_t start = (d & 0x3fff) << 4, stride = (d >> 32 & 0x3fff) << 4;
    int size = bytes_of(type);
    for (int k = 0; k < 32; k += size)
        to[k / size] = widen(type, at(b, swizzled(start + outer / 8 * stride + outer % 8 * 128 + k)));
}
inline void finish_products(size_t running) {
    Warpgroup& g = warpgroup();
    while (g.groups.size() > running) { for (auto& run : g.groups.front()) run(); g.groups.pop_front(); }
}
// A write to shared memory that the copy engine does not see before this thread's fence.
inline void write_shared(uint32_t address, const void* from, unsigned n) {
    memcpy(at(block(), address), from, n);
    for (unsigned i = 0; i < n; ++i) { block().writer[address - kOrigin + i] = 1 + current->thread; current->unfenced.push_back(address - kOrigin + i); }
}

}  // namespace fibres

struct ThreadIndex { unsigned x; };
#define threadIdx (ThreadIndex{fibres::current->thread})
#define blockIdx (ThreadIndex{fibres::first_block + fibres::current->block})
#define gridDim (ThreadIndex{fibres::grid_size})

inline void __syncthreads() { fibres::meet(fibres::block().whole, fibres::block_size); }
inline void __syncwarp() { fibres::meet(fibres::warp().meeting, 32); }
template <class T> T __shfl_sync(unsigned, T v, int source) {
    auto& w = fibres::warp();
    memcpy(w.in[fibres::lane()], &v, sizeof v); __syncwarp();
    T r; memcpy(&r, w.in[source], sizeof r); __syncwarp();
    return r;
}

// ---- what hopper.h calls, and the kernels that include it ----------------------------------------------------------------------------------

inline uint32_t shared_base() { return fibres::kOrigin; }
inline void cluster_sync() { fibres::meet(fibres::cluster_meeting, fibres::cluster_size * fibres::block_size); }
inline void warpgroup_sync(int consumer) { fibres::meet(fibres::block().named[consumer + 1], 128); }
template <int> void give_registers() {}
template <int> void take_registers() {}

inline void barrier_init(uint32_t bar, uint32_t arrivals) {
    if (bar % 8) fibres::fail("a misaligned mbarrier");
    fibres::MBarrier b; b.count = b.pending = (int)arrivals;
    fibres::block().barriers[bar] = b;
}
inline void barrier_init_done() {}
inline void barrier_expect(uint32_t bar, uint32_t bytes) { auto& b = fibres::barrier(fibres::block(), bar); b.bytes += bytes; fibres::arrive(b); }
inline void barrier_arrive(uint32_t bar, uint32_t block) {
    if (block >= fibres::cluster_size) fibres::fail("an arrival outside the cluster");
    fibres::arrive(fibres::barrier(*fibres::blocks[block], bar));
}
inline void barrier_wait(uint32_t bar, uint32_t parity) {
    auto& b = fibres::barrier(fibres::block(), bar);
    fibres::wait_until([&] { return b.phase != parity; });
}

template <class Map> void load_into(unsigned mask, uint32_t to, const Map* map, uint32_t bar, int x, int y, int z) {
    fibres::HostMap m = fibres::decode(map);
    for (unsigned i = 0; i < fibres::cluster_size; ++i)
        if (mask >> i & 1)
            fibres::in_flight.push_back([=] {
                fibres::Block& b = *fibres::blocks[i];
                if (!b.alive) fibres::fail("a copy into a block that has left");
                fibres::walk_box(m, to, x, y, z, [&](uint32_t address, const unsigned char* from) {
                    if (from) memcpy(fibres::at(b, address), from, m.size); else memset(fibres::at(b, address), 0, m.size);
                });
                auto& full = fibres::barrier(b, bar);
                full.bytes -= 128 * m.box[1];
                fibres::settle(full);
            });
}
template <class Map> void load_tile(uint32_t to, const Map* map, uint32_t bar, int x, int y, int z = 0) { load_into(1u << fibres::current->block, to, map, bar, x, y, z); }
template <class Map> void load_tile_for_cluster(uint32_t to, const Map* map, uint32_t bar, int x, int y, int z = 0) { load_into((1u << fibres::cluster_size) - 1, to, map, bar, x, y, z); }

template <class Map> void store_tile(const Map* map, uint32_t from, int x, int y, int z) {
    fibres::HostMap m = fibres::decode(map); fibres::Block* b = &fibres::block();
    fibres::walk_box(m, from, x, y, z, [&](uint32_t address, unsigned char*) {
        if (b->writer[address - fibres::kOrigin]) fibres::fail("a store of bytes that no fence has shown to the copy engine");
    });
    fibres::current->stores.push_back([=] {
        fibres::walk_box(m, from, x, y, z, [&](uint32_t address, unsigned char* to) { if (to) memcpy(to, fibres::at(*b, address), m.size); });
    });
}
template <int Running> void wait_stores_read() {
    auto& s = fibres::current->stores;
    while (s.size() > Running) { s.front()(); s.pop_front(); }
}
inline void wait_stores_done() { wait_stores_read<0>(); }
inline void fence_for_copies() { for (uint32_t a : fibres::current->unfenced) fibres::block().writer[a] = 0; fibres::current->unfenced.clear(); }

inline void multiply_fence() {}
template <int N> void multiply(float (&d)[N], uint64_t a, uint64_t b, int keep) {
    auto& g = fibres::warpgroup(); fibres::Block* block = &fibres::block();
    g.d[fibres::current->thread % 128] = d;
    fibres::meet(g.meeting, 128, [&] {
        std::vector<float*> out(g.d, g.d + 128);
        g.open.push_back([=] {
            int depth = 32 / fibres::bytes_of(fibres::operand_type);
            std::vector<float> left(64 * 32), right(2 * N * 32);
            for (int r = 0; r < 64; ++r) fibres::operand_row(*block, a, r, &left[r * 32]);
            for (int n = 0; n < 2 * N; ++n) fibres::operand_row(*block, b, n, &right[n * 32], fibres::operand_type_b);
            for (int r = 0; r < 64; ++r)
                for (int n = 0; n < 2 * N; ++n) {
                    float* x = out[r / 16 * 32 + r % 8 * 4 + n % 8 / 2] + n / 8 * 4 + r / 8 % 2 * 2 + n % 2;
                    float s = keep ? *x : 0;
                    for (int k = 0; k < depth; ++k) s += left[r * 32 + k] * right[n * 32 + k];
                    *x = s;
                }
        });
    });
}
inline void multiply_commit() { auto& g = fibres::warpgroup(); fibres::meet(g.meeting, 128, [&] { g.groups.push_back(std::move(g.open)); g.open.clear(); }); }
// Products take their time: whoever was told too early that an operand is free gets to overwrite it.
template <int Running, int N> void multiply_wait(float (&)[N]) {
    for (int i = 0; i < 4; ++i) { ++fibres::progress; fibres::give_way(); }
    fibres::meet(fibres::warpgroup().meeting, 128, [] { fibres::finish_products(Running); });
}

inline uint32_t pack(float low, float high) { return fibres::narrow16(fibres::out_type, low) | (uint32_t)fibres::narrow16(fibres::out_type, high) << 16; }
inline void store_matrices(uint32_t to, uint32_t r0, uint32_t r1, uint32_t r2, uint32_t r3) {
    auto& w = fibres::warp(); unsigned l = fibres::lane(); uint32_t r[4] = {r0, r1, r2, r3};
    if (to % 16) fibres::fail("an stmatrix row that is not aligned to 16 bytes");
    w.in[l][0] = to; __syncwarp();
    for (int i = 0; i < 4; ++i) fibres::write_shared((uint32_t)w.in[i * 8 + l / 4][0] + l % 4 * 4, &r[i], 4);
    // The address's owner is not the writer, but every thread of the warp fences before the barrier.
    __syncwarp();
}
inline void store_pair(uint32_t to, float first, float second) { float v[2] = {first, second}; fibres::write_shared(to, v, 8); }

// ---- what mma_sm80.cu calls -----------------------------------------------------------------------------------------

inline unsigned char* shared_memory() { return fibres::block().shared; }
inline uint32_t shared_address(const void* p) { return (uint32_t)((const unsigned char*)p - fibres::block().shared) + fibres::kOrigin; }
inline void fetch(uint32_t to, const unsigned char* from, bool inside) {
    fibres::Copy c = {fibres::at(fibres::block(), to), {}};
    if (inside) {
        bool allowed = false;
        for (auto& [begin, bytes] : fibres::readable) allowed |= from >= begin && from + 16 <= begin + bytes;
        if (!allowed) fibres::fail("a read outside the operands");
        memcpy(c.data, from, 16);
    }
    fibres::current->open.push_back(c);
}
inline void commit() { auto& f = *fibres::current; f.copies.push_back(std::move(f.open)); f.open.clear(); }
template <int Running> void wait_fetched() {
    auto& q = fibres::current->copies;
    while (q.size() > Running) { for (auto& c : q.front()) memcpy(c.to, c.data, 16); q.pop_front(); }
}
inline void load_matrices(uint32_t (&r)[4], uint32_t address) {
    auto& w = fibres::warp(); unsigned l = fibres::lane();
    if (address % 16) fibres::fail("an ldmatrix row that is not aligned to 16 bytes");
    w.in[l][0] = address; __syncwarp();
    for (int i = 0; i < 4; ++i) memcpy(&r[i], fibres::at(fibres::block(), (uint32_t)w.in[i * 8 + l / 4][0] + l % 4 * 4), 4);
    __syncwarp();
}
// m16n8 over 32 bytes of K; a word of a lane is 4 bytes of K of one row.
inline void multiply(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
    auto& w = fibres::warp(); unsigned l = fibres::lane(); int size = fibres::bytes_of(fibres::operand_type);
    uint32_t mine[6] = {a[0], a[1], a[2], a[3], b[0], b[1]};
    for (int i = 0; i < 6; ++i) w.in[l][i] = mine[i];
    __syncwarp();
    for (unsigned i = 0; i < 4; ++i) {
        unsigned row = l / 4 + i / 2 * 8, column = l % 4 * 2 + i % 2;
        for (unsigned k = 0; k < 32; k += size) {
            uint32_t left = (uint32_t)w.in[row % 8 * 4 + k % 16 / 4][row / 8 + k / 16 * 2] >> k % 4 * 8;
            uint32_t right = (uint32_t)w.in[column * 4 + k % 16 / 4][4 + k / 16] >> k % 4 * 8;
            d[i] += fibres::widen(fibres::operand_type, &left) * fibres::widen(fibres::operand_type, &right);
        }
    }
    __syncwarp();
}
inline void put(uint32_t to, float low, float high) {
    uint32_t both = pack(low, high); float v[2] = {low, high};
    if (fibres::bytes_of(fibres::out_type) == 2) memcpy(fibres::at(fibres::block(), to), &both, 4);
    else memcpy(fibres::at(fibres::block(), to), v, 8);
}
