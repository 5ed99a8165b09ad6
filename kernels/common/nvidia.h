// What only NVIDIA's chips have, under one name for every attention kernel: matrix fragments and asynchronous copies of sm_80, and of
// sm_90 the TMA, mbarriers, named barriers and wgmma. On the host kernels/fibres/cuda.h stands in for the instructions.
//
// wgmma's operands
//   In shared memory, as TMA leaves them under the 128-byte swizzle: slabs of [rows][64] halves. K-major is a row an index of M or N, with K along
//   it (16 further on: 32 bytes; 64: a slab); MN-major is the same bytes read the other way, a row an index of K (16 further on: 2048 bytes).
//   In registers, A's fragment of m64k16 is the accumulator's of m64n16, packed: what one product gave goes straight into the next.
#pragma once

typedef unsigned short u16;
typedef unsigned int u32;
typedef unsigned long long u64;
#ifndef RP_DYNAMIC_SMEM
#define RP_DYNAMIC_SMEM(NAME, ALIGN) extern __shared__ __align__(ALIGN) unsigned char NAME[]
#endif
#ifndef RP_DEVICE
#define RP_DEVICE static __device__ __forceinline__
#endif
struct __align__(64) TensorMap { u64 opaque[16]; };

// Of an operand of wgmma: start address, leading and stride offsets in 16-byte units; bits 62 and 63 choose the swizzle. Without one a
// K-major operand is blocks of eight rows of sixteen bytes, `leading` bytes to the next along K, `stride` along M or N.
template <int SWIZZLE = 128> RP_DEVICE u64 descriptor(u32 address, u32 leading, u32 stride) {
    return (u64)((address >> 4) & 0x3FFF) | (u64)(leading >> 4) << 16 | (u64)(stride >> 4) << 32 | (SWIZZLE == 128 ? 1ull : SWIZZLE == 64 ? 2ull : 0ull) << 62;
}

#ifndef RP_HOST_FIBRES

// ---- numbers --------------------------------------------------------------------------------------------------------------

RP_DEVICE u32 smem_address(const void* p) { return (u32)__cvta_generic_to_shared(p); }
RP_DEVICE float minus_infinity() { return __int_as_float((int)0xFF800000u); }
RP_DEVICE float float_of(u32 bits) { return __int_as_float((int)bits); }
RP_DEVICE u32 bits_of(float x) { return (u32)__float_as_int(x); }
RP_DEVICE float exp2_approx(float x) { float y; asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x)); return y; }
template <bool F16> RP_DEVICE u32 pack(float low, float high) {
    u32 r;
    if constexpr (F16) asm("cvt.rn.f16x2.f32 %0, %1, %2;" : "=r"(r) : "f"(high), "f"(low));
    else asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(r) : "f"(high), "f"(low));
    return r;
}
// Four of e4m3, lowest first.
RP_DEVICE u32 pack8(float a, float b, float c, float d) {
    u32 r;
    asm("{\n.reg .b16 l, h;\ncvt.rn.satfinite.e4m3x2.f32 l, %2, %1;\ncvt.rn.satfinite.e4m3x2.f32 h, %4, %3;\nmov.b32 %0, {l, h};\n}" : "=r"(r) : "f"(a), "f"(b), "f"(c), "f"(d));
    return r;
}
// Bytes of the two words by a selector's hexadecimal digits, lowest first: 0 to 3 of `a`, 4 to 7 of `b`.
RP_DEVICE u32 permute_bytes(u32 a, u32 b, u32 selector) { return __byte_perm(a, b, selector); }
// Pairs of halves, or of bf16, multiplied.
template <bool F16> RP_DEVICE u32 multiply_pairs(u32 a, u32 b) {
    u32 r;
    if constexpr (F16) asm("mul.rn.f16x2 %0, %1, %2;" : "=r"(r) : "r"(a), "r"(b));
    else asm("fma.rn.bf16x2 %0, %1, %2, %3;" : "=r"(r) : "r"(a), "r"(b), "r"(0x80008000u));
    return r;
}

