// A driver of two devices whose memory is this host's, for tests: every call runs at once. It refuses what a real driver
// refuses (a copy in a direction that the addresses do not have), and ends the process where ours must not call at all:
// freeing in a hold or a capture. It takes a cubin, or PTX of a version that CUDA 12.0 reads.
//
// -DKERNELS: with those of a library that this is linked with, kernels.cpp or attention.cpp (registry.h). -DONCE: a launch of theirs
// that would write again what it wrote is left out, for runs that are timed.
// -DWITHOUT_PARAMETERS: a driver before 12.4, which does not say what a kernel takes. -DCAPABILITY=8: an older chip.
#include <math.h>
#include <pthread.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

typedef void *H;
typedef uint64_t P;
enum { INVALID = 1, MEMORY = 2, NOT_FOUND = 500, CAPTURING = 900, MOST = 4096 };
#ifndef CAPABILITY
#define CAPABILITY 9
#endif
#ifndef L2
#define L2 (1 << 20)
#endif
static const size_t TOTAL = 1 << 30;

static struct { P at; size_t bytes; int host, device; } live[MOST];
static __thread int current;  // the device whose context is current
static int reached[64];       // who reaches the other
static __thread volatile uint32_t *held;
enum { PARAMETERS = 20, BYTES = 128 };  // most of them, and of one
struct kernel { const char *name; size_t sizes[PARAMETERS]; void (*run)(void **); };
// `geometry`: the grid, the block, and its dynamic shared memory.
struct op { int fill, value; P to, from; size_t bytes; struct kernel *kernel; char arguments[PARAMETERS][BYTES]; unsigned geometry[7]; };
static __thread unsigned blocks, threads;  // of the kernel that runs
enum { OPS = 1024 };
struct graph { int n; struct op ops[OPS]; };
static __thread struct graph *capture;
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;  // devices may be driven by a thread each

static int kind(P at, size_t bytes) {  // 0 unknown, 1 device, 2 pinned
  int found = 0;
  pthread_mutex_lock(&lock);
  for (int i = 0; i < MOST && !found; i++)
    if (live[i].at && at >= live[i].at && at + bytes <= live[i].at + live[i].bytes) found = 1 + live[i].host;
  pthread_mutex_unlock(&lock);
  return found;
}
static int take(P *at, size_t bytes, int host) {
  void *p = NULL;
  if (bytes > TOTAL || posix_memalign(&p, 4096, bytes)) return MEMORY;
  pthread_mutex_lock(&lock);
  int i = 0;
  while (i < MOST && live[i].at) i++;
  if (i < MOST) live[i].at = *at = (P)p, live[i].bytes = bytes, live[i].host = host, live[i].device = current;
  pthread_mutex_unlock(&lock);
  return i < MOST ? 0 : MEMORY;
}
static int give(P at) {
  if (capture || (held && !*held)) { fprintf(stderr, "freed in a hold or a capture\n"); abort(); }
  // The word of a hold lives in memory that is itself freed in the end.
  pthread_mutex_lock(&lock);
  int i = 0;
  while (i < MOST && live[i].at != at) i++;
  if (i < MOST) {
    if (held && (P)held >= at && (P)held < at + live[i].bytes) held = NULL;
    free((void *)at);
    live[i].at = 0;
  }
  pthread_mutex_unlock(&lock);
  if (i < MOST) return 0;
  fprintf(stderr, "freed twice\n");
  abort();
}
static int at_device(P at) {
  int device = -1;
  pthread_mutex_lock(&lock);
  for (int i = 0; i < MOST; i++)
    if (live[i].at && !live[i].host && at >= live[i].at && at < live[i].at + live[i].bytes) device = live[i].device;
  pthread_mutex_unlock(&lock);
  return device;
}
static void tick(void **), hold(void **);
static void run(struct op o) {
#ifdef ONCE
  static __thread struct op done[32];
  static __thread int n;
  int ours = o.kernel && !o.kernel->run;
  for (int i = 0; i < n && ours; i++) if (!memcmp(&done[i], &o, sizeof o)) return;
  if (ours) done[n < 32 ? n++ : 31] = o;
  // Operands, and poison where outputs will be; a cache is filled with ones, and a clock tells of nothing else.
  else if (o.kernel ? o.kernel->run != tick && o.kernel->run != hold : o.fill ? o.value != 1 : kind(o.to, 1) == 1) n = 0;
#endif
  if (o.kernel) {
    void *p[PARAMETERS];
    for (int i = 0; i < PARAMETERS; i++) p[i] = &o.arguments[i];
    blocks = o.geometry[0], threads = o.geometry[3];
#ifdef KERNELS
    void rp_stub_kernel(const char *, void **, const unsigned *);
    if (!o.kernel->run) rp_stub_kernel(o.kernel->name, p, o.geometry); else
#endif
    o.kernel->run(p);
  } else if (o.fill) memset((void *)o.to, o.value, o.bytes); else memmove((void *)o.to, (void *)o.from, o.bytes);
}
static int enqueue(struct op o) {
  if (!capture) run(o);
  else if (capture->n < OPS) capture->ops[capture->n++] = o;
  return 0;
}

