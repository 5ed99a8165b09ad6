// A hipBLASLt that writes what it is told to the file that RP_STUB_LOG names, offers three algorithms of which one does not fit
// the workspace and one does not work, and multiplies f32 on the host, batches too (RP_STUB_BLAS=corrupt: the last element is wrong). With its names replaced and CUBLAS defined it is a cublasLt.
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

typedef void *H;
#ifdef CUBLAS
enum { TRANS = 3, TRANSPOSED = 1, NOT_TRANSPOSED = 0, SCALES = 17, FAST = 25, F64 = 70, BATCH = 5, NOT_SUPPORTED = 15 };
#else
enum { TRANS = 0, TRANSPOSED = 112, NOT_TRANSPOSED = 111, SCALES = 5, FAST = -1, F64 = 7, BATCH = 0, NOT_SUPPORTED = 7 };
#endif
struct desc { int compute, scale, op[2]; };
struct layout { int type; uint64_t rows, cols; int64_t ld, batch, stride; };
#ifdef CUBLAS
struct result { uint64_t solution, algo[7]; size_t workspace; int state; float waves; int reserved[4]; };
_Static_assert(sizeof(struct result) == 96, "the library's own size");
#define RESULT(id, bytes, state) {id, {0}, bytes, state}
#else
struct result { int32_t solution; char algo[12]; size_t most, workspace; int state; float waves; int reserved[4]; };
_Static_assert(sizeof(struct result) == 56, "the library's own size");
#define RESULT(id, bytes, state) {id, "", 0, bytes, state}
#endif

#define LOG(...) do { \
    FILE *log = getenv("RP_STUB_LOG") ? fopen(getenv("RP_STUB_LOG"), "a") : NULL; \
    if (log) fprintf(log, __VA_ARGS__), fclose(log); \
  } while (0)

int hipblasLtCreate(H *h) { *h = malloc(1); return 0; }
int hipblasLtDestroy(H h) { free(h); return 0; }
#ifdef CUBLAS
size_t hipblasLtGetVersion(void) { return 130205; }
#else
int hipblasLtGetVersion(H h, int *v) { *v = 100205; return h ? 0 : 1; }
#endif
int hipblasLtMatmulDescCreate(H *d, int compute, int scale) {
  struct desc desc = {compute, scale, {NOT_TRANSPOSED, NOT_TRANSPOSED}};
  *d = memcpy(malloc(sizeof desc), &desc, sizeof desc);
  LOG("compute %d scale %d", compute, scale);
  return 0;
}
int hipblasLtMatmulDescDestroy(H d) { free(d); return 0; }
int hipblasLtMatmulDescSetAttribute(struct desc *d, int attribute, const void *p, size_t n) {
  int value = n == 4 ? *(const int *)p : *(const char *)p;
  if (n == 8) LOG(" %d=@%llx", attribute, *(const unsigned long long *)p);
  else LOG(" %d=%d", attribute, value);
  int trans = attribute == TRANS || attribute == TRANS + 1, pointer = attribute == SCALES || attribute == SCALES + 1;
  if (trans) d->op[attribute - TRANS] = value;
  int mode = attribute == 31 || attribute == 32;
  return (n == 4 && (trans || mode)) || (n == 8 && pointer) || (n == 1 && attribute == FAST) ? 0 : 3;
}
int hipblasLtMatrixLayoutCreate(H *l, int type, uint64_t rows, uint64_t cols, int64_t ld) {
  struct layout layout = {type, rows, cols, ld, 1, 0};
  *l = memcpy(malloc(sizeof layout), &layout, sizeof layout);
  LOG(" [%d %dx%d ld %d]", type, (int)rows, (int)cols, (int)ld);
  return 0;
}
int hipblasLtMatrixLayoutSetAttribute(struct layout *l, int attribute, const void *p, size_t n) {
  if (attribute == BATCH) l->batch = *(const int *)p;
  if (attribute == BATCH + 1) l->stride = *(const int64_t *)p;
  LOG(" (%d=%lld)", attribute, n == 8 ? *(const long long *)p : (long long)*(const int *)p);
  return 0;
}
int hipblasLtMatrixLayoutDestroy(H l) { free(l); return 0; }
int hipblasLtMatmulPreferenceCreate(H *p) { *p = malloc(1); return 0; }
int hipblasLtMatmulPreferenceDestroy(H p) { free(p); return 0; }
int hipblasLtMatmulPreferenceSetAttribute(H p, int attribute, const void *v, size_t n) {
  LOG(" workspace %d=%zu\n", attribute, *(const size_t *)v);
  return 0;
}
int hipblasLtMatmulAlgoGetHeuristic(H h, struct desc *d, H a, H b, H c, H out, H p, int want, struct result *results, int *got) {
  if (d->compute == F64) return NOT_SUPPORTED;
  struct result all[] = {RESULT(77, 4096, 0), RESULT(78, (size_t)1 << 40, 0), RESULT(79, 0, 7), RESULT(80, 0, 0)};
  *got = want < 4 ? want : 4;
  memcpy(results, all, *got * sizeof *results);
  return 0;
}
int hipblasLtMatmul(H h, struct desc *d, const float *alpha, const float *a, struct layout *la, const float *b, struct layout *lb,
                    const float *beta, const float *c, struct layout *lc, float *out, struct layout *lo, const int *algo, H workspace,
                    size_t bytes, H stream) {
  LOG("solution %d alpha %08x beta %08x workspace %zu\n", *algo, *(const unsigned *)alpha, *(const unsigned *)beta, bytes);
  if (la->type != 0 || c != out) return 0;
  uint64_t k = d->op[0] == TRANSPOSED ? la->rows : la->cols;
  for (int64_t at = 0; at < lo->batch; at++, a += la->stride, b += lb->stride, out += lo->stride)
  for (uint64_t i = 0; i < lo->rows; i++)
    for (uint64_t j = 0; j < lo->cols; j++) {
      float sum = 0;
      for (uint64_t l = 0; l < k; l++)
        sum += a[d->op[0] == TRANSPOSED ? l + i * la->ld : i + l * la->ld] * b[d->op[1] == TRANSPOSED ? j + l * lb->ld : l + j * lb->ld];
      out[i + j * lo->ld] = sum;
    }
  const char *fault = getenv("RP_STUB_BLAS");
  if (fault && !strcmp(fault, "corrupt")) ((float *)c)[lo->rows - 1 + (lo->cols - 1) * lo->ld] += 1000;
  return 0;
}