// ---- sm_80: fragments, and copies of sixteen bytes ------------------------------------------------------------------------

#define RP_MMA(T)                                                                                                                  \
    asm volatile("mma.sync.aligned.m16n8k16.row.col.f32." T "." T ".f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"     \
                 : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3]) : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1))
template <bool F16> RP_DEVICE void mma(float (&d)[4], const u32 (&a)[4], u32 b0, u32 b1) {
    if constexpr (F16) RP_MMA("f16"); else RP_MMA("bf16");
}
#undef RP_MMA
RP_DEVICE void load_matrices(u32 (&r)[4], u32 address) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3}, [%4];" : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3]) : "r"(address) : "memory");
}
RP_DEVICE void load_matrices_transposed(u32 (&r)[4], u32 address) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0,%1,%2,%3}, [%4];" : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3]) : "r"(address) : "memory");
}
// Sixteen bytes past L1, or zeros where `valid` is false: then the source is not read.
RP_DEVICE void copy_async(u32 dst, const void* src, bool valid) {
    asm volatile("cp.async.cg.shared.global.L2::128B [%0], [%1], 16, %2;" ::"r"(dst), "l"(src), "r"(valid ? 16 : 0) : "memory");
}
RP_DEVICE void copy_commit() { asm volatile("cp.async.commit_group;" ::: "memory"); }
template <int PENDING> RP_DEVICE void copy_wait() { asm volatile("cp.async.wait_group %0;" ::"n"(PENDING) : "memory"); }

// ---- sm_90: mbarriers, TMA, warpgroups ------------------------------------------------------------------------------------

RP_DEVICE void barrier_init(u32 bar, u32 count) { asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(bar), "r"(count)); }
RP_DEVICE void barrier_init_fence() { asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory"); }
RP_DEVICE void barrier_arrive(u32 bar) { asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0];" ::"r"(bar) : "memory"); }
RP_DEVICE void barrier_expect(u32 bar, u32 bytes) {
    asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(bar), "r"(bytes) : "memory");
}
RP_DEVICE void barrier_wait(u32 bar, u32 parity) {
#ifdef RP_SPIN_LIMIT
    u32 spins = 0;
#endif
    for (u32 done = 0; !done;) {
        asm volatile("{\n.reg .pred p;\nmbarrier.try_wait.parity.shared::cta.b64 p, [%1], %2;\nselp.u32 %0, 1, 0, p;\n}"
                     : "=r"(done) : "r"(bar), "r"(parity) : "memory");
#ifdef RP_SPIN_LIMIT
        // A lost arrival ends in a fault, not in a hang. (A trap here would make ptxas give up on setmaxnreg and serialise wgmma.)
        if (!done && ++spins > RP_SPIN_LIMIT) *(volatile u32*)0 = 1;
#endif
    }
}
// A box of a four-dimensional map: all slabs of some rows, or one slab of them.
RP_DEVICE void load_tile(u32 dst, const TensorMap* map, u32 bar, int row, int head) {
    asm volatile("cp.async.bulk.tensor.4d.shared::cluster.global.tile.mbarrier::complete_tx::bytes [%0], [%1, {%3, %4, %3, %5}], [%2];"
                 ::"r"(dst), "l"(map), "r"(bar), "r"(0), "r"(row), "r"(head) : "memory");
}
RP_DEVICE void load_slab(u32 dst, const TensorMap* map, u32 bar, int row, int slab, int batch) {
    asm volatile("cp.async.bulk.tensor.4d.shared::cluster.global.tile.mbarrier::complete_tx::bytes [%0], [%1, {%3, %4, %5, %6}], [%2];"
                 ::"r"(dst), "l"(map), "r"(bar), "r"(0), "r"(row), "r"(slab), "r"(batch) : "memory");
}
// Columns from `column` on of a map that has them all in one row; those beyond the last become zeros.
RP_DEVICE void load_columns(u32 dst, const TensorMap* map, u32 bar, int column, int row, int batch) {
    asm volatile("cp.async.bulk.tensor.4d.shared::cluster.global.tile.mbarrier::complete_tx::bytes [%0], [%1, {%3, %4, %5, %6}], [%2];"
                 ::"r"(dst), "l"(map), "r"(bar), "r"(column), "r"(row), "r"(0), "r"(batch) : "memory");
}
RP_DEVICE void store_matrices(u32 address, u32 a, u32 b, u32 c, u32 d) {
    asm volatile("stmatrix.sync.aligned.m8n8.x4.shared.b16 [%0], {%1,%2,%3,%4};" ::"r"(address), "r"(a), "r"(b), "r"(c), "r"(d) : "memory");
}
// A thread's store to what wgmma reads or TMA writes later: fence_async follows. (The host's model knows such stores by this name.)
template <class T> RP_DEVICE void store_shared(void* p, T x) { *(T*)p = x; }
RP_DEVICE void named_sync(int barrier, int threads) { asm volatile("bar.sync %0, %1;" ::"r"(barrier), "r"(threads) : "memory"); }
RP_DEVICE void named_arrive(int barrier, int threads) { asm volatile("bar.arrive %0, %1;" ::"r"(barrier), "r"(threads) : "memory"); }
RP_DEVICE void fence_async() { asm volatile("fence.proxy.async.shared::cta;" ::: "memory"); }  // shared stores before a wgmma that reads them
template <int REGISTERS> RP_DEVICE void registers_give() { asm volatile("setmaxnreg.dec.sync.aligned.u32 %0;" ::"n"(REGISTERS)); }
template <int REGISTERS> RP_DEVICE void registers_take() { asm volatile("setmaxnreg.inc.sync.aligned.u32 %0;" ::"n"(REGISTERS)); }

