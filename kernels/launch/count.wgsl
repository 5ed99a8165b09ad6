// One thread adds one to a counter (count.cu has the contract).

@group(0) @binding(0) var<storage, read_write> count: atomic<u32>;

@compute @workgroup_size(1) fn rp_count() { atomicAdd(&count, 1u); }
