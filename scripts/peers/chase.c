/* A pointer chase to compare the suite's latencies with, written without looking at it: C pointers, one thread.
 *
 *   gcc -O2 chase.c -o chase
 *   taskset -c 0 ./chase KIB...
 *
 * For each footprint one line: KiB and the nanoseconds of a dependent load, the median of several runs of 65536 loads. The
 * lines of a footprint form one random cycle, so that neither a prefetcher nor a second load in flight helps.
 */
#define _GNU_SOURCE
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <time.h>

enum { LINE = 64, LOADS = 65536, RUNS = 31 };

struct line {
  struct line *next;
  char rest[LINE - sizeof(struct line *)];
};

static uint64_t state = 88172645463325252u;

static uint64_t number(void) {
  /* xorshift64, Marsaglia 2003. */
  state ^= state << 13, state ^= state >> 7, state ^= state << 17;
  return state;
}

static double now(void) {
  struct timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return t.tv_sec + t.tv_nsec * 1e-9;
}

static int ascending(const void *a, const void *b) {
  double d = *(const double *)a - *(const double *)b;
  return (d > 0) - (d < 0);
}

int main(int argc, char **argv) {
  for (int arg = 1; arg < argc; arg++) {
    long kib = atol(argv[arg]);
    size_t bytes = (size_t)kib << 10, lines = bytes / LINE;
    struct line *ring = NULL;
    if (kib < 1 || posix_memalign((void **)&ring, 2u << 20, bytes) != 0) {
      fprintf(stderr, "usage: chase KIB...\n");
      return 2;
    }
    madvise(ring, bytes, MADV_HUGEPAGE);
    /* Sattolo's algorithm on the successors themselves gives one cycle over all lines. */
    for (size_t i = 0; i < lines; i++) ring[i].next = &ring[i];
    for (size_t i = lines - 1; i > 0; i--) {
      size_t j = number() % i;
      struct line *t = ring[i].next;
      ring[i].next = ring[j].next, ring[j].next = t;
    }
    double ns[RUNS];
    struct line *volatile end;
    struct line *p = ring;
    for (int run = -3; run < RUNS; run++) {
      double start = now();
      for (int i = 0; i < LOADS; i++) p = p->next;
      end = p;
      if (run >= 0) ns[run] = (now() - start) / LOADS * 1e9;
    }
    (void)end;
    qsort(ns, RUNS, sizeof *ns, ascending);
    printf("%ld %.3f\n", kib, ns[RUNS / 2]);
    free(ring);
  }
  return 0;
}