int cuInit(unsigned f) { return 0; }
int cuDriverGetVersion(int *v) { *v = 13000; return 0; }
#ifndef DEVICES
#define DEVICES 2
#endif
// CUDA_VISIBLE_DEVICES is the driver's own affair: a list of those there are, in its order; it ends at what is none.
static int visible[DEVICES];
int cuDeviceGetCount(int *n) {
  const char *list = getenv("CUDA_VISIBLE_DEVICES");
  *n = 0;
  if (!list) list = "0,1,2,3,4,5,6,7";
  for (; *n < DEVICES && *list >= '0' && *list < '0' + DEVICES; list += list[1] == ',' ? 2 : 1) visible[(*n)++] = *list - '0';
  return 0;
}
int cuDeviceGet(int *d, int i) { int n; cuDeviceGetCount(&n); return i < n ? (*d = visible[i], 0) : 101; }
int cuDeviceGetName(char *s, int n, int d) { snprintf(s, n, d ? "Stub GPU MIG 1g.5gb" : "Stub GPU"); return 0; }
int cuDeviceGetUuid_v2(char *u, int d) { for (int i = 0; i < 16; i++) u[i] = i + 16 * d; return 0; }
int cuDeviceGetPCIBusId(char *s, int n, int d) { snprintf(s, n, "ffff:ff:%02x.0", d); return 0; }
int cuDeviceTotalMem_v2(size_t *n, int d) { *n = TOTAL; return 0; }
int cuDeviceGetAttribute(int *v, int a, int d) {
  *v = a == 13 ? 1500000 : a == 16 ? 4 : a == 38 ? L2 : a == 75 ? CAPABILITY : a == 76 ? (CAPABILITY == 7 ? 5 : 0) : a == 97 ? (CAPABILITY < 8 ? 64 : CAPABILITY < 9 ? 99 : 227) << 10 : 0;
  return 0;
}
int cuDevicePrimaryCtxRetain(H *c, int d) { *c = (H)(intptr_t)(d + 1); return 0; }
int cuDevicePrimaryCtxRelease_v2(int d) { return 0; }
// The device that never gets on where RP_STUB_HANG names it: `5`, or `5:Ring:LL` under that algorithm and protocol alone.
static int stuck(void) {
  const char *v = getenv("RP_STUB_HANG"), *a = getenv("NCCL_ALGO"), *p = getenv("NCCL_PROTO");
  char chosen[64];
  if (!v || !strchr(v, ':')) return !!v;
  snprintf(chosen, sizeof chosen, ":%s:%s", a ? a : "", p ? p : "");
  return !strcmp(strchr(v, ':'), chosen);
}
static int hangs(int d) { return stuck() && atoi(getenv("RP_STUB_HANG")) == d; }
// Nanoseconds that a device's clock is ahead of this host's, by what it was kept busy with: of each copy on the device that
// RP_STUB_SLOW names a second, in which nobody need wait.
static long long ahead[64];
static int enqueue_copy(struct op o) {
  const char *slow = getenv("RP_STUB_SLOW");
  if (slow && atoi(slow) == current) ahead[current] += 1000000000;
  return enqueue(o);
}
// A device waits for another, as the stub of NCCL says.
void rp_stub_wait(int device, int other) { if (ahead[device] < ahead[other]) ahead[device] = ahead[other]; }
int cuCtxSetCurrent(H c) { current = (int)(intptr_t)c - 1; return 0; }
int cuCtxSynchronize(void) { return 0; }
int cuMemGetInfo_v2(size_t *f, size_t *t) { *f = *t = TOTAL; return 0; }
int cuMemAlloc_v2(P *p, size_t n) { return take(p, n, 0); }
int cuMemFree_v2(P p) { return give(p); }
int cuMemHostAlloc(void **p, size_t n, unsigned f) { P at = 0; int e = take(&at, n, 1); *p = (void *)at; return e; }
int cuMemFreeHost(void *p) { return give((P)p); }
int cuMemHostGetDevicePointer_v2(P *d, void *p, unsigned f) { *d = (P)p; return 0; }
int cuMemcpyHtoDAsync_v2(P d, const void *s, size_t n, H q) {
  return kind(d, n) == 1 && kind((P)s, n) != 1 ? enqueue((struct op){0, 0, d, (P)s, n}) : INVALID;
}
int cuMemcpyDtoHAsync_v2(void *d, P s, size_t n, H q) {
  return kind(s, n) == 1 && kind((P)d, n) != 1 ? enqueue((struct op){0, 0, (P)d, s, n}) : INVALID;
}
int cuMemcpyDtoDAsync_v2(P d, P s, size_t n, H q) {
  if (at_device(s) != at_device(d)) return INVALID;
  return kind(s, n) == 1 && kind(d, n) == 1 ? enqueue_copy((struct op){0, 0, d, s, n}) : INVALID;
}
int cuMemcpyAsync(P d, P s, size_t n, H q) { return kind(s, n) && kind(d, n) ? enqueue((struct op){0, 0, d, s, n}) : INVALID; }
int cuMemcpyPeerAsync(P d, H to, P s, H from, size_t n, H q) {
  if (at_device(s) != (intptr_t)from - 1 || at_device(d) != (intptr_t)to - 1) return INVALID;
  return kind(s, n) == 1 && kind(d, n) == 1 ? enqueue((struct op){0, 0, d, s, n}) : INVALID;
}
int cuDeviceCanAccessPeer(int *v, int d, int peer) { *v = d != peer; return 0; }
int cuCtxEnablePeerAccess(H c, unsigned f) { return reached[current]++ ? 704 : (intptr_t)c - 1 == current ? 101 : 0; }
// Page-locking what the system mapped: only what is whole pages, and only once.
static P locked[16];
int cuMemHostRegister_v2(void *p, size_t n, unsigned f) {
  for (int i = 0; i < 16; i++) if (locked[i] == (P)p) return 712;
  for (int i = 0; i < 16; i++) if (!locked[i]) { locked[i] = (P)p; return (P)p % 4096 ? INVALID : 0; }
  return MEMORY;
}
int cuMemHostUnregister(void *p) {
  for (int i = 0; i < 16; i++) if (locked[i] == (P)p) { locked[i] = 0; return 0; }
  fprintf(stderr, "unregistered twice\n");
  abort();
}
int cuMemsetD8Async(P d, uint8_t v, size_t n, H q) { return kind(d, n) ? enqueue((struct op){1, v, d, 0, n}) : INVALID; }
int cuStreamCreate(H *s, unsigned f) { *s = (H)1; return 0; }
int cuStreamDestroy_v2(H s) { return 0; }
int cuStreamWaitEvent(H s, H e, unsigned f) { return e ? 0 : INVALID; }
int cuStreamSynchronize(H s) { return capture ? CAPTURING : 0; }
int cuStreamQuery(H s) { return stuck() ? 600 : 0; }
int cuStreamBeginCapture_v2(H s, int mode) { capture = calloc(1, sizeof *capture); return 0; }
int cuStreamEndCapture(H s, H *g) { *g = capture; capture = NULL; return 0; }
int cuGraphInstantiateWithFlags(H *e, H g, uint64_t f) { *e = memcpy(malloc(sizeof(struct graph)), g, sizeof(struct graph)); return 0; }
int cuGraphLaunch(H e, H s) { struct graph *g = e; for (int i = 0; i < g->n; i++) run(g->ops[i]); return 0; }
int cuGraphDestroy(H g) { free(g); return 0; }
int cuGraphExecDestroy(H e) { free(e); return 0; }
struct event { struct timespec at; int device; };
int cuEventCreate(H *e, unsigned f) { *e = malloc(sizeof(struct event)); return 0; }
int cuEventRecord(H e, H s) {
  struct event *event = e;
  int status = clock_gettime(CLOCK_MONOTONIC, &event->at);
  event->at.tv_sec += ahead[event->device = current] / 1000000000;
  return status;
}
int cuEventSynchronize(H e) { return 0; }
int cuEventQuery(H e) { return hangs(((struct event *)e)->device) ? 600 : 0; }
int cuEventElapsedTime(float *ms, H a, H b) {
  // A clock that stands still: of what is tried the first is taken.
  if (getenv("RP_STUB_STILL")) { *ms = 1; return 0; }
  struct timespec *x = a, *y = b;
  *ms = (y->tv_sec - x->tv_sec) * 1e3 + (y->tv_nsec - x->tv_nsec) * 1e-6;
  return 0;
}
int cuEventDestroy_v2(H e) { free(e); return 0; }

