// What tcgen05_sm100.cu calls, beside what cluster.h models already: tensor memory, products that read their operands when they
// are committed and not before, and that nobody may read before the barrier of that commit.
#pragma once
#include "cluster.h"
#include <limits>

namespace fibres {

constexpr unsigned kLanes = 128, kColumns = 512;
// Of the one block that runs: its tensor memory, who has columns of it, and the products that were ordered and are not done.
inline std::vector<float> tensor(kLanes * kColumns);
inline unsigned tensor_first = 0, tensor_columns = 0;
inline std::deque<Action> products;

}  // namespace fibres

inline void tensor_take(uint32_t slot, unsigned columns) {
    fibres::meet(fibres::warp().meeting, 32, [&] {
        if (columns < 32 || columns > 512 || (columns & (columns - 1))) fibres::fail("tensor memory is taken in powers of two columns");
        if (fibres::tensor_columns) fibres::fail("tensor memory taken twice");
        fibres::tensor_first = 32, fibres::tensor_columns = columns;    // not at 0, so that an address left out shows
        std::fill(fibres::tensor.begin(), fibres::tensor.end(), std::numeric_limits<float>::quiet_NaN());
        memcpy(fibres::at(fibres::block(), slot), &fibres::tensor_first, 4);
    });
}
inline unsigned tensor_taken(uint32_t slot) { unsigned at; memcpy(&at, fibres::at(fibres::block(), slot), 4); return at; }
inline void tensor_give(unsigned at, unsigned columns) {
    fibres::meet(fibres::warp().meeting, 32, [&] {
        if (at != fibres::tensor_first || columns != fibres::tensor_columns) fibres::fail("tensor memory given back that was not taken");
        if (!fibres::products.empty()) fibres::fail("tensor memory given back while products are under way");
        fibres::tensor_columns = 0;
    });
}
inline void tensor_fence_after() {}
inline void tensor_fence_before() {}

inline void tensor_multiply(unsigned d, uint64_t a, uint64_t b, unsigned instruction, int keep) {
    fibres::Block* block = &fibres::block();
    unsigned m = (instruction >> 24 & 31) * 16, n = (instruction >> 17 & 63) * 8;
    static const unsigned number[] = {1, 0, 2, 0, 1};    // bf16, f16, tf32, e4m3, e5m2
    unsigned type = number[(int)fibres::operand_type];
    if (m != 128 || n < 8 || n > 256 || (instruction >> 4 & 3) != 1 || (instruction >> 7 & 7) != type || (instruction >> 10 & 7) != type ||
        (instruction & 0xF801E00Fu & ~(31u << 24)))
        fibres::fail("an instruction descriptor of other types or sizes");
    if ((a >> 46 & 3) != 1 || (b >> 46 & 3) != 1) fibres::fail("a matrix descriptor of another version");
    if (d < fibres::tensor_first || d + n > fibres::tensor_first + fibres::tensor_columns) fibres::fail("a product outside the columns taken");
    fibres::products.push_back([=] {
        int depth = 32 / fibres::bytes_of(fibres::operand_type);
        std::vector<float> left(m * 32), right(n * 32);
        for (unsigned r = 0; r < m; ++r) fibres::operand_row(*block, a, r, &left[r * 32]);
        for (unsigned r = 0; r < n; ++r) fibres::operand_row(*block, b, r, &right[r * 32]);
        for (unsigned r = 0; r < m; ++r)
            for (unsigned q = 0; q < n; ++q) {
                float& x = fibres::tensor[r * fibres::kColumns + d + q];
                float s = keep ? x : 0;
                for (int k = 0; k < depth; ++k) s += left[r * 32 + k] * right[q * 32 + k];
                x = s;
            }
    });
}
// Lands at some later moment, as a load does: all that was ordered before it is done then, in its order.
inline void tensor_commit(uint32_t bar) {
    fibres::Block* block = &fibres::block();
    auto reached = std::make_shared<bool>(false);
    fibres::products.push_back([reached] { *reached = true; });
    fibres::in_flight.push_back([=] {
        while (!*reached) { auto run = std::move(fibres::products.front()); fibres::products.pop_front(); run(); }
        fibres::arrive(fibres::barrier(*block, bar));
    });
}
inline void tensor_read(float (&d)[32], unsigned at) {
    unsigned lane = at >> 16, column = at & 0xffff, warp = fibres::current->thread / 32 % 4;
    if (lane != warp * 32) fibres::fail("a warp reads lanes of tensor memory that are not its own");
    if (column < fibres::tensor_first || column + 32 > fibres::tensor_first + fibres::tensor_columns) fibres::fail("a read outside the columns taken");
    __syncwarp();    // every lane of the warp must come
    for (int i = 0; i < 32; ++i) d[i] = fibres::tensor[(lane + fibres::lane()) * fibres::kColumns + column + i];
}
inline unsigned bits(float x) { return fibres::to_bits(x); }
