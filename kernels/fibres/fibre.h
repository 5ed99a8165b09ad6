// A fibre: one thread of a GPU's block on a stack of its own, which runs until it has to wait.
//
// Most of a block waits at any moment. So a fibre says what it waits for, and that is asked on the scheduler's stack; and one that
// has begun is switched to by longjmp, because swapcontext asks the kernel for the signal mask each time.
#pragma once
#undef _FORTIFY_SOURCE  // its longjmp refuses another stack
#include <setjmp.h>
#include <cstdio>
#include <cstdlib>
#include <ucontext.h>
#include <memory>

namespace fibres {

struct Stack {
    std::unique_ptr<char[]> bytes;  // not written to before it is used: most of it never is
    ucontext_t start; jmp_buf here; bool begun;
    bool (*ready)(void*); void* what;  // null: it can go on

    void prepare(size_t size, void (*entry)()) {
        if (!bytes) bytes.reset(new char[size]);
        begun = false; ready = nullptr;
        getcontext(&start);
        start.uc_stack.ss_sp = bytes.get(); start.uc_stack.ss_size = size; start.uc_link = nullptr;
        makecontext(&start, entry, 0);
    }
};

inline jmp_buf scheduler;

// Runs it until it gives way, unless what it waits for is not there.
[[gnu::noinline]] inline void run(Stack& s) {
    if (s.ready && !s.ready(s.what)) return;
    s.ready = nullptr;
    if (_setjmp(scheduler)) return;
    if (s.begun) _longjmp(s.here, 1);
    s.begun = true;
    setcontext(&s.start);
}
[[gnu::noinline]] inline void give_way(Stack& s) { if (!_setjmp(s.here)) _longjmp(scheduler, 1); }
template <class Done> void give_way_until(Stack& s, Done& done) {
    if (done()) return;
    s.what = &done; s.ready = [](void* d) -> bool { return (*(Done*)d)(); };
    give_way(s);
}

// After a case that failed: where it is only asked whether a planted bug shows, that is all there is to know.
inline void failed() { const char* first = getenv("FIRST_FAILURE"); if (first && *first) { fflush(stdout); _Exit(1); } }

}  // namespace fibres
