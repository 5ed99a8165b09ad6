// What a library of kernels gives the driver's stub: each kernel by its entry and the definitions that its program was compiled with,
// the bytes of its parameters from its own signature, and a way to run it from its own source, a block at a time, as fibres.
#pragma once
#include "fibres/cuda.h"
#include <string>

namespace registry {

struct Kernel { std::vector<size_t> sizes; std::function<void(void**, const unsigned*)> run; };
inline std::map<std::string, Kernel> all;

template <class T> T at(void** p, size_t i) { T v; memcpy(&v, p[i], sizeof v); return v; }
template <class... A, size_t... I> void call(void (*f)(A...), void** p, std::index_sequence<I...>) { f(at<std::remove_cv_t<A>>(p, I)...); }
// A block may touch no more shared memory than the launch gave it: what lies behind is poison before and after.
template <class... A> bool add(const char* name, void (*f)(A...), unsigned threads = 0) {
    all[name] = {{sizeof(A)...}, [=](void** p, const unsigned* g) {
        if (threads && (g[3] != threads || g[4] != 1 || g[5] != 1)) fibres::fail("a block of another size than the kernel is written for");
        fibres::launch(dim3(g[0], g[1], g[2]), dim3(g[3], g[4], g[5]), [=] { call(f, p, std::index_sequence_for<A...>()); });
        for (size_t i = g[6]; threads && i < sizeof fibres::smem; i++) if (fibres::smem[i] != 0xFF) fibres::fail("more shared memory than the launch gave");
    }};
    return true;
}

}  // namespace registry

// Bytes of each parameter of a kernel; −1 where there is none of that name. `defines` counts where the name is kept with some.
extern "C" int rp_stub_find(const char* entry, const char* defines, char* name, size_t* sizes) {
    for (std::string full : {std::string(entry) + " " + defines, std::string(entry)}) {
        auto found = registry::all.find(full);
        if (found == registry::all.end()) continue;
        strcpy(name, full.c_str());
        for (size_t s : found->second.sizes) *sizes++ = s;
        return 0;
    }
    return -1;
}
extern "C" void rp_stub_kernel(const char* name, void** p, const unsigned* geometry) { registry::all.at(name).run(p, geometry); }