// ---- sm_90: wgmma ---------------------------------------------------------------------------------------------------------

RP_DEVICE void wgmma_fence() { asm volatile("wgmma.fence.sync.aligned;" ::: "memory"); }
RP_DEVICE void wgmma_commit() { asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory"); }
template <int PENDING> RP_DEVICE void wgmma_wait() { asm volatile("wgmma.wait_group.sync.aligned %0;" ::"n"(PENDING) : "memory"); }
// Tells the compiler that the values change here, so that no use of an accumulator moves above the wait that completes it.
template <int COUNT> RP_DEVICE void pin(float (&r)[COUNT]) {
#pragma unroll
    for (int i = 0; i < COUNT; i++) asm volatile("" : "+f"(r[i])::"memory");
}
// Holds what `sum` was computed from above the next wait: a store that would happen only if it were negative, and a sum of
// exponentials never is. Without it ptxas sinks the exponentials below the wait for P·V, where they overlap nothing.
RP_DEVICE void compute_before_wait(float sum, u32 scratch) {
    asm volatile("{\n.reg .pred p;\nsetp.lt.f32 p, %0, 0f00000000;\n@p st.shared.f32 [%1], %0;\n}" ::"f"(sum), "r"(scratch) : "memory");
}
// An address the compiler must take as new: or it keeps all descriptors of a loop in registers it does not have, and spills.
RP_DEVICE u32 renewed(u32 x) { asm volatile("" : "+r"(x)); return x; }

// Operand lists: so many accumulators, %0 on.
#define RP_TEN(t) "%" #t "0,%" #t "1,%" #t "2,%" #t "3,%" #t "4,%" #t "5,%" #t "6,%" #t "7,%" #t "8,%" #t "9"
#define RP_FORTY RP_TEN() "," RP_TEN(1) "," RP_TEN(2) "," RP_TEN(3)
#define RP_LIST32 RP_TEN() "," RP_TEN(1) "," RP_TEN(2) ",%30,%31"
#define RP_LIST40 RP_FORTY
#define RP_LIST64 RP_FORTY "," RP_TEN(4) "," RP_TEN(5) ",%60,%61,%62,%63"
#define RP_LIST88 RP_FORTY "," RP_TEN(4) "," RP_TEN(5) "," RP_TEN(6) "," RP_TEN(7) ",%80,%81,%82,%83,%84,%85,%86,%87"
#define RP_LIST48 RP_FORTY ",%40,%41,%42,%43,%44,%45,%46,%47"
#define RP_LIST96 RP_FORTY "," RP_TEN(4) "," RP_TEN(5) "," RP_TEN(6) "," RP_TEN(7) "," RP_TEN(8) ",%90,%91,%92,%93,%94,%95"
#define RP_LIST112 RP_FORTY "," RP_TEN(4) "," RP_TEN(5) "," RP_TEN(6) "," RP_TEN(7) "," RP_TEN(8) "," RP_TEN(9) "," RP_TEN(10) ",%110,%111"
#define RP_LIST128 RP_FORTY "," RP_TEN(4) "," RP_TEN(5) "," RP_TEN(6) "," RP_TEN(7) "," RP_TEN(8) "," RP_TEN(9) "," RP_TEN(10) "," RP_TEN(11) \
    ",%120,%121,%122,%123,%124,%125,%126,%127"
#define RP_F8(d, i) "+f"(d[i]), "+f"(d[i + 1]), "+f"(d[i + 2]), "+f"(d[i + 3]), "+f"(d[i + 4]), "+f"(d[i + 5]), "+f"(d[i + 6]), "+f"(d[i + 7])
#define RP_F32(d) RP_F8(d, 0), RP_F8(d, 8), RP_F8(d, 16), RP_F8(d, 24)
#define RP_F40(d) RP_F32(d), RP_F8(d, 32)
#define RP_F48(d) RP_F40(d), RP_F8(d, 40)
#define RP_F64(d) RP_F48(d), RP_F8(d, 48), RP_F8(d, 56)
#define RP_F88(d) RP_F64(d), RP_F8(d, 64), RP_F8(d, 72), RP_F8(d, 80)
#define RP_F96(d) RP_F88(d), RP_F8(d, 88)
#define RP_F112(d) RP_F96(d), RP_F8(d, 96), RP_F8(d, 104)
#define RP_F128(d) RP_F112(d), RP_F8(d, 112), RP_F8(d, 120)

// Both operands from shared memory, both K-major; what was there counts if `accumulate`.
#define RP_SS(N, T, COUNT, A, B, P)                                                                                               \
    asm volatile("{\n.reg .pred p;\nsetp.ne.b32 p, %" #P ", 0;\nwgmma.mma_async.sync.aligned.m64n" #N "k16.f32." T "." T           \
                 " {" RP_LIST##COUNT "}, %" #A ", %" #B ", p, 1, 1, 0, 0;\n}" : RP_F##COUNT(d) : "l"(a), "l"(b), "r"(accumulate))
// A from shared memory, K-major, B MN-major.
#define RP_SS_MN(N, T, COUNT, A, B)                                                                                               \
    asm volatile("wgmma.mma_async.sync.aligned.m64n" #N "k16.f32." T "." T " {" RP_LIST##COUNT "}, %" #A ", %" #B ", 1, 1, 1, 0, 1;" \
                 : RP_F##COUNT(d) : "l"(a), "l"(b))
// A from registers, B from shared memory, MN-major if TRANSPOSED.
#define RP_RS(N, T, COUNT, A0, A1, A2, A3, B, TRANSPOSED)                                                                         \
    asm volatile("wgmma.mma_async.sync.aligned.m64n" #N "k16.f32." T "." T " {" RP_LIST##COUNT "}, {%" #A0 ",%" #A1 ",%" #A2 ",%" #A3 "}, %" #B \
                 ", 1, 1, 1, " #TRANSPOSED ";" : RP_F##COUNT(d) : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b))
#define RP_BOTH(FORM, N, ...) { if constexpr (F16) FORM(N, "f16", __VA_ARGS__); else FORM(N, "bf16", __VA_ARGS__); }

template <int N, bool F16> RP_DEVICE void mma_ss(float (&d)[N / 2], u64 a, u64 b, int accumulate) {
    static_assert(N == 64 || N == 80 || N == 128 || N == 176, "add the operand list of this width");
    if constexpr (N == 64) RP_BOTH(RP_SS, 64, 32, 32, 33, 34)
    if constexpr (N == 80) RP_BOTH(RP_SS, 80, 40, 40, 41, 42)
    if constexpr (N == 128) RP_BOTH(RP_SS, 128, 64, 64, 65, 66)
    if constexpr (N == 176) RP_BOTH(RP_SS, 176, 88, 88, 89, 90)
}
// B MN-major.
template <int N, bool F16> RP_DEVICE void mma_rs(float (&d)[N / 2], const u32* a, u64 b) {
    static_assert(N == 64 || N == 96 || N == 128 || N == 256, "add the operand list of this width");
    if constexpr (N == 64) RP_BOTH(RP_RS, 64, 32, 32, 33, 34, 35, 36, 1)
    if constexpr (N == 96) RP_BOTH(RP_RS, 96, 48, 48, 49, 50, 51, 52, 1)
    if constexpr (N == 128) RP_BOTH(RP_RS, 128, 64, 64, 65, 66, 67, 68, 1)
    if constexpr (N == 256) RP_BOTH(RP_RS, 256, 128, 128, 129, 130, 131, 132, 1)
}
// B K-major.
template <bool F16> RP_DEVICE void mma_rs_k(float (&d)[32], const u32* a, u64 b) { RP_BOTH(RP_RS, 64, 32, 32, 33, 34, 35, 36, 0) }
// B MN-major, A from shared memory.
template <bool F16> RP_DEVICE void mma_ss_mn(float (&d)[128], u64 a, u64 b) { RP_BOTH(RP_SS_MN, 256, 128, 128, 129) }

// e4m3: 32 of K an instruction, and both operands K-major, of which there is no choice.
#define RP_SS8(N, COUNT, A, B, P)                                                                                                 \
    asm volatile("{\n.reg .pred p;\nsetp.ne.b32 p, %" #P ", 0;\nwgmma.mma_async.sync.aligned.m64n" #N "k32.f32.e4m3.e4m3"        \
                 " {" RP_LIST##COUNT "}, %" #A ", %" #B ", p, 1, 1;\n}" : RP_F##COUNT(d) : "l"(a), "l"(b), "r"(accumulate))
#define RP_RS8(N, COUNT, A0, A1, A2, A3, B)                                                                                       \
    asm volatile("wgmma.mma_async.sync.aligned.m64n" #N "k32.f32.e4m3.e4m3 {" RP_LIST##COUNT "}, {%" #A0 ",%" #A1 ",%" #A2 ",%" #A3 "}, %" #B \
                 ", 1, 1, 1;" : RP_F##COUNT(d) : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b))
template <int N> RP_DEVICE void mma8_ss(float (&d)[N / 2], u64 a, u64 b, int accumulate) {
    static_assert(N == 96 || N == 128 || N == 192 || N == 224, "add the operand list of this width");
    if constexpr (N == 96) RP_SS8(96, 48, 48, 49, 50);
    if constexpr (N == 128) RP_SS8(128, 64, 64, 65, 66);
    if constexpr (N == 192) RP_SS8(192, 96, 96, 97, 98);
    if constexpr (N == 224) RP_SS8(224, 112, 112, 113, 114);
}
template <int N> RP_DEVICE void mma8_rs(float (&d)[N / 2], const u32* a, u64 b) {
    static_assert(N == 64 || N == 128 || N == 256, "add the operand list of this width");
    if constexpr (N == 64) RP_RS8(64, 32, 32, 33, 34, 35, 36);
    if constexpr (N == 128) RP_RS8(128, 64, 64, 65, 66, 67, 68);
    if constexpr (N == 256) RP_RS8(256, 128, 128, 129, 130, 131, 132);
}

#endif

// Two of e4m3, a word's low ones or its high ones, as halves or bf16. Exponent and mantissa are put where they belong, which is the number
// times 2^-8 (a bf16's: 2^-120), subnormal ones included, and then multiplied by what is missing. A NaN becomes 480.
template <bool F16> RP_DEVICE u32 widen_e4m3(u32 x, bool high) {
    const u32 y = permute_bytes(x, 0, high ? 0x3424 : 0x1404), bits = F16 ? y >> 1 & 0x3F803F80u : y >> 4 & 0x07F007F0u;
    return multiply_pairs<F16>(y & 0x80008000u | bits, F16 ? 0x5C005C00u : 0x7B807B80u);
}

// ---- sm_90: tiles of keys -------------------------------------------------------------------------------------------------

// Where the keys of a sequence are, as rows of a map. Without a table they follow each other in a head of their own; with one, key j is in
// page table[j >> shift], and pages [heads, 2^shift rows] follow each other in the map's only head.
struct Keys {
    const int* table; int shift, heads, head;
    __device__ __forceinline__ int row(int key) const { return table ? (table[key >> shift] * heads + head << shift) + (key & (1 << shift) - 1) : key; }
    // Rows of a box: what a tile of so many and a page have in common. Eight at least, of which the swizzle's pattern is made.
    __device__ __forceinline__ int box(int tile) const { return table ? min(1 << shift, tile & -tile) : tile; }
};
// Slabs of a tile, box by box. A whole warp calls: lane from + i says in which row box i begins. PADDED: slabs of 64 columns of one row.
template <bool PADDED = false> RP_DEVICE void load_boxes(u32 tile, const TensorMap* map, u32 bar, int row, int from, int boxes, int box_bytes, int slab, int slabs, u32 slab_bytes, int head) {
#pragma unroll 1
    for (int i = 0; i < boxes; i++) {
        const int at = __shfl_sync(~0u, row, from + i);
        if (threadIdx.x % 32 == 0) for (int j = 0; j < slabs; j++) {
            const u32 to = tile + j * slab_bytes + i * box_bytes;
            if (PADDED) load_columns(to, map, bar, (slab + j) * 64, at, head); else load_slab(to, map, bar, at, slab + j, head);
        }
    }
}
// Slabs of 64 rows whose FP8 lies in their own second half, row after row, are widened by a warpgroup. What a step reads is in registers
// before anyone writes over it. All bytes that there are become numbers, so that a row which is no key's does no harm.
template <bool F16> RP_DEVICE void widen_slabs(unsigned char* tile, int slabs, int barrier) {
    const int t = threadIdx.x % 128, row = t / 4;
    const unsigned char* from = tile + slabs * 4096 + t * 16;
    unsigned char* to = tile + row * 128 + ((t % 4 * 2 ^ row & 7) << 4);
    const int other = row & 1 ? -16 : 16;  // a unit's neighbour, under the swizzle
#pragma unroll 1
    for (int i = 0; i < slabs; i++, from += 4096, to += 8192) {
        uint4 x[2] = {*(const uint4*)from, *(const uint4*)(from + 2048)};
        named_sync(barrier, 128);
#pragma unroll
        for (int j = 0; j < 2; j++) {
            store_shared(to + j * 4096, make_uint4(widen_e4m3<F16>(x[j].x, false), widen_e4m3<F16>(x[j].x, true), widen_e4m3<F16>(x[j].y, false), widen_e4m3<F16>(x[j].y, true)));
            store_shared(to + j * 4096 + other, make_uint4(widen_e4m3<F16>(x[j].z, false), widen_e4m3<F16>(x[j].z, true), widen_e4m3<F16>(x[j].w, false), widen_e4m3<F16>(x[j].w, true)));
        }
    }
    fence_async();
}
// Rows of a tile's slabs become zeros, by a whole warp: a key that is none weighs nothing, but nothing times a NaN is one.
RP_DEVICE void zero_rows(unsigned char* tile, int from, int rows, int slabs, u32 slab_bytes) {
#pragma unroll 1
    for (int i = from * 8 + (int)threadIdx.x % 32; i < rows * 8; i += 32) for (int j = 0; j < slabs; j++) store_shared(tile + j * slab_bytes + i * 16, make_uint4(0, 0, 0, 0));
    fence_async();
    __syncwarp();
}