// Kernels: the name, bytes of each parameter, and the same function on the host.
static float normal(uint64_t seed, uint64_t i) {
  uint64_t z = seed + (i + 1) * 0x9E3779B97F4A7C15u;
  z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9u;
  z = (z ^ (z >> 27)) * 0x94D049BB133111EBu;
  z ^= z >> 31;
  int sum = (int)((z & 0xffff) + ((z >> 16) & 0xffff) + ((z >> 32) & 0xffff) + (z >> 48)) - 131070;
  return (float)sum * (float)(1.0 / 37837.0);
}
#define ARG(type, i) (*(type *)p[i])
static void init(void **p) { for (uint64_t i = 0; i < ARG(uint64_t, 2); i++) ARG(float *, 0)[i] = normal(ARG(uint64_t, 1), i); }
static void scale(void **p) { for (uint64_t i = 0; i < ARG(uint64_t, 3); i++) ARG(float *, 1)[i] = ARG(float, 2) * ARG(float *, 0)[i]; }
static void arguments(void **p) {
  uint32_t *out = ARG(uint32_t *, 0);
  memset(out, 0, 32);
  out[0] = ARG(uint32_t, 1), out[1] = ARG(uint32_t, 2), memcpy(out + 2, p[3], 8), out[4] = ARG(uint32_t, 4);
}
static void tick(void **p) { ARG(uint64_t *, 0)[0] = 150000, ARG(uint64_t *, 0)[1] = 100000; }
static void hold(void **p) { held = ARG(volatile uint32_t *, 0); }
static void count(void **p) { ++*ARG(uint32_t *, 0); }
static void copy(void **p) { memmove(ARG(float *, 1), ARG(float *, 0), 4 * ARG(uint64_t, 2)); }
static void triad(void **p) {
  for (uint64_t i = 0; i < ARG(uint64_t, 4); i++) ARG(float *, 2)[i] = fmaf(ARG(float, 3), ARG(float *, 1)[i], ARG(float *, 0)[i]);
}
// Bits of the 4096 floats of a tile, and what each block makes of the tiles that it comes to.
static void staircase(void **p) {
  uint64_t tiles = ARG(uint64_t, 3), steps = ARG(uint64_t, 5);
  if (ARG(uint64_t, 4) || threads != 512) return;
  uint32_t *sums = calloc(tiles, 4), *x = ARG(uint32_t *, 0);
  for (uint64_t i = 0; i < tiles * 4096; i++) sums[i / 4096] += x[i];
  for (unsigned b = 0; b < blocks; b++) {
    uint32_t sum = 0;
    for (uint64_t i = 0, at = tiles * b / blocks; i < steps; i++, at = at + 1 == tiles ? 0 : at + 1) sum += sums[at];
    ARG(uint32_t *, 1)[b] = sum;
  }
  free(sums);
}
static void gather(void **p) {
  uint64_t n = ARG(uint32_t, 4);
  for (uint64_t i = 0; i < ARG(uint64_t, 3); i++) memcpy(ARG(char *, 2) + i * n, ARG(char *, 0) + ARG(uint32_t *, 1)[i] * n, n);
}
static void strided(void **p) {
  for (unsigned b = 0; b < blocks; b++) {
    uint32_t sum = 0;
    for (uint64_t i = b; i < ARG(uint64_t, 2); i += blocks) sum += ARG(uint32_t *, 0)[i * ARG(uint64_t, 3)];
    ARG(uint32_t *, 1)[b] = sum;
  }
}
static void adds(void **p) {
  for (unsigned t = 0; t < blocks * threads; t++) ARG(float *, 0)[(t & (ARG(uint32_t, 1) - 1)) * ARG(uint32_t, 2)] += ARG(uint32_t, 3);
}
static uint64_t permute(uint64_t seed, uint64_t i, uint64_t n) {
  int bits = 0;
  while (bits < 63 && 1ull << bits < n) bits++;
  uint64_t mask = (1ull << bits) - 1;
  int half = (bits + 1) / 2 + (bits == 0);
  do {
    i = (i ^ (seed & mask)) * 0x9E3779B97F4A7C15u & mask, i ^= i >> half;
    i = i * 0xBF58476D1CE4E5B9u + (seed >> 32) & mask, i ^= i >> half;
    i = i * 0x94D049BB133111EBu & mask, i ^= i >> half;
  } while (i >= n);
  return i;
}
static void ring(void **p) {
  uint64_t base = ARG(uint64_t, 0), n = ARG(uint64_t, 1), stride = ARG(uint64_t, 2), seed = ARG(uint64_t, 3);
  for (uint64_t i = 0; i < n; i++) *(uint64_t *)(base + permute(seed, i, n) * stride) = base + permute(seed, (i + 1) % n, n) * stride;
}
static void pursue(void **p) {
  uint64_t at = ARG(uint64_t, 0), steps = ARG(uint64_t, 2) + ARG(uint64_t, 3), *out = ARG(uint64_t *, 1);
  for (uint64_t i = 0; i < steps; i++) at = *(uint64_t *)at;
  out[0] = at, out[1] = 30 * ARG(uint64_t, 3), out[2] = 20 * ARG(uint64_t, 3);
}
static void latencies(void **p) { for (uint64_t i = 0; i < ARG(uint64_t, 2); i++) ARG(uint32_t *, 1)[i] = 200 + i % 100; }
static void chase(void **p) {
  uint64_t at = ARG(uint64_t, 3);
  for (uint64_t i = 0; i < ARG(uint64_t, 4); i++) at = ARG(uint64_t *, 0)[at];
  ARG(uint64_t *, 1)[0] = at;
}

