/* A plain STREAM to compare the memory suite with: what a C compiler makes of the four loops on all cores.
 *
 *   gcc -O3 -march=native -fopenmp stream.c -o stream
 *   OMP_PROC_BIND=true OMP_PLACES=cores ./stream MIB_PER_ARRAY REPETITIONS [huge]
 *
 * Floats, arrays of the given size, first touched by the threads that use them. One line an op: its name and the GB/s of the
 * median repetition, counted as STREAM does (copy and scale two arrays, add and triad three). With `huge` the arrays ask for
 * huge pages, as those of the suite do; without, they lie in whatever pages malloc gives, as those of STREAM do.
 */
#define _GNU_SOURCE
#include <omp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

static float *array(size_t bytes, int huge) {
  void *p = NULL;
  if (posix_memalign(&p, huge ? 2u << 20 : 4096, bytes) != 0) {
    fprintf(stderr, "stream: no memory for %zu bytes\n", bytes);
    exit(1);
  }
  if (huge) madvise(p, bytes, MADV_HUGEPAGE);
  return p;
}

static void copy(const float *restrict x, float *restrict z, long n) {
#pragma omp parallel for
  for (long i = 0; i < n; i++) z[i] = x[i];
}

static void scale(const float *restrict x, float *restrict z, float s, long n) {
#pragma omp parallel for
  for (long i = 0; i < n; i++) z[i] = s * x[i];
}

static void add(const float *restrict x, const float *restrict y, float *restrict z, long n) {
#pragma omp parallel for
  for (long i = 0; i < n; i++) z[i] = x[i] + y[i];
}

static void triad(const float *restrict x, const float *restrict y, float *restrict z, float s, long n) {
#pragma omp parallel for
  for (long i = 0; i < n; i++) z[i] = x[i] + s * y[i];
}

static int ascending(const void *a, const void *b) {
  double d = *(const double *)a - *(const double *)b;
  return (d > 0) - (d < 0);
}

int main(int argc, char **argv) {
  long mib = argc > 1 ? atol(argv[1]) : 256, reps = argc > 2 ? atol(argv[2]) : 10;
  int huge = argc > 3 && strcmp(argv[3], "huge") == 0;
  if (mib < 1 || reps < 1 || reps > 10000) {
    fprintf(stderr, "usage: stream MIB_PER_ARRAY REPETITIONS [huge]\n");
    return 2;
  }
  size_t bytes = (size_t)mib << 20;
  long n = (long)(bytes / sizeof(float));
  float *x = array(bytes, huge), *y = array(bytes, huge), *z = array(bytes, huge);
#pragma omp parallel for
  for (long i = 0; i < n; i++) x[i] = 1.0f, y[i] = 2.0f, z[i] = 0.0f;

  const char *names[] = {"copy", "scale", "add", "triad"};
  const double arrays[] = {2, 2, 3, 3};
  double *seconds = malloc(4 * reps * sizeof *seconds);
  for (long r = -2; r < reps; r++)
    for (int op = 0; op < 4; op++) {
      double start = omp_get_wtime();
      switch (op) {
        case 0: copy(x, z, n); break;
        case 1: scale(x, z, 0.5f, n); break;
        case 2: add(x, y, z, n); break;
        default: triad(x, y, z, 0.5f, n);
      }
      if (r >= 0) seconds[op * reps + r] = omp_get_wtime() - start;
    }
  for (int op = 0; op < 4; op++) {
    qsort(seconds + op * reps, reps, sizeof *seconds, ascending);
    printf("%s %.3f\n", names[op], arrays[op] * bytes / seconds[op * reps + reps / 2] / 1e9);
  }
  /* 1 + 0.5·2 in every element, or the times are of something else. */
  for (long i = 0; i < n; i++)
    if (z[i] != 2.0f) return fprintf(stderr, "stream: element %ld is %g, not 2\n", i, z[i]), 1;
  return 0;
}