// Elements of 32 or 16 bits (bf16).
static float get(void *x, uint64_t i, int half) {
  if (!half) return ((float *)x)[i];
  uint32_t bits = (uint32_t)((uint16_t *)x)[i] << 16;
  float f;
  memcpy(&f, &bits, 4);
  return f;
}
static void put(void *x, uint64_t i, float f, int half) {
  uint32_t bits;
  memcpy(&bits, &f, 4);
  if (half) ((uint16_t *)x)[i] = (bits + 0x7fff + (bits >> 16 & 1)) >> 16; else ((float *)x)[i] = f;
}
static void init_half(void **p) {
  for (uint64_t i = 0; i < ARG(uint64_t, 2); i++) put(ARG(void *, 0), i, normal(ARG(uint64_t, 1), i), 1);
}
static void init_f16(void **p) {
  for (uint64_t i = 0; i < ARG(uint64_t, 2); i++) ARG(_Float16 *, 0)[i] = normal(ARG(uint64_t, 1), i);
}
// To the nearest, ties to even; 448 at most.
static void init_e4m3(void **p) {
  for (uint64_t i = 0; i < ARG(uint64_t, 2); i++) {
    float f = normal(ARG(uint64_t, 1), i), a = fminf(fabsf(f), 448);
    int e = a > 0x1p-6f ? ilogbf(a) : -6;
    ARG(uint8_t *, 0)[i] = (signbit(f) ? 0x80 : 0) | ((int)nearbyintf(ldexpf(a, 3 - e)) + (e + 6) * 8);
  }
}
static void gemm(void **p, int half) {
  int m = ARG(int, 3), n = ARG(int, 4), k = ARG(int, 5);
  for (int i = 0; i < m; i++)
    for (int j = 0; j < n; j++) {
      double sum = 0;
      for (int l = 0; l < k; l++) sum += (double)get(ARG(void *, 0), (uint64_t)i * k + l, half) * get(ARG(void *, 1), (uint64_t)j * k + l, half);
      put(ARG(void *, 2), (uint64_t)i * n + j, ARG(float, 6) * sum, half);
    }
}
static void gemm_float(void **p) { gemm(p, 0); }
static void gemm_half(void **p) { gemm(p, 1); }
// Both head dimensions are 64, 2 heads.
static void attend(void **p, int group, int queries, int keys, int causal, float scale, int half) {
  double s[4096];
  for (int h = 0; h < 2; h++)
    for (int i = 0; i < queries; i++) {
      double sum = 0;
      for (int j = 0; j < keys; j++) {
        double x = 0;
        for (int d = 0; d < 64; d++)
          x += (double)get(ARG(void *, 0), (h * queries + i) * 64 + d, half) * get(ARG(void *, 1), (h / group * keys + j) * 64 + d, half);
        sum += s[j] = causal && j > i + keys - queries ? 0 : exp(x * scale);
      }
      for (int d = 0; d < 64; d++) {
        double o = 0;
        for (int j = 0; j < keys; j++) o += s[j] * get(ARG(void *, 2), (h / group * keys + j) * 64 + d, half);
        put(ARG(void *, 3), (h * queries + i) * 64 + d, o / sum, half);
      }
    }
}
static void flash_causal(void **p) { attend(p, ARG(int, 4), ARG(int, 5), ARG(int, 6), 1, ARG(float, 7), 1); }
static void flash_portable(void **p) {
  // lengths, sinks, pages, scales, heads, window
  if (ARG(P, 4) || ARG(P, 5) || ARG(P, 6) || ARG(P, 7) || ARG(int, 8) != 2 || ARG(int, 13)) return;
  attend(p, ARG(int, 9), ARG(int, 10), ARG(int, 11), ARG(int, 12), ARG(float, 15), 0);
}
static void softmax(void **p) {
  int queries = ARG(int, 3), keys = ARG(int, 4);
  for (uint64_t r = 0; r < ARG(uint64_t, 2); r++) {
    float *s = ARG(float *, 0) + r * keys, *to = ARG(float *, 1) + r * keys;
    int seen = ARG(int, 5) ? (int)(r % queries) + 1 + keys - queries : keys;
    double sum = 0;
    for (int j = 0; j < seen; j++) sum += exp(s[j] * ARG(float, 6));
    for (int j = 0; j < keys; j++) to[j] = j < seen ? exp(s[j] * ARG(float, 6)) / sum : 0;
  }
}
static struct kernel kernels[] = {
  {"rp_init_f32", {8, 8, 8}, init},
  {"rp_init_bf16", {8, 8, 8}, init_half},
  {"rp_init_f16", {8, 8, 8}, init_f16},
  {"rp_init_e4m3", {8, 8, 8}, init_e4m3},
  {"rp_scale", {8, 8, 4, 8, 4}, scale},
  {"rp_arguments", {8, 4, 4, 8, 4}, arguments},
  {"rp_clock", {8, 8}, tick},
  {"rp_hold", {8, 8}, hold},
  {"rp_count", {8}, count},
  {"rp_copy", {8, 8, 8, 4}, copy},
  {"rp_triad", {8, 8, 8, 4, 8, 4}, triad},
  {"rp_chase", {8, 8, 8, 8, 8}, chase},
  {"rp_staircase", {8, 8, 8, 8, 8, 8}, staircase},
  {"rp_gather_pages", {8, 8, 8, 8, 4}, gather},
  {"rp_gather_rows", {8, 8, 8, 8, 4}, gather},
  {"rp_read_strided", {8, 8, 8, 8}, strided},
  {"rp_add_atomic", {8, 4, 4, 4}, adds},
  {"rp_ring", {8, 8, 8, 8}, ring},
  {"rp_chase_ca", {8, 8, 8, 8}, pursue},
  {"rp_latencies", {8, 8, 8, 8}, latencies},
  {"rp_gemm_tile", {8, 8, 8, 4, 4, 4, 4}, gemm_float},
  {"rp_gemm_mma", {8, 8, 8, 4, 4, 4, 4}, gemm_half},
  {"rp_flash_sm80_bf16_d64_causal", {8, 8, 8, 8, 4, 4, 4, 4}, flash_causal},
  {"rp_flash_portable RP_D=64 RP_DV=64 RP_TYPE=0", {8, 8, 8, 8, 8, 8, 8, 8, 4, 4, 4, 4, 4, 4, 4, 4}, flash_portable},
  {"rp_softmax_f32", {8, 8, 8, 4, 4, 4, 4}, softmax},
};
// A module is the definitions that its program was compiled with: the stub of NVRTC puts them on the first line of what it makes.
int cuModuleLoadDataEx(H *m, const char *image, unsigned n, void *o, void *v) {
  int elf = !memcmp(image, "\177ELF ", 5);
  *m = elf ? strndup(image + 5, strchr(image, '\n') - image - 5) : strdup("");
  return !elf && memcmp(image, "\177ELF", 4) && memcmp(image, ".version 8.0\n", 13) ? 200 : 0;
}
int cuModuleUnload(H m) { free(m); return 0; }
int cuModuleGetFunction(H *f, H m, const char *name) {
  size_t n = strlen(name);
  // `entry`, or `entry RP_D=64 …` of one form alone.
  for (unsigned i = 0; i < sizeof kernels / sizeof *kernels; i++) {
    const char *own = kernels[i].name;
    if (!strncmp(own, name, n) && (!own[n] || (own[n] == ' ' && !strcmp(own + n + 1, m)))) { *f = &kernels[i]; return 0; }
  }
#ifdef KERNELS
  int rp_stub_find(const char *, const char *, char *, size_t *);
  struct kernel *k = calloc(1, sizeof *k);
  k->name = calloc(1, n + strlen(m) + 2);
  if (!rp_stub_find(name, m, (char *)k->name, k->sizes)) { *f = k; return 0; }
#endif
  return NOT_FOUND;
}
int cuFuncGetAttribute(int *v, int a, H f) { *v = a == 0 ? 1024 : a == 4 ? 32 : 0; return 0; }
int cuFuncSetAttribute(H f, int a, int v) { return 0; }
#ifndef WITHOUT_PARAMETERS
int cuFuncGetParamInfo(H f, size_t i, size_t *offset, size_t *bytes) {
  struct kernel *k = f;
  *offset = 0;
  return i < PARAMETERS && (*bytes = k->sizes[i]) ? 0 : INVALID;
}
#endif
int cuLaunchKernel(H f, unsigned gx, unsigned gy, unsigned gz, unsigned bx, unsigned by, unsigned bz, unsigned shared, H s, void **p, void **e) {
  if (gy > 65535 || gz > 65535) return INVALID;
  struct op o = {.kernel = f, .geometry = {gx, gy, gz, bx, by, bz, shared}};
  // A driver without their sizes copies what is there: the tests' caller passes slots of 128 bytes.
  for (int i = 0; i < PARAMETERS && o.kernel->sizes[i]; i++) memcpy(o.arguments[i], p[i], o.kernel->sizes[i]);
  return enqueue(o);
}
// A tensor map as kernels/fibres/cuda.h reads it (HostMap), of four dimensions; refused where a driver refuses.
int cuTensorMapEncodeTiled(void *map, int type, unsigned rank, void *at, const uint64_t *dims, const uint64_t *strides, const unsigned *box,
                           const unsigned *steps, int interleave, int swizzle, int promotion, int fill) {
  struct { void *at; uint64_t dims[4], strides[3]; unsigned box[4], swizzle, element; } m = {at, .swizzle = 16 << swizzle, .element = type ? 2 : 1};
  uint64_t span = dims[0] * m.element;
  int wrong = rank != 4 || (type != 0 && type != 6 && type != 9) || (P)at % 16 || interleave || fill || swizzle < 0 || swizzle > 3;
  for (unsigned i = 0; i < 4 && !wrong; i++) {
    m.dims[i] = dims[i], m.box[i] = box[i];
    wrong |= !dims[i] || dims[i] > 1ull << 32 || !box[i] || box[i] > 256 || steps[i] != 1;
    if (i) m.strides[i - 1] = strides[i - 1], span += (dims[i] - 1) * strides[i - 1], wrong |= strides[i - 1] % 16 || strides[i - 1] >> 40;
  }
  // A row of the box is of whole sixteen bytes, and no wider than its swizzle.
  unsigned row = box[0] * m.element;
  if (wrong || row % 16 || (swizzle && row > m.swizzle) || (P)map % 64 || kind((P)at, span) != 1) return INVALID;
  memset(map, 0, 128);
  memcpy(map, &m, sizeof m);
  return 0;
}
